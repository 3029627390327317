"""The decode loop: greedy, by hand, many rows at a time.

    requests -> Scheduler.plan -> Step -> model -> InFlightStep -> logits -> Chain.advance | verdict -> Decoded

`plain.py` is the same for one pair at a time; read that first. Every row has its own length and position. A row that
finishes leaves at once and a waiting request takes its place, so that no row waits for the slowest (continuous
batching). The loop executes what `chain.py` decides: it feeds the tokens of a row's context that the model has not
seen, and gives the chain the model's next token, until the chain has ended. Once `</think>` has been fed, the logits at
that position, taken at the ids of the two answers, are the verdict.
"""

import logging
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor
from transformers import PreTrainedModel

from rank1_hf.chains.chain import ChainRules
from rank1_hf.chains.rules import SteeringError
from rank1_hf.decoding.attention import attention_of, check_attention
from rank1_hf.decoding.choosing import chosen_by
from rank1_hf.decoding.defaults import resolve
from rank1_hf.decoding.graphs import DecodeGraphs
from rank1_hf.decoding.in_flight import InFlightStep, NextToken
from rank1_hf.decoding.kernels import kernels_for, pytorch
from rank1_hf.decoding.kernels.contract import Kernels
from rank1_hf.decoding.kv_cache import KVCache
from rank1_hf.decoding.layers import FusedLayers, fuse_layers
from rank1_hf.decoding.options import DecodingOptions
from rank1_hf.decoding.outcomes import not_finite, too_large, verdict
from rank1_hf.decoding.packed import multiplies_rows_alone
from rank1_hf.decoding.plan import Plan, ScheduledRow
from rank1_hf.decoding.probe import Probe
from rank1_hf.decoding.reproducible import ReproducibleScheduler
from rank1_hf.decoding.requests import Decoded, Request
from rank1_hf.decoding.row import Row
from rank1_hf.decoding.scheduler import Scheduler
from rank1_hf.decoding.stats import Stats
from rank1_hf.decoding.step import RowSlice, Step, TokenStep, placeholder
from rank1_hf.decoding.tensors import tensor_on
from rank1_hf.decoding.warm_start import FirstPair, compile_at_launch
from rank1_hf.models.memory import TYPICAL_TOKENS
from rank1_hf.models.placement import device_of, leave_in_place, logits_device

logger = logging.getLogger(__name__)

_REFILL_SHARE = 1 / 16
"""With CUDA graphs, waiting requests are admitted once so many places are free, and not one by one: their prompts
need steps without a graph, which take about twice as long. On average 3% of the places are empty meanwhile."""


