"""Paged attention of one step against plain attention of every row alone."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rank1_hf.decoding.attention import paged_attention
from rank1_hf.decoding.kernels.contract import MAX_BATCHED_NEW_TOKENS
from rank1_hf.decoding.kv_cache import KVCache, RowKV
from rank1_hf.decoding.step import RowSlice, Step

HEADS, HEAD_DIM = 6, 8
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def plain_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, n_new: int, window: int | None = None, scaling: float = 0.3
) -> torch.Tensor:
    """The last `n_new` of a row's tokens over all of it: [tokens, heads, head dim], by the definition, in float64."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.double().repeat_interleave(group, dim=1) for x in (k, v))
    position = torch.arange(len(k), device=k.device)
    distance = position[-n_new:, None] - position
    hidden = distance < 0
    if window is not None:
        hidden |= distance >= window
    scores = torch.einsum("qhd,khd->hqk", q.double(), k) * scaling
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), v)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize("window", [None, 1, 20, 100])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.04)])
def test_a_mixed_step(device: str, kv_heads: int, window: int | None, dtype: torch.dtype, tolerance: float):
    torch.manual_seed(0)
    module = nn.Module()
    module.layer_idx = 0
    cache = KVCache()
    lengths = [1, 63, 64, 65, 200, 5, 130]
    states = [torch.randn(n, kv_heads, HEAD_DIM, 2, device=device).to(dtype) for n in lengths]
    rows = [RowKV() for _ in lengths]

    def step(news: list[int], contexts: list[int]) -> list[torch.Tensor]:
        order = sorted(range(len(rows)), key=lambda i: news[i] > MAX_BATCHED_NEW_TOKENS)
        order = [i for i in order if news[i]]
        for i in order:
            cache.extend(rows[i], news[i])
        slices = [RowSlice(rows[i], list(range(news[i]))) for i in order]
        queries = {i: torch.randn(news[i], HEADS, HEAD_DIM, device=device).to(dtype) for i in order}
        fresh = {i: states[i][contexts[i] - news[i] : contexts[i]] for i in order}
        packed = [
            torch.cat([part[i] for i in order]).transpose(0, 1)[None]
            for part in (queries, {i: f[..., 0] for i, f in fresh.items()}, {i: f[..., 1] for i, f in fresh.items()})
        ]
        output, _ = paged_attention(
            module, *packed, None, scaling=0.3, sliding_window=window, step=Step(cache, slices, torch.device(device))
        )
        parts = dict(zip(order, output[0].split([news[i] for i in order]), strict=True))
        for i in order:
            context = states[i][: contexts[i]]
            expected = plain_attention(queries[i], context[..., 0], context[..., 1], news[i], window)
            torch.testing.assert_close(parts[i].double(), expected, atol=tolerance, rtol=tolerance)
        return list(parts.values())

    # whole prompts, of which the last two start as the one of 200 tokens does
    first = [n - 4 if n > 5 else n for n in lengths]
    step([*first[:5], 0, 0], first)
    for i, n_shared in ((5, 150), (6, 128)):
        states[i] = torch.cat([states[4][:n_shared], states[i]])
        rows[i] = cache.fork(rows[4], n_shared)
    first[5:] = [151, 129]
    step([0, 0, 0, 0, 0, 1, 1], first)
    cache.free(rows[0])  # its page is taken by another row

    # rows with one token, a few and many, and such that sit out; some of their pages are shared
    many = MAX_BATCHED_NEW_TOKENS + 1
    for news in ([0, 1, 2, 1, 1, 1, 1], [0, 1, 0, 2, 3, 0, 1], [0, 0, 1, 0, 0, 3, many], [0, 1, 0, 0, 0, 0, many - 1]):
        first = [f + n for f, n in zip(first, news, strict=True)]
        step(news, first)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n_new", [1, 3, 40])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.05)])
def test_scores_of_keys_with_a_large_common_bias(device: str, n_new: int, dtype: torch.dtype, tolerance: float):
    """As Qwen2 has them: rounded to 16 bits all scores are alike, and before they are scaled float16 overflows."""
    torch.manual_seed(0)
    head_dim, scaling = 128, 128**-0.5
    module = nn.Module()
    module.layer_idx = 0
    queries, keys = (30 + torch.randn(70, 2, head_dim, device=device).to(dtype) for _ in range(2))
    values = torch.randn(70, 2, head_dim, device=device).to(dtype)
    assert torch.einsum("qhd,khd->hqk", queries.float(), keys.float()).min() > torch.finfo(torch.float16).max
    cache, row = KVCache(), RowKV()
    for start, stop in ((0, 70 - n_new), (70 - n_new, 70)):
        cache.extend(row, stop - start)
        step = Step(cache, [RowSlice(row, [1] * (stop - start))], torch.device(device))
        part = (tensor[start:stop].transpose(0, 1)[None] for tensor in (queries, keys, values))
        output, _ = paged_attention(module, *part, None, scaling=scaling, step=step)
    expected = plain_attention(queries[-n_new:], keys, values, n_new, scaling=scaling)
    torch.testing.assert_close(output[0].double(), expected, atol=tolerance, rtol=tolerance)


def test_what_is_not_implemented_is_refused_instead_of_ignored():
    cache, row = KVCache(), RowKV()
    cache.extend(row, 1)
    step = Step(cache, [RowSlice(row, [1])], torch.device("cpu"))
    tensor = torch.zeros(1, 2, 1, 4)
    module = nn.Module()
    module.layer_idx = 0
    with pytest.raises(NotImplementedError, match="softcap"):
        paged_attention(module, tensor, tensor, tensor, None, scaling=1.0, step=step, softcap=30.0)


@pytest.mark.parametrize("lengths", [[100, 5], [5, 100], [100, 5, 100, 5, 5]])
def test_where_rows_depend_on_no_other_a_very_long_one_is_attended_by_itself(lengths: list[int]):
    """Kernels split contexts by the longest of a batch, beyond so many pages."""
    cache, slices = KVCache(), []
    for n_tokens in lengths:
        row = RowKV()
        cache.extend(row, n_tokens)
        slices.append(RowSlice(row, [0]))
    step = Step(cache, slices, torch.device("cpu"), width=8, kernels=SimpleNamespace(UNIFORM_PAGES=1))
    *batches, padding = (batch.context_lengths.tolist() for _, batch in step.batches)
    assert padding == [0]
    assert [n for batch in batches for n in batch] == lengths
    assert all(len(batch) == 1 for batch in batches if 100 in batch)
