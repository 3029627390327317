"""A step's operations in plain PyTorch, on any device: the oracle that kernels are tested against.

Each computes what `contract.py` says, in the most direct way. `attend` asks the device for the lengths of the rows, so
it waits for it, once a call.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from rank1_hf.decoding.kernels.contract import PagedBatch
from rank1_hf.decoding.kv_cache import joined, pages_for

UNIFORM_PAGES = 2**30  # every row is computed by itself


def add_rms_norm(states: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See the contract."""
    if residual is not None:
        states = states + residual
    exact = states.float()
    normalized = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + eps)
    return (weight * normalized.to(states.dtype)).to(states.dtype), states


def rotate_and_write(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    cos: Tensor,
    sin: Tensor,
    key_pool: Tensor,
    value_pool: Tensor,
    slots: Tensor,
) -> Tensor:
    """See the contract."""
    stored = (slots >= 0).nonzero()[:, 0]
    pages, offsets = slots[stored] // key_pool.shape[2], slots[stored] % key_pool.shape[2]
    key_pool[pages, :, offsets] = _rotated(keys, cos, sin)[stored]
    value_pool[pages, :, offsets] = values[stored]
    return _rotated(queries, cos, sin)


def attend(
    queries: Tensor, key_pool: Tensor, value_pool: Tensor, batch: PagedBatch, scaling: float, window: int | None
) -> Tensor:
    """See the contract."""
    return attend_rows(_attend_row, queries, key_pool, value_pool, batch, scaling, window)


def attend_rows(
    attend_row: Callable[[Tensor, Tensor, Tensor, float, int | None], Tensor],
    queries: Tensor,
    key_pool: Tensor,
    value_pool: Tensor,
    batch: PagedBatch,
    scaling: float,
    window: int | None,
) -> Tensor:
    """Attend one row after the other, as in the contract.

    Args:
        attend_row: attends a row's last tokens, [tokens, heads, head dim], over its keys and values, each [KV heads,
            context, head dim]; called with scaling and window, too.
        queries, key_pool, value_pool, batch, scaling, window: see the contract.
    """
    output = torch.zeros(queries.shape, dtype=queries.dtype, device=queries.device)
    starts, lengths, page_size = batch.query_starts.tolist(), batch.context_lengths.tolist(), key_pool.shape[2]
    for start, stop, length, pages in zip(starts[:-1], starts[1:], lengths, batch.block_table, strict=True):
        if length:
            keys, values = (
                joined(pool, pages[: pages_for(length, page_size)], length) for pool in (key_pool, value_pool)
            )
            output[start:stop] = attend_row(queries[start:stop], keys, values, scaling, window)
    return output


def seen_keys(n_new: int, n_context: int, window: int | None, device: torch.device) -> Tensor:
    """[tokens, context], bool: which keys each of a row's last tokens sees."""
    positions = torch.arange(n_context, device=device)
    distance = positions[n_context - n_new :, None] - positions
    return (distance >= 0) & (distance < (n_context if window is None else window))


def gate(gated: Tensor, up: Tensor, activation: str) -> Tensor:
    """See the contract."""
    return (F.silu(gated) if activation == "silu" else F.gelu(gated, approximate="tanh")) * up


def read_logits(logits: Tensor, answers: Tensor) -> Tensor:
    """See the contract."""
    highest, token = logits.max(-1)
    return torch.cat([token[:, None].float(), highest[:, None].float(), logits[:, answers].float()], -1)


def _rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[tokens, heads, head dim] by [tokens, rotated dims], contiguous."""
    n_rotated = cos.shape[-1]
    rotated, rest = states[..., :n_rotated], states[..., n_rotated:]
    first, second = rotated.chunk(2, -1)
    turned = torch.cat([-second, first], -1)
    return torch.cat([rotated * cos[:, None] + turned * sin[:, None], rest], -1)


def _attend_row(queries: Tensor, keys: Tensor, values: Tensor, scaling: float, window: int | None) -> Tensor:
    """The last tokens of a row, [tokens, heads, head dim], over its context, [KV heads, context, head dim]."""
    n_new, n_context = len(queries), keys.shape[1]
    seen = seen_keys(n_new, n_context, window, queries.device)
    grouped = queries.float().view(n_new, len(keys), -1, queries.shape[-1])
    scores = torch.einsum("tkgd,kcd->kgtc", grouped, keys.float()) * scaling
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1).to(values.dtype)
    return torch.einsum("kgtc,kcd->tkgd", weights.float(), values.float()).to(queries.dtype).flatten(1, 2)
