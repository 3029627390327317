"""On a CUDA GPU: the same chains as on the CPU, whatever is done to run them there."""

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from rank1_hf import Judgment, Rank1
from rank1_hf.decoding import kv_cache, loop
from rank1_hf.decoding.in_flight import InFlightStep
from rank1_hf.decoding.options import DecodingOptions
from rank1_hf.decoding.plan import Plan
from rank1_hf.models.memory import EXPECTED_ROWS, GPU_PREFILL_TOKENS, kv_bytes_per_token, step_bytes
from tests import tiny_models

pytestmark = pytest.mark.gpu

PASSAGES = [line for line in tiny_models.TEXT.splitlines() if line]
PAIRS = [(query, passage) for query in ("how do wings carry?", "what does bread need?") for passage in PASSAGES]
DEVICE = "cuda"


def assert_same(ours: list[Judgment], theirs: list[Judgment]) -> None:
    for our, their in zip(ours, theirs, strict=True):
        assert (our.chain, our.ended, our.error) == (their.chain, their.ended, None)
        assert our.log_odds == pytest.approx(their.log_odds, abs=1e-3)


@pytest.mark.parametrize("kind", ["qwen2", "llama", "mistral"])
@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_chains_are_those_of_the_cpu(checkpoint: Callable[..., Path], kind: str, batch_size: int | None):
    folder = checkpoint(kind)
    on_cpu = Rank1(folder, device="cpu", dtype="float32", max_new_tokens=24)
    on_gpu = Rank1(folder, device=DEVICE, dtype="float32", max_new_tokens=24)
    assert_same(on_gpu.judge(PAIRS, batch_size=batch_size), on_cpu.judge(PAIRS))
    assert on_gpu.decoder.stats.captured_steps > 0


def test_graphs_change_nothing():
    captured, eager = (
        Rank1(device=DEVICE, dtype="float32", max_new_tokens=48, decoding=DecodingOptions(graphs=graphs))
        for graphs in (True, False)
    )
    assert_same(captured.judge(PAIRS), eager.judge(PAIRS))
    assert captured.decoder.stats.captured_steps > eager.decoder.stats.captured_steps == 0


@pytest.mark.parametrize("reproducible", [False, True])
def test_steps_launched_before_the_one_before_is_read(reproducible: bool, monkeypatch: pytest.MonkeyPatch):
    ahead, awaited = (
        Rank1(
            device=DEVICE,
            dtype="float32",
            max_new_tokens=48,
            decoding=DecodingOptions(reproducible=reproducible, speculate=False, overlap=overlap),
        )
        for overlap in (True, False)
    )
    expected = awaited.judge(PAIRS)
    assert_same(ahead.judge(PAIRS), expected)
    forward, n_ahead = ahead.decoder._forward, 0

    def not_waiting(plan: Plan, in_flight: InFlightStep | None) -> InFlightStep:
        nonlocal n_ahead
        n_ahead += in_flight is not None
        torch.cuda.set_sync_debug_mode("default" if in_flight is None else "error")
        try:
            return forward(plan, in_flight)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(ahead.decoder, "_forward", not_waiting)
    assert_same(ahead.judge(PAIRS), expected)  # everything is captured and compiled by now
    assert n_ahead > 0


def test_fused_layers_change_nothing():
    fused, own = (
        Rank1(device=DEVICE, dtype="float32", max_new_tokens=48, decoding=DecodingOptions(fuse=fuse))
        for fuse in (True, False)
    )
    assert_same(fused.judge(PAIRS), own.judge(PAIRS))
    assert len(fused.decoder._layers._layers) == fused.model.config.num_hidden_layers


