"""The decode loop: greedy, by hand, many rows at a time.

    requests -> Scheduler.plan -> Step -> model -> Flight -> logits -> Chain.advance | verdict -> Decoded

Every row has its own length and position. A row that finishes leaves at once and a waiting request takes its place, so
nobody waits for the slowest. The loop executes what `chain.py` decides: it feeds the tokens of a row's context that the
model has not seen, and gives the chain the token that the model would say next, until the chain has ended; then the
same logits, read at the ids of the two answers, are the verdict.
"""

import logging
import math
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import accumulate

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor
from transformers import PreTrainedModel

from rank1_hf.chain import Chain, ChainRules, SteeringError
from rank1_hf.decoding.attention import token_kernel, use_paged_attention
from rank1_hf.decoding.choosing import chosen
from rank1_hf.decoding.compiled import compile_layers
from rank1_hf.decoding.flight import Flight, NextToken
from rank1_hf.decoding.graphs import DecodeGraphs, can_be_captured
from rank1_hf.decoding.kv_cache import KVCache
from rank1_hf.decoding.memory import EXPECTED_ROWS, GPU_PREFILL_TOKENS, kv_budget
from rank1_hf.decoding.overflow import overflown_layer
from rank1_hf.decoding.placement import device_of, layer_devices
from rank1_hf.decoding.probe import Probe
from rank1_hf.decoding.products import step_sizes
from rank1_hf.decoding.reproducible import ReproducibleScheduler
from rank1_hf.decoding.requests import Decoded, Request
from rank1_hf.decoding.row import Row
from rank1_hf.decoding.scheduler import Plan, Scheduler, Work
from rank1_hf.decoding.step import RowSlice, Step, TokenStep, said_at, tensor_on

logger = logging.getLogger(__name__)

_REFILL_SHARE = 1 / 16  # reckoned for steps with prefill, which are not captured, taking twice as long; 3% of rows wait


@dataclass(slots=True)
class Stats:
    """What the loop has done, for progress displays and benchmarks. Counts since the decoder was made."""

    steps: int = 0
    captured_steps: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    branches: int = 0
    branch_tokens: int = 0
    live_rows: int = 0
    preemptions: int = 0
    out_of_memory: int = 0


