"""The plain decode loop: one pair at a time, with Transformers' own KV cache. Read this first.

    prompt ids -> model -> likeliest token -> Chain.advance -> ... -> </think> -> model -> verdict

`Chain` decides what the context becomes after each token. All else in this folder gives the same chains, faster.
"""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rank1_hf.chains.chain import ChainRules
from rank1_hf.chains.rules import SteeringError
from rank1_hf.decoding.choosing import chosen_by
from rank1_hf.decoding.requests import Decoded, Request
from rank1_hf.decoding.stats import Stats


class PlainDecoder:
    """Decodes one request after the other. Takes what `Decoder` takes; the model keeps its own attention."""

    def __init__(
        self, model: PreTrainedModel, rules: ChainRules, *, true_id: int, false_id: int, rethinks: int = 0
    ) -> None:
        self.model, self.rules, self.stats = model.eval(), rules, Stats()
        self._answers, self.rethinks = [true_id, false_id], rethinks

    def steps(
        self,
        requests: Iterable[Request | None],
        *,
        max_rows: int | None = None,
        on_step: Callable[[Stats], None] | None = None,
    ) -> Generator[list[Decoded]]:
        """As `Decoder.steps`, with a whole pair a step, and so without a use for `max_rows`."""
        for request in requests:
            yield [] if request is None else [self.decode(request)]
            if on_step is not None:
                on_step(self.stats)

    def run(self, requests: Iterable[Request | None], **options: Any) -> Iterator[Decoded]:  # noqa: ANN401
        """As `Decoder.run`; the options are those of `steps`."""
        for finished in self.steps(requests, **options):
            yield from finished

    @torch.inference_mode()
    def decode(self, request: Request) -> Decoded:
        """Think about one pair, and read the verdict."""
        chain = request.new_chain(self.rules, self.rethinks)
        cache = DynamicCache()
        while True:
            logits = self._next_logits(chain.tokens, cache)  # (vocabulary)
            highest, (true_logit, false_logit) = float(logits.max()), logits[self._answers].tolist()
            needed = [highest] if chain.ended is None else [highest, true_logit, false_logit]
            if not all(map(math.isfinite, needed)):  # the maximum is NaN where any logit is
                return request.failed(chain, "the model's logits are not finite (NaN or inf)")
            if chain.ended is not None:
                return Decoded(request.index, chain.thought, chain.ended, true_logit, false_logit, None, chain.beliefs)
            try:
                branch = chain.branch()  # the chain closed here, where its belief is to be read
                unchanged = chain.advance(chosen_by(request.processor, chain.tokens, logits))
            except SteeringError as error:
                return request.failed(chain, str(error))
            if branch is not None:  # behind `advance`, so that a rule knows a belief one token later, as in the engine
                true_logit, false_logit = self._next_logits(branch.tokens, DynamicCache())[self._answers].tolist()
                if math.isfinite(true_logit - false_logit):
                    chain.believe(len(branch.thought), true_logit - false_logit)
            if unchanged < cache.get_seq_length():  # so many leading tokens stayed as they were; drop the KV of others,
                cache.crop(unchanged - cache.get_seq_length())  # which are counted from the end, as a negative number

    def _next_logits(self, tokens: Sequence[int], cache: DynamicCache) -> Tensor:
        """[vocabulary], float32: the logits behind the context, whose keys and values are added to the cache."""
        unseen = torch.tensor([tokens[cache.get_seq_length() :]], device=self.model.device)  # (1, tokens)
        output = self.model(unseen, None, None, cache, logits_to_keep=1)  # by place: 5.24 renamed the cache's argument
        logits: Tensor = output.logits[0, -1].float()
        return logits
