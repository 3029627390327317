"""What the budget is made of, against tensors that are really allocated."""

import psutil
import pytest
import torch

from rank1_hf import Rank1
from rank1_hf.models import memory
from tests import tiny_models


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
        Rank1(checkpoint("qwen2"), device="cpu", gpu_memory_utilization=share)
