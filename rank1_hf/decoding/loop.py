"""The decode loop: greedy, by hand, many rows at a time.

    requests -> Scheduler.plan -> Step -> model -> logits -> Chain.advance | verdict -> Decoded

Every row has its own length and position. A row that finishes leaves at once and a waiting request takes its place, so
nobody waits for the slowest. The loop executes what `chain.py` decides: it feeds the tokens of a row's context that the
model has not seen, and gives the chain the token that the model would say next, until the chain has ended; then the
same logits, read at the ids of the two answers, are the verdict.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rank1_hf.chain import Chain, ChainRules
from rank1_hf.decoding.attention import use_paged_attention
from rank1_hf.decoding.kv_cache import KVCache
from rank1_hf.decoding.requests import Decoded, Request
from rank1_hf.decoding.row import Row
from rank1_hf.decoding.scheduler import Scheduler, Work
from rank1_hf.decoding.step import RowSlice, Step


@dataclass(slots=True)
class Stats:
    """What the loop has done, for progress displays and benchmarks. Counts since the decoder was made."""

    steps: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    live_rows: int = 0


class Decoder:
    """Runs a causal LM over many requests.

    Args:
        model: switched to paged attention here; in eval mode.
        rules: what the ids mean to a chain.
        true_id, false_id: where the verdict is read.
        rethinks: how many times a closed chain is reopened.
        max_prefill_tokens: the most prompt tokens a step feeds; None: chosen for the device.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rules: ChainRules,
        *,
        true_id: int,
        false_id: int,
        rethinks: int = 0,
        max_prefill_tokens: int | None = None,
    ) -> None:
        use_paged_attention(model)
        self.model = model.eval()
        self.rules = rules
        self.stats = Stats()
        self._answers = [true_id, false_id]
        self._rethinks = rethinks
        self._device: torch.device = model.get_input_embeddings().weight.device
        # A CPU is busy with a few hundred tokens; a GPU needs thousands to be.
        self._max_prefill_tokens = max_prefill_tokens or (512 if self._device.type == "cpu" else 4096)
        self._cache = KVCache()

    def run(
        self,
        requests: Iterable[Request],
        *,
        max_rows: int = 32,
        on_step: Callable[[Stats], None] | None = None,
    ) -> Iterator[Decoded]:
        """Decode requests, yielding each as it finishes.

        Requests are taken from the iterable as room becomes free, so it may be endless. Closing the iterator (or an
        error, or an interrupt) gives back all memory; what was yielded before is complete.

        Args:
            requests: what to decode.
            max_rows: the most rows that decode together.
            on_step: called after every step.
        """
        scheduler = Scheduler(
            iter(requests), self._make_row, self._cache, max_rows=max_rows, max_prefill_tokens=self._max_prefill_tokens
        )
        try:
            while plan := scheduler.plan():
                self.stats.live_rows = len(scheduler.rows)
                complete = [work.row for work in plan if work.completes]
                logits = self._forward(plan)
                for work in plan:
                    scheduler.stepped(work.row)
                if on_step is not None:
                    on_step(self.stats)
                for decoded, row in self._advance(complete, logits):
                    scheduler.release(row, wipe=decoded.error is not None)
                    yield decoded
        finally:
            self.stats.live_rows = 0
            scheduler.close()

    def _make_row(self, request: Request) -> Row:
        chain = Chain(
            request.prompt,
            self.rules,
            limit=request.limit,
            limit_reason=request.limit_reason,
            rethinks=self._rethinks,
        )
        return Row(request, chain)

    @torch.inference_mode()
    def _forward(self, plan: list[Work]) -> Tensor:
        """Feed a step. Returns the next-token logits of the rows that it completes: [rows, vocabulary], float32."""
        slices: list[RowSlice] = []
        last_tokens: list[int] = []
        n_tokens = 0
        for work in plan:
            row, start = work.row, work.row.kv.length
            self._cache.extend(row.kv, work.n_tokens)
            slices.append(RowSlice(row.kv, row.chain.tokens[start : row.kv.length]))
            n_tokens += work.n_tokens
            if work.completes:
                last_tokens.append(n_tokens - 1)
        step = Step(self._cache, slices, self._device)
        self.stats.steps += 1
        self.stats.decode_tokens += len(step.decoding)
        self.stats.prefill_tokens += n_tokens - len(step.decoding)
        output = self.model(
            input_ids=step.input_ids,
            position_ids=step.position_ids,
            logits_to_keep=torch.tensor(last_tokens, dtype=torch.long, device=self._device),
            use_cache=False,
            step=step,
        )
        logits: Tensor = output.logits[0].float()
        return logits

    @torch.inference_mode()
    def _advance(self, rows: list[Row], logits: Tensor) -> list[tuple[Decoded, Row]]:
        """Give every row its next token, or its verdict. Returns the rows that are finished."""
        highest, tokens = (values.tolist() for values in logits.max(dim=-1))
        answers = logits[:, self._answers].tolist()
        finished: list[tuple[Decoded, Row]] = []
        for row, value, token, (true_logit, false_logit) in zip(rows, highest, tokens, answers, strict=True):
            if row.chain.ended is not None:
                finished.append((_verdict(row, true_logit, false_logit), row))
            elif not math.isfinite(value):  # the maximum is NaN where any logit is
                finished.append((_failed(row), row))
            else:
                self._cache.truncate(row.kv, row.chain.advance(token))
        return finished


def _verdict(row: Row, true_logit: float, false_logit: float) -> Decoded:
    if not (math.isfinite(true_logit) and math.isfinite(false_logit)):
        return _failed(row)
    return Decoded(row.request.index, row.chain.thought, row.chain.ended, true_logit, false_logit)


def _failed(row: Row) -> Decoded:
    thought = row.chain.thought or row.chain.tokens[len(row.request.prompt) :]
    error = (
        f"the model's logits are not finite (NaN or inf) after {len(row.chain.tokens)} tokens; "
        "try dtype='bfloat16' or 'float32', and check the checkpoint's weights"
    )
    return Decoded(row.request.index, thought, None, math.nan, math.nan, error)