class Decoder:
    """Runs a causal LM over many requests.

    Args:
        model: put in eval mode. Its layers are fused in place; it still works as before elsewhere.
        rules: what the ids mean to a chain.
        true_id, false_id: the ids whose logits are the verdict.
        rethinks: how many times a closed chain is reopened.
        options: what the engine does beyond the plain loop. `Decoder.options` says what is in force.
        old_options: fields of `DecodingOptions` by their old names; deprecated.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        rules: ChainRules,
        *,
        true_id: int,
        false_id: int,
        rethinks: int = 0,
        options: DecodingOptions | None = None,
        **old_options: Any,  # noqa: ANN401
    ) -> None:
        check_attention(model)
        self.options = resolve((options or DecodingOptions()).with_old_names(old_options, "Decoder"), model)
        self.model = model.eval()
        self.rules = rules
        self.stats = Stats()
        self.rethinks = rethinks
        self._device = device_of(model.get_input_embeddings())
        self._logits_device = logits_device(model)
        leave_in_place(model, "logits_to_keep")
        self._answers = torch.tensor([true_id, false_id], device=device_of(model.get_output_embeddings()))
        self._cache = KVCache(
            self.options.kv_cache_tokens,
            page_size=self.options.page_size,
            grows_at_once=self._device.type == "cuda",
        )
        own = kernels_for(self._device, model.config, model.dtype) if self.options.kernels else None
        self._kernels: Kernels = own or pytorch
        self._layers = FusedLayers({}, 0)
        if self.options.fuse:
            self._layers = fuse_layers(model, self._kernels, self.options.page_size)
        self._graphs: DecodeGraphs | None = None
        if self.options.graphs:
            self._graphs = DecodeGraphs(model, self._read, self._cache, self._kernels, self._device)
        waits = {
            "kernels that are not compiled yet": self.options.kernels and compile_at_launch(self._device),
            "CUDA graphs of its steps": self._graphs is not None,
        }
        # Logs what the first pair waits for, and then how long it took.
        self._first_pair = FirstPair([what for what, is_needed in waits.items() if is_needed])

    def warm_up(self, prompt: Sequence[int]) -> None:
        """Decode one short prompt, so that the first call finds the KV pools made and the smallest steps captured."""
        list(self.run([Request(0, prompt, n_shared=0, limit=2)]))
        self.stats = Stats()

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
            max_rows: the most rows that decode together; None: `options.batch_size`.
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

        Requests that come over time: None among them means that there is none at the moment. The loop then goes on with
        the rows it has, and asks again before the next step; it ends when it has none.
        """
        scheduler = self._new_scheduler(requests, max_rows)
        in_flight: InFlightStep | None = None
        self._first_pair.asked()
        try:
            while True:
                given_up = _given_up(scheduler)
                if given_up:
                    yield given_up
                plan = _plan(scheduler, in_flight)
                if not plan.rows and not scheduler.failed and in_flight is None:
                    return
                launched = self._launch(plan, scheduler, in_flight) if plan.rows else None
                if in_flight is not None:  # read after the next step is launched, so that the device never waits
                    finished = self._advance_all(in_flight, scheduler)
                    if on_step is not None:
                        on_step(self.stats)
                    if finished:
                        self._first_pair.judged()
                    yield finished
                in_flight = launched
        finally:
            self.stats.live_rows = 0
            self.stats.preemptions += scheduler.n_preemptions
            scheduler.close()

    def _new_scheduler(self, requests: Iterable[Request | None], max_rows: int | None) -> Scheduler:
        options = self.options
        assert options.batch_size is not None
        assert options.prefill_chunk is not None
        max_rows = max_rows or options.batch_size
        self._cache.restore_budget()
        if self._device.type == "cuda":
            self._cache.reserve(max_rows * TYPICAL_TOKENS)
        all_fused = self._layers.begin()
        if self._graphs is not None:
            self._graphs.begin()
        # Steps of one shape give a row the same bits each time, unless each row is computed by itself anyway.
        fixes_shapes = options.reproducible and not (
            self._device.type == "cpu" and all_fused and multiplies_rows_alone(self.model)
        )
        kind = (
            partial(ReproducibleScheduler, shares_steps=options.kernels)
            if fixes_shapes
            else partial(Scheduler, prefill_chunk=options.prefill_chunk)
        )
        return kind(
            iter(requests),
            self._new_row,
            self._cache,
            max_rows=max_rows,
            step_overhead_tokens=(options.step_overhead_tokens or 0) if options.speculate else 0,
            shares_prefixes=options.share_prefixes,
            overlaps=bool(options.overlap),
            refill_share=0.0 if self._graphs is None else _REFILL_SHARE,
        )

    def _new_row(self, request: Request) -> Row:
        return Row(request, request.new_chain(self.rules, self.rethinks))

    def _launch(self, plan: Plan, scheduler: Scheduler, in_flight: InFlightStep | None) -> InFlightStep | None:
        """Launch a step. None: it had no memory, and everything is as before, but with fewer rows or smaller steps."""
        lengths = [part.row.kv.length for part in plan.rows]
        self.stats.live_rows = len(scheduler.rows)
        try:
            launched = self._forward(plan, in_flight)
        except RuntimeError as error:
            if not (should_reduce_batch_size(error) or " out of memory" in str(error)):  # Triton's has no full stop
                raise
            launched = None
        if launched is None:  # outside of the handler, whose traceback holds on to the step's tensors
            for part, length in zip(plan.rows, lengths, strict=True):
                self._cache.truncate(part.row.kv, length)
            self._recover_memory(plan, scheduler, in_flight)
            return None
        for part in plan.rows:
            scheduler.stepped(part.row)
        return launched

    def _recover_memory(self, plan: Plan, scheduler: Scheduler, in_flight: InFlightStep | None) -> None:
        """The device has no memory for a step. With one in flight all rows stay: it is tried again after that one."""
        if self._graphs is not None:
            self._graphs.clear()
        clear_device_cache(garbage_collection=True)
        if in_flight is not None:
            return
        scheduler.shrink()
        self.stats.out_of_memory += 1
        logger.warning(
            "out of memory with %d rows in a step; going on with %d, the others wait",
            len(plan.rows),
            len(scheduler.rows),
        )

    @torch.inference_mode()
    def _forward(self, plan: Plan, in_flight: InFlightStep | None) -> InFlightStep:
        """Feed a step, whose rows may continue with tokens of the step in flight, which only the device knows yet."""
        slices: list[RowSlice] = []
        positions: dict[Row, range] = {}  # which tokens of the step need logits
        n_tokens = 0
        for part in plan.rows:
            row, start = part.row, part.row.kv.length
            self._cache.extend(row.kv, part.n_fed)
            if start < len(row.chain.tokens):
                tokens = row.chain.tokens[start : start + part.n_tokens] + part.draft
            else:
                assert in_flight is not None  # a row that lacks its next token is in flight
                tokens = [placeholder(in_flight.position(row))]
            slices.append(RowSlice(row.kv, tokens))
            n_tokens += part.n_fed
            if part.needs_logits:
                positions[row] = range(n_tokens - len(part.draft) - 1, n_tokens)
        previous_tokens = None if in_flight is None else in_flight.output[:, 0]
        probe = Probe.of(plan.rows, self._cache)
        output = None if self._graphs is None or probe is not None else self._graphs.run(slices, previous_tokens)
        if output is not None:
            self.stats.captured_steps += 1
        else:
            with_logits = [token for behind in positions.values() for token in behind]
            positions = _renumbered(positions)
            with_logits += [0] * (plan.n_logits - len(with_logits))  # in reproducible mode as many in each step
            step = Step(
                self._cache,
                slices,
                self._device,
                previous_tokens=previous_tokens,
                width=plan.width,
                probe=probe,
                kernels=self._kernels,
            )
            with nullcontext() if probe is None else probe.listening(self.model):
                output = self._read(step, tensor_on(self._logits_device, with_logits))
        return InFlightStep(plan.rows, output, positions, probe)

    def _read(self, step: Step | TokenStep, with_logits: Tensor | int = 0) -> Tensor:
        """Read the logits behind some of a step's tokens, or behind all (0).

        Returns:
            [positions, 4], float32: the likeliest token (every id is exact in float32) and its logit, and the logits of
            true and false; side by side, so that the device is waited for once.
        """
        with attention_of(self.model):
            output = self.model(
                input_ids=step.input_ids,
                position_ids=step.position_ids,
                logits_to_keep=with_logits,
                use_cache=False,
                step=step,
                fused=self.options.fuse,
            )
        logits = output.logits[0]  # (positions, vocabulary)
        if step.probe is not None:
            step.probe.found(logits.float())
        return self._kernels.read_logits(logits, self._answers.to(logits.device))

    def _advance_all(self, step: InFlightStep, scheduler: Scheduler) -> list[Decoded]:
        """Wait for a step, and give every row its next token. Returns what is finished."""
        read = step.wait()
        self._count(step.rows)
        finished: list[Decoded] = []
        for part, next_tokens in read:
            decoded = self._advance(part, next_tokens, scheduler)
            if decoded is not None:
                scheduler.release(part.row, wipe=decoded.error is not None)
                finished += part.row.record_outcome(decoded)
        return finished

    def _advance(self, part: ScheduledRow, next_tokens: list[NextToken], scheduler: Scheduler) -> Decoded | None:
        """Give a row its next token, or its verdict. Returns its outcome if it is finished.

        Drafted tokens are accepted while they match the model's argmax.
        """
        row = part.row
        for next_token, drafted in zip(next_tokens, [*part.draft, None], strict=True):
            if row.chain.ended is not None:
                return verdict(row, next_token, self._cache, self.model)
            if not math.isfinite(next_token.logit):  # the maximum is NaN where any logit is
                return not_finite(row, self._cache, self.model)
            n_before = len(row.chain.tokens)
            try:
                branch = row.chain.branch()
                if branch is not None:
                    scheduler.branch(row, branch)
                token = _chosen(row, next_token)
                unchanged = row.advance(token)  # so many leading tokens of the context are as before: their KV stays
            except SteeringError as error:
                return row.failed(str(error))
            row.notify("step", n_before, token, next_token.reading)
            # What stands behind this token's place in the KV cache: the draft, or what the next step, in flight, feeds.
            fed = next_token.id if drafted is None else drafted
            if unchanged < n_before or row.chain.tokens[n_before:] != [fed]:  # the chain went on otherwise
                self._cache.truncate(row.kv, unchanged)
                break
            self.stats.accepted_tokens += drafted is not None
        return None

    def _count(self, rows: list[ScheduledRow]) -> None:
        self.stats.steps += 1
        for part in rows:
            if part.row.parent is not None:
                self.stats.branches += part.needs_logits
                self.stats.branch_tokens += part.n_tokens
            elif part.n_tokens == 1:
                self.stats.decode_tokens += 1
            else:
                self.stats.prefill_tokens += part.n_tokens
            self.stats.draft_tokens += len(part.draft)


