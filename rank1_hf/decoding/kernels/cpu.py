"""A step's operations on a CPU: `cpu.cpp`, which `native.py` compiles on first use and ctypes calls."""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rank1_hf.decoding.kernels.contract import PagedBatch
from rank1_hf.decoding.kernels.native import compiled

UNIFORM_PAGES = 2**30  # every token is computed by itself

_SOURCE = Path(__file__).with_name("cpu.cpp")
_DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
_POINTER, _NUMBER, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
_ARGUMENTS: dict[str, list[Any]] = {
    "add_rms_norm": [_POINTER, *[_NUMBER] * 2, *[_POINTER] * 4, *[_NUMBER] * 2, _FLOAT],
    "rotate_and_write": [*[_POINTER, _NUMBER] * 3, *[_POINTER] * 2, _NUMBER, *[_POINTER] * 4, *[_NUMBER] * 5],
    "attend": [*[_POINTER] * 7, *[_NUMBER] * 6, _FLOAT, _NUMBER],
    "gate": [*[_POINTER, _NUMBER] * 2, _POINTER, *[_NUMBER] * 2, ctypes.c_bool],
    "multiply": [*[_POINTER] * 4, *[_NUMBER] * 3],
    "read_logits": [_POINTER, _NUMBER, *[_POINTER] * 2, *[_NUMBER] * 2],
}


def check_fit(dtype: torch.dtype) -> None:
    """Raise ValueError where the kernels cannot serve: the dtype is another, or there is no compiler for them."""
    if dtype not in _DTYPES:
        raise ValueError(f"there are no CPU kernels for {dtype}")
    compiled(_SOURCE)


def add_rms_norm(states: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See the contract. Heads within a merged product, [tokens, heads, head dim], are read where they are."""
    _check_alike(states, weight, *([] if residual is None else [residual]))
    if residual is not None:
        states, residual = states.contiguous(), residual.contiguous()
    size = states.shape[-1]
    rows = states if states.dim() == 3 and states[0].is_contiguous() else states.reshape(-1, 1, size)
    normalized = torch.empty(states.shape, dtype=states.dtype)
    total = states if residual is None else torch.empty_like(states)
    _kernel("add_rms_norm", states.dtype)(
        rows.data_ptr(),
        rows.stride(0),
        rows.shape[1],
        None if residual is None else residual.data_ptr(),
        weight.data_ptr(),
        normalized.data_ptr(),
        total.data_ptr(),
        rows.shape[0] * rows.shape[1],
        size,
        eps,
    )
    return normalized, total


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
    _check_alike(queries, keys, values, cos, sin, key_pool, value_pool)
    n_tokens, n_heads, head_dim = queries.shape
    output = torch.empty(queries.shape, dtype=queries.dtype)
    cos, sin = cos.contiguous(), sin.contiguous()
    _kernel("rotate_and_write", queries.dtype)(
        queries.data_ptr(),
        queries.stride(0),
        keys.data_ptr(),
        keys.stride(0),
        values.data_ptr(),
        values.stride(0),
        cos.data_ptr(),
        sin.data_ptr(),
        cos.shape[-1],
        key_pool.data_ptr(),
        value_pool.data_ptr(),
        slots.data_ptr(),
        output.data_ptr(),
        n_tokens,
        n_heads,
        keys.shape[1],
        head_dim,
        key_pool.shape[2],
    )
    return output


def attend(
    queries: Tensor, key_pool: Tensor, value_pool: Tensor, batch: PagedBatch, scaling: float, window: int | None
) -> Tensor:
    """See the contract."""
    _check_alike(queries, key_pool, value_pool)
    queries = queries.contiguous()
    output = torch.empty_like(queries)
    n_kv_heads, page_size, head_dim = key_pool.shape[1:]
    _kernel("attend", queries.dtype)(
        queries.data_ptr(),
        key_pool.data_ptr(),
        value_pool.data_ptr(),
        output.data_ptr(),
        batch.query_starts.data_ptr(),
        batch.context_lengths.data_ptr(),
        batch.block_table.data_ptr(),
        batch.block_table.stride(0),
        len(batch.context_lengths),
        n_kv_heads,
        queries.shape[1] // n_kv_heads,
        head_dim,
        page_size,
        scaling,
        window or 0,
    )
    return output


def gate(gated: Tensor, up: Tensor, activation: str) -> Tensor:
    """See the contract."""
    _check_alike(gated, up)
    output = torch.empty(gated.shape, dtype=gated.dtype)
    _kernel("gate", gated.dtype)(
        gated.data_ptr(),
        gated.stride(0),
        up.data_ptr(),
        up.stride(0),
        output.data_ptr(),
        *gated.shape,
        activation == "silu",
    )
    return output


def multiply(states: Tensor, panels: Tensor, bias: Tensor | None, n_out: int) -> Tensor:
    """The product of a linear layer: each output summed in float32, input by input, and rounded once.

    What a row gets is the same bits whatever the other rows are.

    Args:
        states: [..., in features].
        panels: [panels, in features, `panel_width()`], of the same dtype: the weights of as many outputs side by side.
        bias: [out features], or none.
        n_out: out features; the last panel may hold fewer than its width.

    Returns:
        [..., out features].
    """
    _check_alike(states, panels, *([] if bias is None else [bias]))
    n_in = panels.shape[1]
    if states.shape[-1] != n_in:
        raise RuntimeError(f"states of {states.shape[-1]} features for weights of {n_in}")  # as PyTorch's own
    states = states.contiguous()
    output = torch.empty(*states.shape[:-1], n_out, dtype=states.dtype)
    _kernel("multiply", states.dtype)(
        states.data_ptr(),
        panels.data_ptr(),
        None if bias is None else bias.data_ptr(),
        output.data_ptr(),
        states.numel() // n_in,
        n_in,
        n_out,
    )
    return output


@cache
def panel_width() -> int:
    """How many outputs lie side by side in `multiply`'s weights: as many as the processor's vectors are made for."""
    return int(compiled(_SOURCE).panel_width())


def read_logits(logits: Tensor, answers: Tensor) -> Tensor:
    """See the contract."""
    output = torch.empty(len(logits), 4)
    _kernel("read_logits", logits.dtype)(
        logits.data_ptr(), logits.stride(0), answers.data_ptr(), output.data_ptr(), *logits.shape
    )
    return output


def _check_alike(first: Tensor, *others: Tensor) -> None:
    """The kernels see addresses alone: what has another dtype would be read as something else, and beyond its end."""
    for other in others:
        if other.dtype != first.dtype:
            raise TypeError(f"{first.dtype} and {other.dtype} in one operation")


@cache
def _kernel(name: str, dtype: torch.dtype) -> Any:  # noqa: ANN401  # a function of ctypes
    function = compiled(_SOURCE)[f"{name}_{_DTYPES[dtype]}"]
    function.argtypes, function.restype = _ARGUMENTS[name], None
    return function