class Decoder:
    """Runs a causal LM over many requests.

    Args:
        model: switched to paged attention here; in eval mode.
        rules: what the ids mean to a chain.
        true_id, false_id: where the verdict is read.
        rethinks: how many times a closed chain is reopened.
        max_prefill_tokens: the most prompt tokens a step feeds; None: chosen for the device.
        spare_tokens: what a step costs before its first token (reading the weights, starting the kernels), in tokens:
            speculation happens as far as it pays for that; 0: none; None: chosen for the device.
        kv_cache_tokens: the most tokens the KV cache may hold; None: as many as there is memory for.
        gpu_memory_utilization: the share of a GPU's memory to use in all, where `kv_cache_tokens` is None.
        reproducible: give every pair the same bits whatever else is in the batch; see `reproducible.py` for how.
        cuda_graphs: capture decode steps on a GPU, where the model allows it.
        compile: compile the model's layers with torch.compile; see `compiled.py` for where it pays.
        run_ahead: launch steps before the one before is read; see `flight.py`; None: on a GPU.
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
        spare_tokens: int | None = None,
        kv_cache_tokens: int | None = None,
        gpu_memory_utilization: float = 0.9,
        reproducible: bool = False,
        cuda_graphs: bool = True,
        compile: bool = False,  # noqa: A002
        run_ahead: bool | None = None,
    ) -> None:
        use_paged_attention(model)
        if compile:
            compile_layers(model)
        self.model = model.eval()
        self.rules = rules
        self.stats = Stats()
        self._rethinks = rethinks
        self._scheduler = ReproducibleScheduler if reproducible else Scheduler
        self._device = device_of(model.get_input_embeddings())
        on_cpu = self._device.type == "cpu"
        # A CPU is busy with a few hundred tokens; a GPU needs thousands to be.
        self._max_prefill_tokens = max_prefill_tokens or (512 if on_cpu else GPU_PREFILL_TOKENS)
        # More rows make better use of the weights that a step reads; a reproducible step is always as wide as this.
        rows, spare = (128, 32) if on_cpu else step_sizes(model, self._device)
        self._default_rows = 32 if reproducible else rows
        if reproducible:
            spare_tokens = 0
        self._spare_tokens = spare if spare_tokens is None else spare_tokens
        self._runs_ahead = self._device.type == "cuda" if run_ahead is None else run_ahead
        if kv_cache_tokens is None:
            layers = Counter(layer_devices(model))
            kv_cache_tokens = min(
                kv_budget(
                    model.config,
                    model.dtype,
                    device,
                    n_tokens=self._max_prefill_tokens + EXPECTED_ROWS,
                    n_rows=EXPECTED_ROWS,
                    utilization=gpu_memory_utilization,
                    share=n_layers / layers.total(),
                )
                for device, n_layers in layers.items()
            )
        self._answers = torch.tensor([true_id, false_id], device=device_of(model.get_output_embeddings()))
        self._cache = KVCache(kv_cache_tokens)
        self._graphs: DecodeGraphs | None = None
        if cuda_graphs and not reproducible and token_kernel(self._device) is not None and can_be_captured(model):
            self._graphs = DecodeGraphs(self._read, self._cache, self._device)

    def run(
        self,
        requests: Iterable[Request | None],
        *,
        max_rows: int | None = None,
        on_step: Callable[[Stats], None] | None = None,
    ) -> Iterator[Decoded]:
        """Decode requests, yielding each as it finishes.

        Requests are taken from the iterable as room becomes free, so it may be endless. Closing the iterator (or an
        error, or an interrupt) gives back all memory; what was yielded before is complete.

        Args:
            requests: what to decode.
            max_rows: the most rows that decode together; None: as many as are fast on the device.
            on_step: called after every step.
        """
        with closing(self.steps(requests, max_rows=max_rows, on_step=on_step)) as steps:
            for finished in steps:
                yield from finished

    def steps(
        self,
        requests: Iterable[Request | None],
        *,
        max_rows: int | None = None,
        on_step: Callable[[Stats], None] | None = None,
    ) -> Generator[list[Decoded]]:
        """Decode requests as `run` does, step by step: yields what each step has finished, which is often nothing.

        Requests that come over time: None among them says that there is none at the moment. The loop then goes on with
        the rows it has, and asks again before the next step; it ends when it has none.
        """
        scheduler = self._scheduler(
            iter(requests),
            self._make_row,
            self._cache,
            max_rows=max_rows or self._default_rows,
            max_prefill_tokens=self._max_prefill_tokens,
            spare_tokens=self._spare_tokens,
            runs_ahead=self._runs_ahead,
            refill_share=0.0 if self._graphs is None else _REFILL_SHARE,
        )
        flight: Flight | None = None
        try:
            while True:
                cancelled = scheduler.drop_cancelled()
                if cancelled:
                    yield [decoded for row in cancelled for decoded in row.settle(_failed(row, "cancelled"))]
                # A step in flight is read after the next is launched, where that can be planned without its tokens.
                landing, flight = flight, None
                if landing is not None:
                    landing.forget_overtaken()
                if landing is None or scheduler.may_run_ahead(landing.work):
                    plan = scheduler.plan(ahead=landing is not None)
                    while scheduler.failed:
                        failed = scheduler.failed.pop()
                        yield failed.settle(_too_large(failed))
                    if plan.work:
                        flight = self._try_step(plan, scheduler, landing)
                    elif landing is None:
                        return
                if landing is not None:
                    landed = landing.land()
                    self._count(landing.work)
                    if on_step is not None:
                        on_step(self.stats)
                    yield self._advance_all(landed, scheduler)
        finally:
            self.stats.live_rows = 0
            self.stats.preemptions += scheduler.n_preemptions
            scheduler.close()

    def _make_row(self, request: Request) -> Row:
        chain = Chain(
            request.prompt,
            self.rules,
            limit=request.limit,
            limit_reason=request.limit_reason,
            rethinks=self._rethinks,
            context=request.context,
            steering=request.steering,
        )
        return Row(request, chain)

    def _try_step(self, plan: Plan, scheduler: Scheduler, landing: Flight | None) -> Flight | None:
        """Launch a step; None where the device had no memory for it, with everything as before but fewer rows.

        Behind a step that is still in flight the rows stay, too: once that one has landed, the loop tries again.
        """
        lengths = [work.row.kv.length for work in plan.work]
        self.stats.live_rows = len(scheduler.rows)
        try:
            flight = self._forward(plan, landing)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
        else:
            for work in plan.work:
                scheduler.stepped(work.row)
            return flight
        # Outside of the handler, so that the traceback no longer holds on to the step's tensors.
        for work, length in zip(plan.work, lengths, strict=True):
            self._cache.truncate(work.row.kv, length)
        if self._graphs is not None:
            self._graphs.clear()
        clear_device_cache(garbage_collection=True)
        if landing is not None:
            return None
        scheduler.shrink()
        self.stats.out_of_memory += 1
        logger.warning(
            "out of memory with %d rows in a step; going on with %d, the others wait",
            len(plan.work),
            len(scheduler.rows),
        )
        return None

    @torch.inference_mode()
    def _forward(self, plan: Plan, landing: Flight | None) -> Flight:
        """Feed a step, to which a step still in flight may bring tokens."""
        slices: list[RowSlice] = []
        places: dict[Row, range] = {}
        n_tokens = 0
        for work in plan.work:
            row, start = work.row, work.row.kv.length
            self._cache.extend(row.kv, work.n_fed)
            if start < len(row.chain.tokens):
                tokens = row.chain.tokens[start : start + work.n_tokens] + work.draft
            else:
                assert landing is not None  # a row that lacks its next token is in flight
                tokens = [said_at(landing.place(row))]
            slices.append(RowSlice(row.kv, tokens))
            n_tokens += work.n_fed
            if work.completes:
                places[row] = range(n_tokens - len(work.draft) - 1, n_tokens)
        said = None if landing is None else landing.found[:, 0]
        probe = Probe.of(plan.work, self._cache)
        found = None if self._graphs is None or probe is not None else self._graphs.run(slices, said)
        if found is not None:
            self.stats.captured_steps += 1
        else:
            with_logits = [token for behind in places.values() for token in behind]
            places = _renumbered(places)
            if plan.width is not None:
                with_logits += [0] * (plan.width - len(with_logits))
            step = Step(self._cache, slices, self._device, said=said, width=plan.width, probe=probe)
            with nullcontext() if probe is None else probe.listening(self.model):
                found = self._read(step, tensor_on(self._device, with_logits))
        return Flight(plan.work, found, places, probe)

    def _count(self, step: list[Work]) -> None:
        self.stats.steps += 1
        for work in step:
            if work.row.parent is not None:
                self.stats.branches += work.completes
                self.stats.branch_tokens += work.n_tokens
            elif work.n_tokens == 1:
                self.stats.decode_tokens += 1
            else:
                self.stats.prefill_tokens += work.n_tokens
            self.stats.draft_tokens += len(work.draft)

    def _read(self, step: Step | TokenStep, with_logits: Tensor | int = 0) -> Tensor:
        """What the model says behind some of a step's tokens, or behind all (0).

        Returns:
            [tokens, 4], float32: the likeliest token (every id is exact in float32) and its logit, and the logits of
            true and false; side by side, so that the device is waited for once.
        """
        output = self.model(
            input_ids=step.input_ids,
            position_ids=step.position_ids,
            logits_to_keep=with_logits,
            use_cache=False,
            step=step,
        )
        logits = output.logits[0].float()
        if step.probe is not None:
            step.probe.found(logits)
        highest, tokens = logits.max(dim=-1)
        return torch.column_stack([tokens.float(), highest, logits[:, self._answers]])

    def _advance_all(self, landed: list[tuple[Work, list[NextToken]]], scheduler: Scheduler) -> list[Decoded]:
        """Take what a step says. Gives what it has finished."""
        finished: list[Decoded] = []
        for work, next_tokens in landed:
            decoded = self._advance(work, next_tokens, scheduler)
            if decoded is not None:
                scheduler.release(work.row, wipe=decoded.error is not None)
                finished += work.row.settle(decoded)
        return finished

    def _advance(self, work: Work, next_tokens: list[NextToken], scheduler: Scheduler) -> Decoded | None:
        """Give a row its next token, or its verdict. Returns its outcome if it is finished.

        With a draft, the row goes on as long as the draft said what the model says.
        """
        row = work.row
        for next_token, drafted in zip(next_tokens, [*work.draft, None], strict=True):
            if row.chain.ended is not None:
                return _verdict(row, next_token, self._cache, self.model)
            if not math.isfinite(next_token.logit):  # the maximum is NaN where any logit is
                return _not_finite(row, self._cache, self.model)
            branch = row.chain.branch()
            if branch is not None:
                scheduler.branch(row, branch)
            n_before = len(row.chain.tokens)
            try:
                token = chosen(row, next_token.id, next_token.reading)
                unchanged = row.advance(token)
            except SteeringError as error:
                return _failed(row, str(error))
            row.tell("step", n_before, token, next_token.reading)
            fed = next_token.id if drafted is None else drafted  # by the next step, if it is in flight
            if unchanged < n_before or row.chain.tokens[n_before:] != [fed]:
                self._cache.truncate(row.kv, unchanged)
                break
            self.stats.accepted_tokens += drafted is not None
        return None


def _renumbered(places: dict[Row, range]) -> dict[Row, range]:
    """The places of the same tokens, where all others are left out."""
    lengths = [len(each) for each in places.values()]
    stops = accumulate(lengths)
    return {row: range(stop - n, stop) for row, n, stop in zip(places, lengths, stops, strict=True)}


def _verdict(row: Row, next_token: NextToken, cache: KVCache, model: PreTrainedModel) -> Decoded:
    true_logit, false_logit = next_token.answers
    if not (math.isfinite(true_logit) and math.isfinite(false_logit)):
        return _not_finite(row, cache, model)
    row.tell("verdict", len(row.chain.tokens), None, next_token.reading)
    return Decoded(row.request.index, row.chain.thought, row.chain.ended, true_logit, false_logit)


def _not_finite(row: Row, cache: KVCache, model: PreTrainedModel) -> Decoded:
    n_layers, found = model.config.num_hidden_layers, "the model's logits are not finite (NaN or inf)"
    if model.dtype == torch.float16:
        found = f"float16, which ends at 65,504, overflowed in layer {overflown_layer(cache, row.kv, n_layers)}"
    advice = "try dtype='bfloat16' or 'float32', and check the checkpoint's weights"
    return _failed(row, f"{found} after {len(row.chain.tokens)} tokens; {advice}")


def _too_large(row: Row) -> Decoded:
    return _failed(
        row,
        f"there is no memory for this pair, even alone, after {len(row.chain.tokens)} tokens; lower max_new_tokens or "
        "max_length, raise kv_cache_tokens if you have set it, or use a smaller or quantized model",
    )


def _failed(row: Row, error: str) -> Decoded:
    thought = row.chain.thought or row.chain.tokens[len(row.request.prompt) :]
    return Decoded(row.request.index, thought, None, math.nan, math.nan, error)
