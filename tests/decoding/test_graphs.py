"""Captured decode steps, with stand-ins for what needs a GPU: a capture that runs its function again, and a kernel."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import BitsAndBytesConfig

from rank1_hf import Rank1
from rank1_hf.decoding import defaults, graphs, loop
from rank1_hf.decoding.kernels import reference
from rank1_hf.files.beir import SAMPLE, read_beir
from rank1_hf.files.trec import read_run
from rank1_hf.models.memory import MAX_CAPTURED_TOKENS
from tests.decoding.oracle import assert_same


class Recorder:
    """A capture that runs its function again where a graph would be replayed."""

    def __init__(self) -> None:
        self.n_captures = self.n_renewals = 0

    def __call__(self, function: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        self.n_captures += 1
        found = function()
        return found, lambda: found.copy_(function())

    def renew(self) -> None:
        self.n_renewals += 1


class Failing(Recorder):
    """A capture that fails once it has run its function."""

    def __init__(self, error: RuntimeError) -> None:
        super().__init__()
        self.error = error

    def __call__(self, function: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        super().__call__(function)
        raise self.error


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Makes decoders capture their steps, on a CPU."""
    recorder = Recorder()
    for module in (defaults, loop):
        monkeypatch.setattr(module, "kernels_for", lambda *model: reference)
    monkeypatch.setattr(defaults, "has_graphs", lambda device: True)
    monkeypatch.setattr(graphs, "CudaCapture", lambda device: recorder)
    return recorder


@pytest.mark.parametrize("shape", ["qwen2", "llama-one-kv-head", "mistral-sliding", "qwen2-repeats-itself", "pieces"])
@pytest.mark.parametrize("max_rows", [1, 3, 32])
def test_captured_steps_change_nothing(case, recorder: Recorder, shape: str, max_rows: int):
    folder, oracle, requests, expected = case(shape)
    decoder = oracle.decoder(folder)
    assert_same(list(decoder.run(requests, max_rows=max_rows)), expected)
    assert decoder.stats.captured_steps > decoder.stats.steps / 2
    assert 0 < recorder.n_captures < decoder.stats.captured_steps


def test_they_can_be_turned_off(case, recorder: Recorder):
    folder, oracle, requests, expected = case("qwen2")
    decoder = oracle.decoder(folder, graphs=False)
    assert_same(list(decoder.run(requests)), expected)
    assert decoder.stats.captured_steps == recorder.n_captures == 0


@pytest.mark.parametrize("kv_cache_tokens", [256, 700])
def test_preempted_rows_end_as_if_they_had_never_waited(case, recorder: Recorder, kv_cache_tokens: int):
    folder, oracle, requests, expected = case("mistral-sliding")
    decoder = oracle.decoder(folder, kv_cache_tokens=kv_cache_tokens)
    assert_same(list(decoder.run(requests)), expected)
    assert decoder.stats.captured_steps > 0


