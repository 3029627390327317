"""What another engine, or the official code, has made of one pair. `files/completions.py` reads it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rank1_hf.chains.chain import Ended


@dataclass(frozen=True, slots=True)
class Completion:
    """One pair's completion, as far as a record tells it; None where it does not.

    Attributes:
        where: where the record stands, for messages.
        query, passage: as `judge` takes them, instructions and dataset prompts not filled in.
        chain: the text behind `<think>`, without what closes it and stands behind that.
        token_ids: the ids that the engine has given for the completion, the closing marker and the answer included.
        opens_again: whether the completion begins with another `<think>`, which is no part of `chain`.
        ended: how the chain ended, as in `Judgment`.
        score, log_odds, label: the verdict. A score that is there and is no number is NaN.
        answers: token -> log-probability at the verdict, of as many as the engine has returned; by text or by id.
        prompt, prompt_ids: what the engine was given.
        template: a dataset prompt that the query was filled into.
        n_prompt_tokens, n_chain_tokens: lengths in tokens, the chain's without its close. Of a chain that ran out of
            tokens its length is its budget.
        query_id, document_id: the ids that rankings and qrels have.
        error: why the engine gives no verdict.
    """

    where: str
    query: Any = None
    passage: Any = None
    chain: str | None = None
    token_ids: tuple[int, ...] | None = None
    opens_again: bool = False
    ended: Ended | None = None
    score: float | None = None
    log_odds: float | None = None
    label: bool | None = None
    answers: Mapping[str | int, float] = field(default_factory=dict)
    prompt: str | None = None
    prompt_ids: tuple[int, ...] | None = None
    template: str | None = None
    n_prompt_tokens: int | None = None
    n_chain_tokens: int | None = None
    query_id: str | None = None
    document_id: str | None = None
    error: str | None = None

    @property
    def is_closed(self) -> bool | None:
        """Whether the model has closed its chain itself."""
        return None if self.ended is None else self.ended == "closed"
