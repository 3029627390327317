"""What the budget is made of, against tensors that are really allocated."""

import psutil
import pytest
import torch

from rank1_hf import Rank1
from rank1_hf.decoding.kv_cache import RowKV
from rank1_hf.decoding.options import DecodingOptions
from rank1_hf.models import memory
from scripts.planner_check import peak_bytes
from tests import tiny_models
from tests.decoding.fake_cuda import fake_gpu


@pytest.mark.parametrize("options", [{}, {"head_dim": 48}, {"num_key_value_heads": 4, "num_hidden_layers": 3}])
def test_bytes_per_token_are_those_of_the_pool(checkpoint, options):
    reranker = Rank1(checkpoint("llama", **options), device="cpu", max_new_tokens=4)
    reranker.predict(("wings", "air"))
    cache = reranker.decoder._cache
    n_tokens = cache._capacity * 64
    assert cache.n_bytes == n_tokens * memory.kv_bytes_per_token(reranker.model.config, torch.float32)


def test_the_budget_follows_the_free_memory(monkeypatch):
    config = tiny_models.build_model("qwen2", tiny_models.build_tokenizer("qwen2")).config

    def budget(available: int) -> int:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": available}))
        return memory.kv_budget(config, torch.float32, torch.device("cpu"), prefill_tokens=100, n_rows=10)

    per_token = memory.kv_bytes_per_token(config, torch.float32)
    assert abs(budget(10**9 + 10**6) - budget(10**9) - 10**6 * memory.CPU_SHARE / per_token) <= 1
    assert budget(10**9) * per_token < 10**9 * memory.CPU_SHARE
    assert budget(0) == 1


@pytest.mark.parametrize("member", ["0.5b", "7b", "mistral-2501-24b"])
def test_what_is_planned_for_a_gpu_is_what_its_steps_take(member: str, monkeypatch: pytest.MonkeyPatch):
    """The largest steps, on fake tensors, whose bytes are counted."""
    with fake_gpu(member, 1, monkeypatch) as gpu:
        config, n_rows, n_new = gpu.decoder.model.config, 256, 2
        rows = [RowKV() for _ in range(n_rows)]
        gpu.eager([(row, [5]) for row in rows])
        prompt = (RowKV(), [5] * memory.GPU_PREFILL_TOKENS)
        eager = peak_bytes(torch.device("cpu"), lambda: gpu.eager([*((row, [5]) for row in rows), prompt]))
        captured = peak_bytes(torch.device("cpu"), lambda: gpu.captured([(row, [5] * n_new) for row in rows]))
    planned = memory.activation_bytes(
        config, torch.bfloat16, n_tokens=memory.GPU_PREFILL_TOKENS + n_rows, n_rows=n_rows
    )
    in_graphs = memory.activation_bytes(config, torch.bfloat16, n_tokens=n_new * n_rows, n_rows=n_new * n_rows)
    assert (planned, in_graphs) == (pytest.approx(eager, rel=0.2), pytest.approx(captured, rel=0.2))
    both = memory.step_bytes(
        config, torch.bfloat16, n_tokens=memory.GPU_PREFILL_TOKENS + n_rows, n_rows=n_rows, on_gpu=True
    )
    assert both > planned + in_graphs


def test_fewer_rows_are_reckoned_with_where_memory_is_small():
    def steps(rows: int) -> int:
        return 100 + 10 * rows

    rooms = [memory.expected_rows(room, 50, steps) for room in (0, 220, 340, 10**6)]
    assert rooms == [1, 2, 4, 256]


@pytest.mark.gpu
def test_the_budget_of_a_gpu_leaves_what_it_must():
    config = tiny_models.build_model("qwen2", tiny_models.build_tokenizer("qwen2")).config
    half, whole = (
        memory.kv_budget(config, torch.float32, torch.device("cuda"), prefill_tokens=100, n_rows=10, utilization=share)
        for share in (0.5, 1.0)
    )
    _, total = torch.cuda.mem_get_info()
    assert (whole - half) * memory.kv_bytes_per_token(config, torch.float32) == pytest.approx(total / 2, rel=0.05)


@pytest.mark.parametrize("share", [0, -0.1, 1.1])
def test_a_share_that_is_none(checkpoint, share):
    with pytest.raises(ValueError, match="gpu_memory_utilization must be above 0 and at most 1"):
        Rank1(checkpoint("qwen2"), device="cpu", decoding=DecodingOptions(gpu_memory_utilization=share))
