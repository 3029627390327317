"""What goes into the decode loop and what comes out: token ids and logits, no text."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import LogitsProcessor, LogitsProcessorList

from rank1_hf.chains.beliefs import BeliefPoint
from rank1_hf.chains.chain import Chain, ChainRules, Ended
from rank1_hf.chains.steering import UNSTEERED, Steering
from rank1_hf.decoding.watcher import Watcher


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
        steering: what the caller asks of the chain.
        processor: changes the logits that the chain's tokens are chosen by, never the verdict's. It is called once for
            each token, with the context as input_ids, [1, tokens], and the logits, [1, vocabulary], float32.
        watcher: is notified of what happens to the pair.
        is_cancelled: asked before every step whether the result is wanted no more; what the row holds is then freed,
            and its outcome is an error. It may be answered from another thread. None: it never is.
        generated: what the model has generated for the pair before, as `Chain.generated` has it. The chain goes on
            behind it, as that of a row that was preempted does.
        on_chain: called with the chain when the pair's turn comes; it may be read between any two steps.
    """

    index: int
    prompt: Sequence[int]
    n_shared: int
    limit: int
    limit_reason: Literal["budget", "context"] = "budget"
    context: int | None = None
    steering: Steering = UNSTEERED
    processor: LogitsProcessor | LogitsProcessorList | None = None
    watcher: Watcher | None = None
    is_cancelled: Callable[[], bool] | None = None
    generated: Sequence[int] = ()
    on_chain: Callable[[Chain], None] | None = None

    def new_chain(self, rules: ChainRules, rethinks: int) -> Chain:
        """The pair's chain, behind what was generated before."""
        chain = Chain(
            self.prompt,
            rules,
            limit=self.limit,
            limit_reason=self.limit_reason,
            rethinks=rethinks,
            context=self.context,
            steering=self.steering,
            generated=self.generated,
        )
        if self.on_chain is not None:
            self.on_chain(chain)
        return chain

    def failed(self, chain: Chain, error: str) -> "Decoded":
        """The outcome where there is no verdict, with as much of the chain as there is."""
        return Decoded(self.index, chain.thought_so_far, None, math.nan, math.nan, error, chain.beliefs)


@dataclass(frozen=True, slots=True)
class Decoded:
    """One pair's outcome.

    Attributes:
        index: the request's.
        thought: the chain's token ids, without the closing marker.
        ended: how the chain ended; None where it did not, because of an error.
        true_logit, false_logit: the verdict, float32 values.
        error: why there is no verdict, or None.
        beliefs: what was read at the chain's branches, in order.
    """

    index: int
    thought: Sequence[int]
    ended: Ended | None
    true_logit: float
    false_logit: float
    error: str | None = None
    beliefs: Sequence[BeliefPoint] = ()
