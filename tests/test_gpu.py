"""On a CUDA GPU: the same chains as on the CPU, whatever is done to run them there."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rank1_hf.decoding.flight import Flight
from transformers import AutoConfig

from rank1_hf import Judgment, Rank1
from rank1_hf.decoding.scheduler import Plan
from tests import models

pytestmark = pytest.mark.gpu

PASSAGES = [line for line in models.TEXT.splitlines() if line]
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
    captured, eager = (Rank1(device=DEVICE, dtype="float32", max_new_tokens=48) for _ in range(2))
    eager.decoder._graphs = None
    assert_same(captured.judge(PAIRS), eager.judge(PAIRS))
    assert captured.decoder.stats.captured_steps > eager.decoder.stats.captured_steps == 0


@pytest.mark.parametrize("reproducible", [False, True])
def test_steps_launched_before_the_one_before_is_read(reproducible: bool, monkeypatch: pytest.MonkeyPatch):
    ahead, awaited = (
        Rank1(device=DEVICE, dtype="float32", max_new_tokens=48, reproducible=reproducible) for _ in range(2)
    )
    ahead.decoder._spare_tokens = awaited.decoder._spare_tokens = 0
    awaited.decoder._runs_ahead = False
    expected = awaited.judge(PAIRS)
    assert_same(ahead.judge(PAIRS), expected)
    forward, n_ahead = ahead.decoder._forward, 0

    def not_waiting(plan: Plan, landing: Flight | None) -> Flight:
        nonlocal n_ahead
        n_ahead += landing is not None
        torch.cuda.set_sync_debug_mode("default" if landing is None else "error")
        try:
            return forward(plan, landing)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(ahead.decoder, "_forward", not_waiting)
    assert_same(ahead.judge(PAIRS), expected)  # everything is captured and compiled by now
    assert n_ahead > 0


def test_compiled_layers_change_nothing():
    compiled, plain = (Rank1(device=DEVICE, dtype="float32", max_new_tokens=48, compile=c) for c in (True, False))
    assert_same(compiled.judge(PAIRS), plain.judge(PAIRS))
    assert compiled.decoder.stats.captured_steps > 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_reproducible_bits(dtype: str):
    model = Rank1(device=DEVICE, dtype=dtype, max_new_tokens=48, reproducible=True)
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
    model = Rank1(**options, kv_cache_tokens=10**7)  # more than there will be
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
