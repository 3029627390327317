"""The life of one chain: thinking -> (rethink | force-close) -> verdict.

Pure Python over token ids: no torch, no tokenizer, no KV cache. A `Chain` holds the tokens that a row's context
*should* consist of; the decode loop feeds whatever of them is not in the KV cache yet, and hands back the model's next
token. So "what comes next" (think on, close, rethink, force the close) is decided here and only executed there. A
caller who wants it decided otherwise writes a `Rule` (`rules.py`).
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from rank1_hf.chains.beliefs import BeliefPoint
from rank1_hf.chains.rules import SteeringError, ask
from rank1_hf.chains.steering import UNSTEERED, Steering
from rank1_hf.inputs.values import token_ids

Ended = Literal["closed", "budget", "eos", "context", "stopped"]
"""How a chain ended: the model closed it itself, or the loop closed it because the budget was used up, the
model emitted EOS, the context has no room for more, or a rule of the caller stopped it."""

Rewrite = Callable[[Sequence[int], Sequence[int]], list[int]]
"""(prompt, chain) -> a whole new context, prompt included. All are lists of token ids."""


@dataclass(frozen=True, slots=True)
class ChainRules:
    """What the token ids of one tokenizer mean to a chain.

    Attributes:
        close: the token ids of `</think>`: one in rank1 checkpoints, several where the tokenizer has no such token.
            (-1,), which no model says: no chain closes itself.
        eos: the ids that end the model's text; before `</think>` they force the close.
        force_close: rewrites a chain that did not close itself into a closed context, ready for the verdict: it begins
            with the prompt and ends with `close`. Where that does not fit, it is asked again with a shorter chain.
        rethink: rewrites a chain that has just closed into an open context that goes on thinking: it begins with the
            prompt and does not end with `close`.
        vocab_size: how many ids the model knows, which a caller's rule must keep to; None: that is not checked.
        seam: how many of the prompt's last ids a rewrite may change, since a marker of several ids may be tokenized
            together with its neighbours. Then only the last id of `close` is certain at the end.
    """

    close: tuple[int, ...]
    eos: frozenset[int]
    force_close: Rewrite
    rethink: Rewrite
    vocab_size: int | None = None
    seam: int = 0


class Chain:
    """One pair's context while it is decoded, and the decision what it becomes after every token.

    Args:
        prompt: the prompt's token ids, ending in `<think>`.
        rules: the meaning of the ids.
        limit: the most tokens the chain may have, at least 1. Inserted "Wait" tokens count.
        limit_reason: what reaching the limit is called: "budget", or "context" where the context is the tighter bound.
        rethinks: how many times a closed chain is reopened.
        context: the most tokens that prompt, chain and close may have together; None: no bound.
        steering: what the caller asks of it.
        generated: what the model has generated for an earlier chain of the same prompt, which this one goes on with.

    Attributes:
        tokens: the context as it should be: prompt, chain, and the close once there is one.
        thought: the chain's ids, final once `ended` is set: what the model thought, without the closing marker and
            before a forced close cuts it.
        ended: None while thinking. Once set, the model's next logits are the verdict.
        beliefs: what has been read at its branches, in order.
        generated: the tokens that `advance` was given. They decide all else: a chain is where its like was that was
            given the same.
        rewritten: the parts of the context, [start, stop), that its rules or the caller wrote and not the model.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        rules: ChainRules,
        *,
        limit: int,
        limit_reason: Literal["budget", "context"] = "budget",
        rethinks: int = 0,
        context: int | None = None,
        steering: Steering = UNSTEERED,
        generated: Sequence[int] = (),
    ) -> None:
        if limit < 1:
            raise ValueError(f"a chain needs a limit of at least 1 token, not {limit}")
        self.tokens = list(prompt)
        self.ended: Ended | None = None
        self.thought: tuple[int, ...] = ()
        self.beliefs: tuple[BeliefPoint, ...] = ()
        self.generated: list[int] = []
        self.rewritten: list[tuple[int, int]] = []
        self._prompt = tuple(prompt)
        self._rules = rules
        self._limit = limit
        self._limit_reason: Ended = limit_reason
        self._rethinks = rethinks
        self._context = context
        self._steering = steering
        self._n_given = 0  # how many of the tokens given the chain has taken
        self._thinking_from = len(prompt)  # where the current round of thinking begins: a close cannot start before it
        self._failure: SteeringError | None = None  # before the first step, which is when the pair can fail alone
        try:
            if steering.stops_behind_given and not steering.given:
                self._force_close("stopped")
                self.rewritten = [(len(prompt), len(self.tokens))]
            for token in generated:
                if self.ended is None:
                    self.advance(token)
        except SteeringError as failure:
            self._failure = failure

    @property
    def room(self) -> int:
        """How many more tokens the chain may have."""
        return self._limit - self._length(self.tokens)

    @property
    def thought_so_far(self) -> tuple[int, ...]:
        """`thought`, or what it is at this point: without a forced close, which an ended chain may consist of alone."""
        return tuple(self._thinking()) if self.ended is None else self.thought

    @property
    def goes_by_beliefs(self) -> bool:
        """Whether its rule decides by what is read at its branches."""
        return self._steering.rule is not None and self._steering.rule.reads_beliefs

    def given_ahead(self, most: int) -> list[int]:
        """The next of the tokens given, at most so many: what the chain takes whatever the model says."""
        return list(self._steering.given[self._n_given : self._n_given + most])

    @property
    def n_given_ahead(self) -> int:
        """How many of the tokens given the chain has not taken yet."""
        return len(self._steering.given) - self._n_given

    def advance(self, token: int) -> int:
        """Take the model's next token, or the next one given in its place, and decide what the context becomes.

        Returns:
            How many leading tokens of the context are as they were before, so that their KV stays valid.

        Raises:
            RuntimeError: the chain has ended; the next logits are the verdict, not a token.
            SteeringError: the rule, or a rewrite of `ChainRules`, has failed; then or when the chain was made.
        """
        if self._failure is not None:
            raise self._failure
        if self.ended is not None:
            raise RuntimeError("the chain has ended: read the verdict instead of advancing it")
        self.generated.append(token)
        n_before = len(self.tokens)
        unchanged = self._take(token)
        start, n_tokens = min(unchanged, n_before), len(self.tokens)
        if start < n_before or start < n_tokens - 1:
            self.rewritten = [(first, min(stop, start)) for first, stop in self.rewritten if first < start]
            self.rewritten.append((start, n_tokens))
        return unchanged

    def _take(self, token: int) -> int:
        unchanged = len(self.tokens)
        if self.n_given_ahead:
            return self._take_given(unchanged)
        taken: Sequence[int] = (token,)
        if self._steering.rule is not None:
            vocab_size = self._rules.vocab_size
            stops, taken = ask(self._steering.rule, self._thinking(), self.beliefs, token, vocab_size=vocab_size)
            if stops:
                return self._force_close("stopped")
        for token in taken:
            if token in self._rules.eos:
                reopened = self._reopen(self._thinking())
                return self._force_close("eos") if reopened is None else reopened
            self.tokens.append(token)
            if self._has_closed():
                return self._close(unchanged)
            if self.room <= 0:
                return self._force_close(self._limit_reason)
        return unchanged

    def may_end_with(self, token: int) -> bool:
        """Whether the model's verdict might stand behind this token."""
        return token == self._rules.close[-1]

    def branch(self) -> "Chain | None":
        """The chain closed at this point, where its belief is to be read here; else None.

        Raises:
            SteeringError: it cannot be closed.
        """
        if self._steering.belief_at is None or self.ended is not None:
            return None
        thought = self._thinking()
        if not self._steering.belief_at(thought):
            return None
        branch = copy.copy(self)
        branch._force_close("stopped")
        return branch

    def believe(self, n_tokens: int, log_odds: float) -> None:
        """Take the verdict that was read at the branch behind so many tokens."""
        beliefs = (*self.beliefs, BeliefPoint(n_tokens, log_odds))
        self.beliefs = tuple(sorted(beliefs, key=lambda point: point.n_tokens))

    def _take_given(self, unchanged: int) -> int:
        self.tokens += self.given_ahead(1)
        self._n_given += 1
        if not self.n_given_ahead:
            if self._has_closed():
                self.thought, self.ended = tuple(self._closed_thought()), "closed"
            elif self._steering.stops_behind_given:
                return self._force_close("stopped")
            elif self.room <= 0:
                return self._force_close(self._limit_reason)
        return unchanged

    def _thinking(self) -> list[int]:
        return self.tokens[len(self._prompt) :]

    def _length(self, tokens: Sequence[int]) -> int:
        return len(tokens) - len(self._prompt)

    def _has_closed(self) -> bool:
        start = len(self.tokens) - len(self._rules.close)
        return start >= self._thinking_from and tuple(self.tokens[start:]) == self._rules.close

    def _closed_thought(self) -> list[int]:
        return self.tokens[len(self._prompt) : len(self.tokens) - len(self._rules.close)]

    def _close(self, unchanged: int) -> int:
        thought = self._closed_thought()
        if self._rethinks > 0 and len(thought) >= self._steering.min_tokens:
            self._rethinks -= 1
            reopened = self._think_again(thought)
        else:
            reopened = self._reopen(thought)
        if reopened is not None:
            return reopened
        self.thought, self.ended = tuple(thought), "closed"
        return unchanged

    def _reopen(self, thought: list[int]) -> int | None:
        """Go on where a chain would end too early."""
        return self._think_again(thought, lengthens=True) if len(thought) < self._steering.min_tokens else None

    def _think_again(self, thought: list[int], *, lengthens: bool = False) -> int | None:
        """Reopen the chain behind this thought, as `_replace` does; None: there is no room for more.

        Args:
            thought: the chain without its closing marker.
            lengthens: refuse a rewrite that adds nothing, which could be asked for again without end.
        """
        reopened = self._rewrite("rethink", self._rules.rethink, thought)
        if lengthens and self._length(reopened) <= len(thought):
            raise SteeringError(
                f"rethink must add tokens to a chain that is shorter than min_thinking_tokens; it made "
                f"{self._length(reopened)} of {len(thought)}"
            )
        if self._length(reopened) >= self._limit:
            return None
        self._thinking_from = len(reopened)
        return self._replace(reopened)

    def _force_close(self, reason: Ended) -> int:
        thought = shorter = self._thinking()
        closed = self._rewrite("force_close", self._rules.force_close, thought)
        while self._context is not None and len(closed) > self._context:  # tokenized anew, it can become longer
            if not shorter:
                raise SteeringError(
                    f"force_close gives {len(closed)} tokens even for an empty chain, and only {self._context} fit"
                )
            shorter = shorter[: self._context - len(closed)]
            closed = self._rewrite("force_close", self._rules.force_close, shorter)
        self.thought, self.ended = tuple(thought), reason
        return self._replace(closed)

    def _rewrite(self, name: str, rewrite: Rewrite, thought: Sequence[int]) -> list[int]:
        """What a rewrite gives, which may be anybody's code.

        Raises:
            SteeringError: it fails, or gives no context of this prompt, or not an open or closed one as it should.
        """
        rules, prompt = self._rules, list(self._prompt)
        try:
            context = token_ids(f"what {name} returns", rewrite(list(prompt), list(thought)), rules.vocab_size)
        except Exception as error:
            raise SteeringError(f"{name} failed: {type(error).__name__}: {error}") from error
        kept = max(len(prompt) - rules.seam, 0)
        if len(context) < kept or context[:kept] != prompt[:kept]:
            raise SteeringError(f"{name} must return the whole context, which begins with the prompt's token ids")
        certain, close = list(rules.close[-1:] if rules.seam else rules.close), list(rules.close)
        can_close = min(close) >= 0  # else no chain closes but by force, and there is no marker to look for
        if name == "force_close" and can_close and context[-len(certain) :] != certain:
            raise SteeringError(f"force_close must return a context that ends with the closing marker's ids, {certain}")
        if name == "rethink" and context[-len(close) :] == close:
            raise SteeringError(f"rethink must return an open context; this one ends with the closing ids {close}")
        return context

    def _replace(self, tokens: list[int]) -> int:
        unchanged = common_prefix_length(self.tokens, tokens)
        self.tokens = tokens
        # The model must be run on at least one token to give logits, so the last one never counts as fed.
        return min(unchanged, len(tokens) - 1)


def common_prefix_length(a: Sequence[object], b: Sequence[object]) -> int:
    """How many leading elements two sequences share."""
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return length
