"""What goes into the decode loop and what comes out: token ids and logits, no text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rank1_hf.chain import Ended


@dataclass(frozen=True, slots=True)
class Request:
    """One pair to decode.

    Attributes:
        index: the caller's name for the pair.
        prompt: the prompt's token ids, ending in `<think>`.
        n_shared: how many leading ids are common to the pairs of this query; their KV is computed once.
        limit: the most tokens the chain may have.
        limit_reason: what reaching the limit is called.
        context: the most tokens that prompt, chain and close may have together; None: no bound.
    """

    index: int
    prompt: Sequence[int]
    n_shared: int
    limit: int
    limit_reason: Literal["budget", "context"] = "budget"
    context: int | None = None


@dataclass(frozen=True, slots=True)
class Decoded:
    """One pair's outcome.

    Attributes:
        index: the request's.
        thought: the chain's token ids, without the closing marker.
        ended: how the chain ended; None where it did not, because of an error.
        true_logit, false_logit: the verdict, float32 values.
        error: why there is no verdict, or None.
    """

    index: int
    thought: Sequence[int]
    ended: Ended | None
    true_logit: float
    false_logit: float
    error: str | None = None