def test_no_graph_outlives_the_pools_it_reads(case, recorder: Recorder, monkeypatch: pytest.MonkeyPatch):
    folder, oracle, requests, expected = case("qwen2")
    decoder = oracle.decoder(folder)
    decoder._cache._capacity = 1  # so that the pools soon have to grow
    captured_at: list[tuple[int, ...]] = []

    def addresses() -> tuple[int, ...]:
        pools = decoder._cache._keys, decoder._cache._values
        return tuple(pool.data_ptr() for layers in pools for pool in layers.values())

    class Checking(Recorder):
        def __call__(self, function: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
            found, then = function(), addresses()
            captured_at.append(then)

            def replay() -> None:
                assert addresses() == then
                found.copy_(function())
                assert addresses() == then

            return found, replay

    decoder._graphs._capture = Checking()
    assert_same(list(decoder.run(requests, max_rows=3)), expected)
    assert len(set(captured_at)) > 1


def test_a_pool_made_at_its_budget_loses_no_graph(case, recorder: Recorder):
    folder, oracle, requests, expected = case("qwen2")
    decoder = oracle.decoder(folder, kv_cache_tokens=2**16)
    decoder._cache.reserve(2**16)
    n = 4 * len(requests)
    many = [replace(request, index=i) for i, request in zip(range(n), requests * 4, strict=True)]
    assert_same(
        list(decoder.run(many, max_rows=8)),
        [replace(result, index=i) for i, result in zip(range(n), expected * 4, strict=True)],
    )
    assert_same(list(decoder.run(requests, max_rows=3)), expected)
    assert recorder.n_captures == len(decoder._graphs._graphs)


def test_no_capture_of_a_run_is_thrown_away(recorder: Recorder):
    """As on a GPU: the pool made at its budget, many pairs of several queries, drafts, rows that come and go."""
    model = Rank1(device="cpu", dtype="float32", max_new_tokens=32)
    model.decoder._cache.reserve(2**16)
    model.decoder._graphs.clear()  # what was captured while the model was loaded, with a CPU's small pool
    recorder.n_captures = recorder.n_renewals = 0
    collection, run = read_beir(SAMPLE), read_run(SAMPLE / "bm25.trec")
    pairs = [(collection.queries[q], collection.corpus[d].passage) for q, found in run.items() for d in found]
    assert all(judgment.error is None for judgment in model.judge(pairs[:24], batch_size=8))
    stats = model.decoder.stats
    assert stats.draft_tokens > 0
    assert recorder.n_captures == len(model.decoder._graphs._graphs)
    assert recorder.n_renewals == 1  # as the first step finds the pool moved
    assert recorder.n_captures < stats.captured_steps / 4


def test_a_step_that_nearly_fits_a_captured_one_uses_it(case, recorder: Recorder):
    folder, oracle, requests, _ = case("qwen2")
    decoder = oracle.decoder(folder)
    list(decoder.run(requests, max_rows=8))
    heights = sorted(height for height, _ in decoder._graphs._graphs)
    assert decoder._graphs._shape(heights[-1] - 1, 1)[0] in heights
    assert decoder._graphs._shape(heights[-1] + 1, 1)[0] not in heights


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("operation not permitted when stream is capturing"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        torch.OutOfMemoryError("CUDA error: out of memory"),
    ],
    ids=str,
)
def test_a_capture_that_fails_costs_the_graphs_and_no_pair(case, recorder: Recorder, error, caplog):
    folder, oracle, requests, expected = case("qwen2")
    decoder = oracle.decoder(folder)
    decoder._graphs._capture = failing = Failing(error)
    assert_same(list(decoder.run(requests)), expected)
    assert decoder.stats.captured_steps == decoder.stats.out_of_memory == 0
    assert failing.n_captures == caplog.text.count("cannot be captured") == 1


def test_a_forward_hook_sees_every_step(case, recorder: Recorder):
    folder, oracle, requests, expected = case("qwen2")
    decoder = oracle.decoder(folder)
    assert_same(list(decoder.run(requests)), expected)
    n_captured = decoder.stats.captured_steps
    n_steps, n_seen = decoder.stats.steps, []
    hook = decoder.model.base_model.layers[0].register_forward_hook(lambda *args: n_seen.append(1))
    assert_same(list(decoder.run(requests)), expected)
    assert len(n_seen) == decoder.stats.steps - n_steps
    hook.remove()
    assert_same(list(decoder.run(requests)), expected)
    assert decoder.stats.captured_steps == 2 * n_captured


def test_a_forward_that_is_patched_is_captured_anew(case, recorder: Recorder):
    folder, oracle, requests, expected = case("qwen2")
    decoder = oracle.decoder(folder)
    assert_same(list(decoder.run(requests)), expected)
    before = dict(decoder._graphs._graphs)
    layer = decoder.model.base_model.layers[0]
    layer.forward = partial(layer.forward)
    assert_same(list(decoder.run(requests)), expected)
    assert not set(map(id, before.values())) & set(map(id, decoder._graphs._graphs.values()))


def test_llm_int8_is_not_captured(case, recorder: Recorder, caplog):
    folder, oracle, _, _ = case("qwen2")
    model = oracle.decoder(folder).model
    assert graphs.can_be_captured(model)
    model.config.quantization_config = BitsAndBytesConfig(load_in_4bit=True)
    assert graphs.can_be_captured(model)
    model.config.quantization_config = BitsAndBytesConfig(load_in_8bit=True)
    with caplog.at_level("INFO"):
        assert not graphs.can_be_captured(model)
    assert "without CUDA graphs" in caplog.text


@given(st.integers(1, MAX_CAPTURED_TOKENS))
def test_a_quarter_of_a_step_is_padding_at_most(n_tokens: int):
    assert n_tokens <= graphs._padded_tokens(n_tokens) <= n_tokens * 1.25


def test_there_are_few_shapes():
    heights = {graphs._padded_tokens(n) for n in range(1, MAX_CAPTURED_TOKENS + 1)}
    widths = {graphs._padded_pages(n) for n in range(1, 257)}
    assert (len(heights), len(widths)) == (32, 5)
