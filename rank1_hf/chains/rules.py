"""A caller's own decisions about chains: when they stop, and which tokens they take.

A `Rule` decides for a chain what the model decides otherwise. It may be anybody's code, so only `ask` and
`rule_for_pair` call it: whatever it raises becomes a `SteeringError`, which fails its pair alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rank1_hf.chains.beliefs import BeliefAt, BeliefPoint
from rank1_hf.inputs.choices import refuse_misspelt
from rank1_hf.inputs.values import is_number, is_whole_number, token_ids, truth_value


class SteeringError(RuntimeError):
    """What a caller gave to steer a chain has failed. It costs this pair and no other."""


class Rule:
    """Decides when chains stop and which tokens they take. Subclass it and override what you need.

    One object steers all chains of a call, and is asked about them in any order. So it keeps nothing about a single
    chain: what it needs to know is handed over. A rule that must keep something gives each pair another object, from
    `for_pair`. What it raises fails the pair.

    For example, this stops a chain at its tenth line, and has it begin with words of the caller's::

        class TenLines(Rule):
            def __init__(self, line_break: int, opening: list[int]) -> None:  # ids, from model.tokenizer
                self.line_break, self.opening = line_break, opening

            def stop(self, thought, beliefs):
                return thought.count(self.line_break) >= 10

            def force(self, thought, token):
                return self.opening if not thought else [token]

    Attributes:
        reads_beliefs: whether `stop` wants `beliefs`; reading one costs the few tokens of a forced close.
        belief_at: where they are read.
    """

    reads_beliefs: bool = False
    belief_at: BeliefAt = "sentences"

    def __init_subclass__(cls) -> None:
        """Refuse attributes that are misspelt."""
        super().__init_subclass__()
        refuse_misspelt(cls, ("reads_beliefs", "belief_at"))

    def for_pair(self, index: int) -> "Rule":
        """The rule of one pair's chain, asked for once, when the pair's turn comes; itself, unless it is overridden.

        Args:
            index: the pair's place in the input; equal pairs without a logits processor are decoded once, at the
                first one's.
        """
        return self

    def stop(self, thought: Sequence[int], beliefs: Sequence[BeliefPoint]) -> bool:
        """Whether to close the chain now, before it takes another token.

        Args:
            thought: the chain's token ids so far; empty at the first call.
            beliefs: the verdict at the start and at each place so far, in order; empty without `reads_beliefs`. Each is
                read while the chain takes its next token, and is here one token later: the first call has none.
        """
        return False

    def force(self, thought: Sequence[int], token: int) -> Sequence[int]:
        """The token ids that the chain takes in the place of the model's next token; none: it takes the model's.

        Args:
            thought: the chain's token ids so far.
            token: the model's next token; it may be a closing marker or an EOS.
        """
        return (token,)


class DoNotThink(Rule):
    """Closes every chain before its first token: the verdict of the model without reasoning."""

    def stop(self, thought: Sequence[int], beliefs: Sequence[BeliefPoint]) -> bool:
        """Always."""
        return True


@dataclass(frozen=True)
class EarlyExit(Rule):
    """Stops a chain once its belief is beyond a threshold, on the same side, at consecutive sentence ends.

    Marks with no letter or digit between them ("...", `."`) are one end. A "." right behind a digit is none while
    it may be the point of a number.

    Attributes:
        log_odds: how far from 0 the belief must be.
        sentences: at how many consecutive sentence ends, at least 1. The start of the chain is none.
    """

    log_odds: float = 4.0
    sentences: int = 2
    reads_beliefs = True

    def __post_init__(self) -> None:
        if not is_number(self.log_odds) or not self.log_odds > 0 or not is_whole_number(self.sentences, least=1):
            raise ValueError(
                "an early exit needs log_odds above 0 and at least 1 sentence, as numbers, "
                f"not {self.log_odds!r} and {self.sentences!r}"
            )

    def stop(self, thought: Sequence[int], beliefs: Sequence[BeliefPoint]) -> bool:
        """Whether the last points all lie beyond the threshold."""
        last = [point.log_odds for point in beliefs if point.n_tokens > 0][-self.sentences :]
        settled = min(last, default=0) > self.log_odds or max(last, default=0) < -self.log_odds
        return settled and len(last) == self.sentences


def ask(
    rule: Rule, thought: Sequence[int], beliefs: Sequence[BeliefPoint], token: int, *, vocab_size: int | None = None
) -> tuple[bool, Sequence[int]]:
    """Whether a rule stops a chain here, and what it puts in the place of a token otherwise.

    Raises:
        SteeringError: it has failed, says neither yes nor no to stopping, or forces what is no token id, or none below
            `vocab_size`.
    """
    try:
        answer = rule.stop(thought, beliefs)
        if answer is not None and truth_value("what stop returns", answer):  # a function without a return says None
            return True, ()
        return False, token_ids("what force returns", rule.force(thought, token), vocab_size) or [token]
    except Exception as error:
        raise _failed(rule, error) from error


def rule_for_pair(rule: Rule, index: int) -> Rule:
    """`rule.for_pair`, of a rule that may fail.

    Raises:
        SteeringError: it has failed, or gives something else.
    """
    try:
        own = rule.for_pair(index)
    except Exception as error:
        raise _failed(rule, error) from error
    if not isinstance(own, Rule) or (own.reads_beliefs, own.belief_at) != (rule.reads_beliefs, rule.belief_at):
        raise SteeringError(
            f"the rule {type(rule).__name__} failed: for_pair must give a rule that reads the same beliefs, not {own!r}"
        )
    return own


def _failed(rule: Rule, error: Exception) -> SteeringError:
    return SteeringError(f"the rule {type(rule).__name__} failed: {type(error).__name__}: {error}")
