"""A step's operations by PyTorch's own, for devices without kernels.

Attention copies the pages of each row together for PyTorch's attention; the copies are what it costs. The rest is that
of `reference.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from rank1_hf.decoding.kernels.contract import MAX_BATCHED_NEW_TOKENS, PagedBatch
from rank1_hf.decoding.kernels.reference import (
    add_rms_norm,
    attend_rows,
    gate,
    read_logits,
    rotate_and_write,
    seen_keys,
)

__all__ = ["UNIFORM_PAGES", "add_rms_norm", "attend", "gate", "read_logits", "rotate_and_write"]

UNIFORM_PAGES = 0  # where rows are attended together, they are padded to the longest

_ROW_BY_ROW = ("cpu",)
"""Where a call for each row costs less than padding. A GPU is launched too often, and waited for."""
_TAKES_GROUPS = ("cpu",)
"""Where PyTorch's attention takes grouped heads with a mask. On CUDA it then has all scores in float32 in memory."""
_ROUNDS_SCORES = ("mps",)
"""Where PyTorch's attention rounds scores to the dtype of the queries."""


def attend(
    queries: Tensor, key_pool: Tensor, value_pool: Tensor, batch: PagedBatch, scaling: float, window: int | None
) -> Tensor:
    """See the contract."""
    exact = queries.float() if queries.device.type in _ROUNDS_SCORES else queries
    if batch.longest_query <= MAX_BATCHED_NEW_TOKENS and queries.device.type not in _ROW_BY_ROW:
        output = _attend_together(exact, key_pool, value_pool, batch, scaling, window)
    else:
        output = attend_rows(_attend_row, exact, key_pool, value_pool, batch, scaling, window)
    return output.to(queries.dtype)


def _attend_row(queries: Tensor, keys: Tensor, values: Tensor, scaling: float, window: int | None) -> Tensor:
    """A row's last tokens, [tokens, heads, head dim], over its context, [KV heads, context, head dim] each."""
    n_new, n_context = len(queries), keys.shape[1]
    is_bounded = window is not None and window < n_context
    is_plain = not is_bounded and n_new in (1, n_context)  # for which PyTorch needs no mask
    mask = None if is_plain else seen_keys(n_new, n_context, window, queries.device)
    keys, values = keys.to(queries.dtype), values.to(queries.dtype)
    takes_groups = queries.device.type in _TAKES_GROUPS
    if not takes_groups:
        keys, values = (x.repeat_interleave(queries.shape[1] // len(keys), 0) for x in (keys, values))
    attended = F.scaled_dot_product_attention(
        queries.transpose(0, 1)[None],
        keys[None],
        values[None],
        attn_mask=mask,
        is_causal=is_plain and n_new > 1,
        scale=scaling,
        enable_gqa=takes_groups,
    )
    return attended[0].transpose(0, 1)


def _attend_together(
    queries: Tensor, key_pool: Tensor, value_pool: Tensor, batch: PagedBatch, scaling: float, window: int | None
) -> Tensor:
    """All rows in one call, each with as many slots for tokens as the longest has, and pages as the longest context.

    The heads of a group are slots, too, so that keys and values are not copied for each of them.
    """
    (n_tokens, n_heads, head_dim), (_, n_kv_heads, page_size, _) = queries.shape, key_pool.shape
    group, device = n_heads // n_kv_heads, queries.device
    bounds = batch.query_starts[:-1], batch.query_starts[1:], batch.context_lengths
    starts, stops, lengths = (bound[:, None].long() for bound in bounds)  # (rows, 1)
    slots = starts + torch.arange(batch.longest_query, device=device)
    slots = torch.where(slots < stops, slots, starts)  # (rows, slots)

    first = torch.arange(batch.block_table.shape[1], device=device) * page_size
    pages = torch.where(first < lengths, batch.block_table, 0)
    heads = pages[:, None].long() * n_kv_heads + torch.arange(n_kv_heads, device=device)[:, None]  # (rows, KV, pages)
    keys, values = (
        pool.flatten(0, 1).index_select(0, heads.flatten()).view(*heads.shape[:2], -1, head_dim).to(queries.dtype)
        for pool in (key_pool, value_pool)
    )  # (rows, KV, context, D)
    positions = torch.arange(keys.shape[2], device=device)
    for copied in (keys, values):  # NaN spreads even from where it is masked
        copied.masked_fill_((positions >= lengths)[:, None, :, None], 0)
    distance = (lengths - stops + slots)[..., None] - positions
    seen = distance >= 0 if window is None else (distance >= 0) & (distance < window)  # (rows, slots, context)

    grouped = queries.index_select(0, slots.flatten()).view(*slots.shape, n_kv_heads, group, head_dim)
    attended = F.scaled_dot_product_attention(
        grouped.permute(0, 2, 1, 3, 4).flatten(2, 3),  # (rows, KV, slots * G, D)
        keys,
        values,
        attn_mask=seen.repeat_interleave(group, 1)[:, None],
        scale=scaling,
    )
    by_slot = attended.view(len(slots), n_kv_heads, -1, group, head_dim).transpose(1, 2).reshape(-1, n_heads, head_dim)
    token = torch.arange(n_tokens, device=device)
    row = torch.bucketize(token, stops[:, 0], right=True)
    output = by_slot.index_select(0, row * slots.shape[1] + token - starts[row, 0])
    return output.masked_fill_((lengths[row] == 0)[..., None], 0)