def count_decoding(model: Rank1, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Notes for each step of a model that only decodes whether it was captured."""
    forward, captured = model.decoder._forward, []

    def counted(plan: Plan, in_flight: InFlightStep | None) -> InFlightStep:
        before = model.decoder.stats.captured_steps
        launched = forward(plan, in_flight)
        if all(part.n_tokens == 1 for part in plan.rows):
            captured.append(model.decoder.stats.captured_steps > before)
        return launched

    monkeypatch.setattr(model.decoder, "_forward", counted)
    return captured


def test_graphs_survive_pools_that_move(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(kv_cache, "_INITIAL_PAGES", 1)
    monkeypatch.setattr(loop, "TYPICAL_TOKENS", 1)
    grows = Rank1(device=DEVICE, dtype="float32", max_new_tokens=96)
    captured = count_decoding(grows, monkeypatch)
    expected = Rank1(device="cpu", dtype="float32", max_new_tokens=96).judge(PAIRS)
    for n_pairs in (1, 4, len(PAIRS)):  # more pages each time, behind graphs of the time before
        assert_same(grows.judge(PAIRS[:n_pairs]), expected[:n_pairs])
    assert sum(captured) >= 0.95 * len(captured) > 0
    assert "cannot be captured" not in caplog.text
    assert grows.decoder._cache.n_moves > 0


def test_graphs_survive_another_model_that_forgets_its_own(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Two models in one process, in turns; one of them clears its graphs each time, as when its pools have moved."""
    options = {"dtype": "float32", "max_new_tokens": 48}
    expected = Rank1(device="cpu", **options).judge(PAIRS)
    stays, forgets = (Rank1(device=DEVICE, **options) for _ in range(2))
    captured = [count_decoding(model, monkeypatch) for model in (stays, forgets)]
    for _ in range(3):
        assert_same(forgets.judge(PAIRS[:6]), expected[:6])
        assert_same(stays.judge(PAIRS), expected)
        forgets.decoder._graphs.clear()
        torch.cuda.empty_cache()
        assert_same(stays.judge(PAIRS), expected)
    assert all(sum(steps) >= 0.95 * len(steps) > 0 for steps in captured)
    assert "cannot be captured" not in caplog.text


SHAPE_OF_7B = {"num_attention_heads": 7, "num_key_value_heads": 1, "head_dim": 128, "hidden_size": 896}


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.5), ("float16", 0.1)])
def test_16_bits_with_the_heads_of_a_7b_model(checkpoint: Callable[..., Path], dtype: str, tolerance: float):
    """Head dim 128 and groups of 7. Of chains cut before their first token, so that no token can flip."""
    folder = checkpoint("qwen2", **SHAPE_OF_7B, std=0.03)
    exact = Rank1(folder, device="cpu", dtype="float32").judge(PAIRS, think=False)
    model = Rank1(folder, device=DEVICE, dtype=dtype, max_new_tokens=24)
    for ours, theirs in zip(model.judge(PAIRS, think=False), exact, strict=True):
        assert (ours.error, ours.chain) == (None, "")
        assert ours.log_odds == pytest.approx(theirs.log_odds, abs=tolerance)
    assert all(judgment.error is None for judgment in model.judge(PAIRS))
    assert model.decoder.stats.captured_steps > 0


def test_float32_with_the_heads_of_a_7b_model_gives_the_chains_of_the_cpu(checkpoint: Callable[..., Path]):
    folder = checkpoint("qwen2", **SHAPE_OF_7B, std=0.03)
    on_cpu, on_gpu = (Rank1(folder, device=device, dtype="float32", max_new_tokens=24) for device in ("cpu", DEVICE))
    assert_same(on_gpu.judge(PAIRS), on_cpu.judge(PAIRS))


def test_a_prompt_of_three_chunks_takes_no_more_than_is_planned(checkpoint: Callable[..., Path]):
    """Its scores alone would take tens of times as much, were they all in memory."""
    folder = checkpoint("qwen2", **SHAPE_OF_7B, max_position_embeddings=32_768)
    model = Rank1(folder, device=DEVICE, dtype="bfloat16", max_new_tokens=4, max_length=16_384)
    pair = ("wings", "wing " * 40_000)  # is cut to what fits
    (first,) = model.judge([pair])
    assert (first.error, first.truncated) == (None, True)
    assert first.n_prompt_tokens > 2 * GPU_PREFILL_TOKENS
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    assert model.judge([pair])[0].error is None
    taken = torch.cuda.max_memory_allocated() - before
    config = model.model.config
    context = first.n_prompt_tokens * kv_bytes_per_token(config, torch.bfloat16) // config.num_hidden_layers
    planned = step_bytes(
        config, torch.bfloat16, n_tokens=GPU_PREFILL_TOKENS + EXPECTED_ROWS, n_rows=EXPECTED_ROWS, on_gpu=True
    )
    assert taken < 1.5 * planned + 2 * context


