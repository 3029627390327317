"""The ranking's own early exit: passages that can no longer come among the best k stop being thought about."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rank1_hf.chains.beliefs import BeliefAt, BeliefPoint, check_belief_at
from rank1_hf.chains.rules import Rule
from rank1_hf.inputs.values import is_number, is_whole_number
from rank1_hf.tracing.observer import Observer, WatchedPair

if TYPE_CHECKING:
    from rank1_hf.results.judgment import Judgment


@dataclass(frozen=True, slots=True)
class TopKExit:
    """When a passage is given up: as soon as k others lead it by more than a margin, where its belief is read.

    What is compared are the beliefs: the lowest of the others' last beliefs against the
    highest of the passage's own. A chain that has finished is compared by its verdict, one with fewer beliefs than are
    asked for not at all.

    No proof is claimed: beliefs change. Of the best 3 of 20 passages (the Cranfield sample, the embedded model, beliefs
    every 8 tokens) these thresholds keep all, give up 20% of the passages and save 9% of the tokens; with lead=0.5 they
    keep 86% and save 25%. It helps only where a belief foretells the verdict. A 135M checkpoint (rank1-smol) whose
    beliefs do not, up to its last sentence, lost 5 of the best 12 (the best 3 of 25, 4 queries) and saved 4%.
    `scripts/early_exit.py` measures both for any checkpoint; a belief itself costs about 2 tokens.

    Attributes:
        lead: the margin, in log-odds, at least 0.
        beliefs: how many of each chain's last beliefs are compared, at least 1. The one at the start is none of them.
        belief_at: where they are read: behind each sentence, or every so many tokens.
    """

    lead: float = 2.0
    beliefs: int = 2
    belief_at: BeliefAt = "sentences"

    def __post_init__(self) -> None:
        check_belief_at(self.belief_at)
        if not is_number(self.lead) or not self.lead >= 0 or not is_whole_number(self.beliefs, least=1):
            raise ValueError(
                "a top-k exit needs a lead of at least 0 and at least 1 belief, as numbers, "
                f"not {self.lead!r} and {self.beliefs!r}"
            )


class TopKExitRule(Rule, Observer):
    """Stops the chains of passages that can no longer come among the best k: the rule of all chains of one ranking, and
    the observer that collects their verdicts.

    Args:
        k: how many passages are wanted.
        thresholds: when one is given up.
    """

    reads_beliefs = True

    def __init__(self, k: int, thresholds: TopKExit) -> None:
        self.belief_at = thresholds.belief_at
        self._k = k
        self._thresholds = thresholds
        self._lowest: dict[int, float] = {}  # by index, what counts of each for those behind it

    def for_pair(self, index: int) -> Rule:
        """The rule of one passage's chain."""
        return _PassageRule(self, index)

    def finished(self, pair: WatchedPair, judgment: "Judgment") -> None:
        """Its verdict counts, where there is one."""
        self._lowest.pop(pair.index, None)
        if judgment.error is None:
            self.add_verdict(pair.index, judgment.log_odds)

    def add_verdict(self, index: int, log_odds: float) -> None:
        """Take the verdict of a passage that is finished."""
        self._lowest[index] = log_odds

    def should_stop(self, index: int, beliefs: Sequence[BeliefPoint]) -> bool:
        """Whether to stop a passage's chain, where another belief of it has been read."""
        last = [point.log_odds for point in beliefs if point.n_tokens > 0][-self._thresholds.beliefs :]
        if len(last) < self._thresholds.beliefs:
            return False
        self._lowest[index] = min(last)
        ahead = heapq.nlargest(self._k, (low for other, low in self._lowest.items() if other != index))
        return len(ahead) == self._k and ahead[-1] - max(last) > self._thresholds.lead


class _PassageRule(Rule):
    """The rule of one passage's chain."""

    reads_beliefs = True

    def __init__(self, ranking: TopKExitRule, index: int) -> None:
        self.belief_at = ranking.belief_at
        self._ranking = ranking
        self._index = index
        self._n_beliefs = 0

    def stop(self, thought: Sequence[int], beliefs: Sequence[BeliefPoint]) -> bool:
        """Where a belief has been read, as the rule of the ranking decides."""
        if len(beliefs) == self._n_beliefs:
            return False
        self._n_beliefs = len(beliefs)
        return self._ranking.should_stop(self._index, beliefs)


def top_k_exit_rule(top_k: int | None, early_exit: Literal["top_k"] | TopKExit | None) -> TopKExitRule | None:
    """The rule for the arguments of `Rank1.rank`; None: no early exit.

    Raises:
        ValueError: `early_exit` without `top_k`, or it is not what `Rank1.rank` takes.
    """
    if early_exit is None:
        return None
    if early_exit != "top_k" and not isinstance(early_exit, TopKExit):
        raise ValueError(f"early_exit must be 'top_k', a TopKExit or None, not {early_exit!r}")
    if top_k is None:
        raise ValueError("early_exit needs top_k: how many passages are wanted")
    return TopKExitRule(top_k, TopKExit() if early_exit == "top_k" else early_exit)
