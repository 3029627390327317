"""From a pair to a prompt that leaves room for a chain: how long prompts and chains may be."""

from collections.abc import Sequence
from typing import Literal, Self

from rank1_hf.inputs.values import whole_number
from rank1_hf.models.loading import Checkpoint, context_length
from rank1_hf.prompts.markers import Markers
from rank1_hf.prompts.pair_text import Pair, PairError, Passage, Query
from rank1_hf.prompts.pairs import unpack
from rank1_hf.prompts.prompt import Prompt, PromptEncoder, PromptTooLongError, Truncation

DEFAULT_BUDGET = 8192
"""The official code's `max_output_tokens`."""

MAX_LENGTH = 16000
"""The official code's `context_size`."""

_CLOSE_RESERVE = 8  # what a forced close adds behind a chain besides `</think>`: two line breaks, and pieces that split


class PairEncoder:
    """Encodes pairs within the context, and says how long each one's chain may be.

    Args:
        encoder: text to ids.
        context: the most tokens of prompt and chain together.
        max_new_tokens: the most tokens of a chain; None: `DEFAULT_BUDGET`, or half of a smaller context.
        min_thinking_tokens: a chain that would end with fewer tokens is made to think again.
        truncation: "passage" cuts the end of a passage that does not fit; "error" raises.

    Raises:
        ValueError: no prompt fits beside such a chain, or a chain may have fewer tokens than it must.
    """

    def __init__(
        self,
        encoder: PromptEncoder,
        *,
        context: int,
        max_new_tokens: int | None = None,
        min_thinking_tokens: int = 0,
        truncation: Truncation = "passage",
    ) -> None:
        if truncation not in ("passage", "error"):
            raise ValueError(f"truncation must be 'passage' or 'error', not {truncation!r}")
        self.encoder = encoder
        self.context = context
        self.min_thinking_tokens = min_thinking_tokens
        self.truncation = truncation
        self._close_tokens = _CLOSE_RESERVE + len(encoder.close_ids)
        self._shortest = len(encoder.encode("?", "").ids)
        self.max_new_tokens = min(DEFAULT_BUDGET, context // 2) if max_new_tokens is None else max_new_tokens

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        *,
        template: str | None = None,
        markers: Markers | None = None,
        max_length: int = MAX_LENGTH,
        max_new_tokens: int | None = None,
        min_thinking_tokens: int = 0,
        truncation: Truncation = "passage",
    ) -> Self:
        """That of a checkpoint, whose weights are not needed; `max_length` or the model's own limit is the context.

        Raises:
            ContractError: the tokenizer cannot express the prompt contract.
            TypeError: `markers` are no `Markers`.
            ValueError: as above; or the template lacks its place for the query.
        """
        return cls(
            PromptEncoder(checkpoint.tokenizer, template=template, markers=markers),
            context=min(max_length, context_length(checkpoint.config) or max_length),
            max_new_tokens=max_new_tokens,
            min_thinking_tokens=min_thinking_tokens,
            truncation=truncation,
        )

    @property
    def max_new_tokens(self) -> int:
        """The most tokens of a chain."""
        return self._max_new_tokens

    @max_new_tokens.setter
    def max_new_tokens(self, budget: int) -> None:
        budget = whole_number("max_new_tokens", budget, least=1)
        if self.min_thinking_tokens > budget:
            raise ValueError(
                f"min_thinking_tokens={self.min_thinking_tokens} is more than a chain may have: max_new_tokens={budget}"
            )
        least = self._shortest + 1 + self._close_tokens
        if self.context < least:
            raise ValueError(
                f"a context of {self.context} tokens (the smaller of max_length and the model's own limit) is too "
                f"small: the shortest prompt and a chain of one token need {least}"
            )
        if self._shortest > self.context - max(budget, 1 + self._close_tokens):
            raise ValueError(
                f"max_new_tokens={budget} does not fit: the context is {self.context} tokens (the smaller of "
                f"max_length and the model's own limit) and the shortest prompt needs {self._shortest} of them; "
                f"use at most {self.context - self._shortest}"
            )
        self._max_new_tokens = budget

    @property
    def _prompt_room(self) -> int:
        """The most tokens of a prompt: the context less the budget, but enough to close a chain of one token."""
        return self.context - max(self.max_new_tokens, 1 + self._close_tokens)

    def encode(self, query: Query, passage: Passage) -> Prompt:
        """The prompt of one pair, cut as it will be decoded.

        Raises:
            PairError: the pair cannot be judged.
        """
        return self.encoder.encode(query, passage, max_tokens=self._prompt_room, truncation=self.truncation)

    def chain_limit(self, n_prompt_tokens: int) -> tuple[int, Literal["budget", "context"]]:
        """The most tokens a chain may have behind a prompt of this length, and what reaching that is called."""
        limit = min(self.max_new_tokens, self.chain_room(n_prompt_tokens))
        return limit, "budget" if limit == self.max_new_tokens else "context"

    def chain_room(self, n_prompt_tokens: int) -> int:
        """The most tokens that the context has room for behind a prompt of this length, beside a forced close."""
        return self.context - n_prompt_tokens - self._close_tokens

    def check_lengths(self, pairs: Sequence[Pair]) -> None:
        """With truncation="error", refuse pairs before any work.

        Raises:
            PromptTooLongError: for the first that does not fit.
        """
        if self.truncation != "error":
            return
        for index, pair in enumerate(pairs):
            try:
                self.encode(*unpack(pair))
            except PromptTooLongError as error:
                raise PromptTooLongError(f"pair {index}: {error}") from None
            except PairError:
                pass  # its judgment will say so