def _given_up(scheduler: Scheduler) -> list[Decoded]:
    """The outcomes of rows that were cancelled, or that do not fit into memory."""
    outcomes: list[Decoded] = []
    for row in scheduler.drop_cancelled():
        outcomes += row.record_outcome(row.failed("cancelled"))
    while scheduler.failed:
        row = scheduler.failed.pop()
        outcomes += row.record_outcome(too_large(row))
    return outcomes


def _plan(scheduler: Scheduler, in_flight: InFlightStep | None) -> Plan:
    """The next step; none where that needs the tokens of the step in flight."""
    if in_flight is None:
        return scheduler.plan()
    in_flight.drop_stale_rows()
    return scheduler.plan(overlapping=True) if scheduler.can_overlap(in_flight.rows) else Plan([])


def _renumbered(positions: dict[Row, range]) -> dict[Row, range]:
    """The positions of the same tokens, where all others are left out."""
    lengths = [len(each) for each in positions.values()]
    stops = accumulate(lengths)
    return {row: range(stop - n, stop) for row, n, stop in zip(positions, lengths, stops, strict=True)}


def _chosen(row: Row, next_token: NextToken) -> int:
    """The row's next token: the one given, the likeliest, or what its logits processor chooses."""
    if row.chain.n_given_ahead or row.request.processor is None:
        return (row.chain.given_ahead(1) or [next_token.id])[0]
    assert next_token.reading is not None
    assert next_token.reading.logits is not None  # `Row.needs` asked for them
    return chosen_by(row.request.processor, row.chain.tokens, next_token.reading.logits)