def test_reserved_memory_stays_within_the_budget():
    """The KV cache grows to its budget, and what was freed on the way is not kept besides."""
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    share = (total - free + 2**30) / total
    if share > 0.9:
        pytest.skip("needs a GPU with some free memory")
    model = Rank1(
        device=DEVICE, dtype="float32", max_new_tokens=64, decoding=DecodingOptions(gpu_memory_utilization=share)
    )
    pairs = [(f"{query} {i}", passage) for i in range(12) for query, passage in PAIRS]
    least_free = free
    forward = model.decoder._forward

    def watched(plan: Plan, in_flight: InFlightStep | None) -> InFlightStep:
        nonlocal least_free
        launched = forward(plan, in_flight)
        least_free = min(least_free, torch.cuda.mem_get_info()[0])
        return launched

    model.decoder._forward = watched
    assert all(judgment.error is None for judgment in model.judge(pairs))
    assert total - least_free <= (share + 0.02) * total


def test_a_fresh_decoder_under_tight_memory_judges_all_pairs():
    """Nothing has been captured or compiled before, so that graphs, workspaces and pools all want memory at once."""
    options = {"device": DEVICE, "dtype": "float32", "max_new_tokens": 48}
    expected = Rank1(device="cpu", dtype="float32", max_new_tokens=48).judge(PAIRS)
    gc.collect()
    torch.cuda.empty_cache()
    model = Rank1(**options, decoding=DecodingOptions(kv_cache_tokens=10**7))
    _, total = torch.cuda.mem_get_info()
    for mebibytes in (96, 256):  # cuBLAS takes up to 32 MiB for each stream, which no program can go without
        try:
            torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + mebibytes * 2**20) / total)
            assert_same(model.judge(PAIRS), expected)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_reproducible_bits(dtype: str):
    model = Rank1(device=DEVICE, dtype=dtype, max_new_tokens=48, decoding=DecodingOptions(reproducible=True))
    together = model.judge(PAIRS)
    backwards = model.judge(PAIRS[::-1])[::-1]
    alone = [model.judge([pair])[0] for pair in PAIRS[:5]]
    assert [(j.chain, j.log_odds) for j in together] == [(j.chain, j.log_odds) for j in backwards]
    assert [(j.chain, j.log_odds) for j in together[:5]] == [(j.chain, j.log_odds) for j in alone]


@pytest.mark.parametrize(("quantization", "is_captured"), [("4bit", True), ("8bit", False)])
def test_quantized_weights(quantization: str, is_captured: bool):
    pytest.importorskip("bitsandbytes")
    model = Rank1(device=DEVICE, dtype="bfloat16", quantization=quantization, max_new_tokens=64)
    assert all(judgment.error is None for judgment in model.judge(PAIRS))
    assert (model.decoder.stats.captured_steps > 0) == is_captured


def test_a_real_lack_of_memory_loses_nothing():
    pairs = [(query, f"{passage} {i}") for i in range(8) for query, passage in PAIRS]
    options = {"device": DEVICE, "dtype": "float32", "max_new_tokens": 48}
    expected = Rank1(**options).judge(pairs)
    model = Rank1(**options, decoding=DecodingOptions(kv_cache_tokens=10**7))  # more than there will be
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    try:
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 48 * 2**20) / total)
        assert_same(model.judge(pairs), expected)
        assert model.decoder.stats.out_of_memory > 0
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_layers_on_the_cpu_give_the_same_chains(checkpoint: Callable[..., Path]):
    folder = checkpoint("qwen2", tie_word_embeddings=False)
    names = ["model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "lm_head"]
    layers = AutoConfig.from_pretrained(folder).num_hidden_layers
    device_map = dict.fromkeys(names, 0) | {f"model.layers.{layer}": "cpu" for layer in range(1, layers)}
    split = Rank1(folder, dtype="float32", max_new_tokens=24, device_map=device_map)
    whole = Rank1(folder, device="cpu", dtype="float32", max_new_tokens=24)
    assert_same(split.judge(PAIRS), whole.judge(PAIRS))
    assert split.decoder.stats.captured_steps == 0
