"""The life of one chain: thinking -> (rethink | force-close) -> verdict.

Pure Python over token ids: no torch, no tokenizer, no KV cache. A `Chain` holds the tokens that a row's context
*should* consist of; the decode loop feeds whatever of them is not in the KV cache yet, and hands back the model's next
token. So "what comes next" (think on, close, rethink, force the close) is decided here and only executed there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Ended = Literal["closed", "budget", "eos", "context"]
"""How a chain ended: the model closed it itself, or the loop closed it because the budget was used up, the
model emitted EOS, or the context has no room for more."""

Rewrite = Callable[[Sequence[int], Sequence[int]], list[int]]
"""(prompt, chain) -> a whole new context, prompt included. Both lists are token ids."""


@dataclass(frozen=True, slots=True)
class ChainRules:
    """What the token ids of one tokenizer mean to a chain.

    Attributes:
        close: the token ids of `</think>`: one in rank1 checkpoints, several where the tokenizer has no such token.
        eos: the ids that end the model's text; before `</think>` they force the close.
        force_close: rewrites a chain that did not close itself into a closed context, ready for the verdict.
        rethink: rewrites a chain that has just closed into an open context that goes on thinking.
    """

    close: tuple[int, ...]
    eos: frozenset[int]
    force_close: Rewrite
    rethink: Rewrite


class Chain:
    """One pair's context while it is decoded, and the decision what it becomes after every token.

    Args:
        prompt: the prompt's token ids, ending in `<think>`.
        rules: the meaning of the ids.
        limit: the most tokens the chain may have, at least 1. Inserted "Wait" tokens count.
        limit_reason: what reaching the limit is called: "budget", or "context" where the context is the tighter bound.
        rethinks: how many times a closed chain is reopened.
        context: the most tokens that prompt, chain and close may have together; None: no bound.

    Attributes:
        tokens: the context as it should be: prompt, chain, and the close once there is one.
        thought: the chain's ids, final once `ended` is set: what the model thought, without the closing marker and
            before a forced close cuts it.
        ended: None while thinking. Once set, the model's next logits are the verdict.
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
    ) -> None:
        if limit < 1:
            raise ValueError(f"a chain needs a limit of at least 1 token, not {limit}")
        self.tokens = list(prompt)
        self.ended: Ended | None = None
        self.thought: tuple[int, ...] = ()
        self._prompt = tuple(prompt)
        self._rules = rules
        self._limit = limit
        self._limit_reason: Ended = limit_reason
        self._rethinks = rethinks
        self._context = context
        self._thinking_from = len(prompt)  # where the current round of thinking begins: a close cannot start before it

    @property
    def room(self) -> int:
        """How many more tokens the chain may have."""
        return self._limit - self._length(self.tokens)

    def advance(self, token: int) -> int:
        """Take the model's next token and decide what the context becomes.

        Returns:
            How many leading tokens of the context are as they were before, so that their KV stays valid.

        Raises:
            RuntimeError: the chain has ended; the next logits are the verdict, not a token.
        """
        if self.ended is not None:
            raise RuntimeError("the chain has ended: read the verdict instead of advancing it")
        unchanged = len(self.tokens)
        if token in self._rules.eos:
            return self._force_close("eos")
        self.tokens.append(token)
        if self._has_closed():
            return self._close(unchanged)
        if self.room <= 0:
            return self._force_close(self._limit_reason)
        return unchanged

    def _length(self, tokens: Sequence[int]) -> int:
        return len(tokens) - len(self._prompt)

    def _has_closed(self) -> bool:
        start = len(self.tokens) - len(self._rules.close)
        return start >= self._thinking_from and tuple(self.tokens[start:]) == self._rules.close

    def _close(self, unchanged: int) -> int:
        thought = self.tokens[len(self._prompt) : len(self.tokens) - len(self._rules.close)]
        if self._rethinks > 0:
            self._rethinks -= 1
            reopened = self._rules.rethink(self._prompt, thought)
            if self._length(reopened) < self._limit:
                self._thinking_from = len(reopened)
                return self._replace(reopened)
        self.thought, self.ended = tuple(thought), "closed"
        return unchanged

    def _force_close(self, reason: Ended) -> int:
        thought = self.tokens[len(self._prompt) :]
        self.thought, self.ended = tuple(thought), reason
        closed = self._rules.force_close(self._prompt, thought)
        if self._context is not None and len(closed) > self._context:  # tokenized anew, a chain can become longer
            closed = [*closed[: self._context - len(self._rules.close)], *self._rules.close]
        return self._replace(closed)

    def _replace(self, tokens: list[int]) -> int:
        unchanged = common_prefix_length(self.tokens, tokens)
        self.tokens = tokens
        # The model must be run on at least one token to give logits, so the last one never counts as fed.
        return min(unchanged, len(tokens) - 1)


def common_prefix_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading elements two sequences share."""
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return length
