"""A step's operations on a GPU, in Triton; attention is in `triton_attention.py`.

Imported only where there is a GPU, since Triton comes with PyTorch's CUDA and ROCm builds alone. No function waits for
the device, and no grid depends on what a tensor contains, so that all can be captured in a CUDA graph. What is constant
for a model (sizes, groups) is constant for the compiler; what changes from step to step is not specialized on, so that
a model needs each kernel once. Triton keeps what it has compiled on disk, for later processes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rank1_hf.decoding.kernels.triton_attention import UNIFORM_PAGES, attend, check_fit

__all__ = ["UNIFORM_PAGES", "add_rms_norm", "attend", "check_fit", "gate", "read_logits", "rotate_and_write"]

_GATE_BLOCK = 1024
_VOCABULARY_BLOCK = 4096  # a large one, since a single token has a single program


def add_rms_norm(states: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See the contract. Heads within a merged product, [tokens, heads, head dim], are read where they are."""
    if residual is not None:
        states, residual = states.contiguous(), residual.contiguous()
    size = states.shape[-1]
    rows = states if states.dim() == 3 and states[0].is_contiguous() else states.reshape(-1, 1, size)
    normalized = torch.empty(states.shape, dtype=states.dtype, device=states.device)
    total = states if residual is None else torch.empty_like(states)
    block = triton.next_power_of_2(size)
    with torch.cuda.device_of(states):  # type: ignore[no-untyped-call]  # where Triton launches
        _add_rms_norm[(rows.shape[0] * rows.shape[1],)](
            rows,
            residual,
            weight,
            normalized,
            total,
            eps,
            rows.stride(0),
            n_inner=rows.shape[1],
            size=size,
            block=block,
            num_warps=min(max(block // 512, 1), 8),
        )
    return normalized, total


@triton.jit  # type: ignore[untyped-decorator]
def _add_rms_norm(  # type: ignore[no-untyped-def]
    states,
    residual,
    weight,
    normalized,
    total,
    eps,
    stride,
    n_inner: tl.constexpr,
    size: tl.constexpr,
    block: tl.constexpr,
):
    """One vector: `n_inner` of them lie side by side, and `stride` after the first of them the next ones begin."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, block)
    is_column = column < size
    state = tl.load(states + row // n_inner * stride + row % n_inner * size + column, is_column, 0.0)
    if residual is not None:
        other = tl.load(residual + row * size + column, is_column, 0.0)
        state = (state.to(tl.float32) + other.to(tl.float32)).to(state.dtype)
        tl.store(total + row * size + column, state, is_column)
    exact = state.to(tl.float32)
    scale = tl.rsqrt(tl.sum(exact * exact, 0) / size + eps)
    factor = tl.load(weight + column, is_column, 0.0).to(tl.float32)
    result = (exact * scale).to(state.dtype).to(tl.float32) * factor
    tl.store(normalized + row * size + column, result.to(state.dtype), is_column)


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
    n_tokens, n_heads, head_dim = queries.shape
    n_kv_heads, n_rotated = keys.shape[1], cos.shape[-1]
    group = n_heads // n_kv_heads
    output = torch.empty(queries.shape, dtype=queries.dtype, device=queries.device)
    with torch.cuda.device_of(queries):  # type: ignore[no-untyped-call]
        _rotate_and_write[(n_tokens, n_kv_heads)](
            queries,
            keys,
            values,
            cos,
            sin,
            key_pool,
            value_pool,
            slots,
            output,
            queries.stride(0),
            keys.stride(0),
            values.stride(0),
            cos.stride(0),
            sin.stride(0),
            group=group,
            head_dim=head_dim,
            half=n_rotated // 2,
            page_size=key_pool.shape[2],
            block_group=triton.next_power_of_2(group),
            block_half=triton.next_power_of_2(n_rotated // 2),
            block_dim=triton.next_power_of_2(head_dim),
            num_warps=2,
        )
    return output


@triton.jit(do_not_specialize_on_alignment=["slots"])  # type: ignore[untyped-decorator]
def _rotate_and_write(  # type: ignore[no-untyped-def]
    queries,
    keys,
    values,
    cos,
    sin,
    key_pool,
    value_pool,
    slots,
    output,
    query_stride,
    key_stride,
    value_stride,
    cos_stride,
    sin_stride,
    group: tl.constexpr,
    head_dim: tl.constexpr,
    half: tl.constexpr,
    page_size: tl.constexpr,
    block_group: tl.constexpr,
    block_half: tl.constexpr,
    block_dim: tl.constexpr,
):
    """One token and one KV head: the queries that read it, its key and its value."""
    token, kv_head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    n_kv_heads = tl.num_programs(1)
    member, column = tl.arange(0, block_group)[:, None], tl.arange(0, block_half)[None, :]
    is_rotated = column < half
    cos += token * cos_stride + column
    sin += token * sin_stride + column
    cos_first, cos_second = tl.load(cos, is_rotated, 0.0), tl.load(cos + half, is_rotated, 0.0)
    sin_first = tl.load(sin, is_rotated, 0.0).to(tl.float32)
    sin_second = tl.load(sin + half, is_rotated, 0.0).to(tl.float32)

    source = queries + token * query_stride + (kv_head * group + member) * head_dim
    target = output + ((token * n_kv_heads + kv_head) * group + member) * head_dim
    is_query = (member < group) & is_rotated
    first, second = tl.load(source + column, is_query, 0.0), tl.load(source + half + column, is_query, 0.0)
    tl.store(target + column, _rotated(first, cos_first, second, -sin_first), is_query)
    tl.store(target + half + column, _rotated(second, cos_second, first, sin_second), is_query)
    all_columns = tl.arange(0, block_dim)[None, :]
    is_column = all_columns < head_dim
    is_rest = is_column & (all_columns >= 2 * half)
    if head_dim > 2 * half:
        is_query_rest = (member < group) & is_rest
        tl.store(target + all_columns, tl.load(source + all_columns, is_query_rest, 0.0), is_query_rest)

    slot = tl.load(slots + token)
    if slot >= 0:
        place = ((slot // page_size).to(tl.int64) * n_kv_heads + kv_head) * page_size + slot % page_size
        key_source = keys + token * key_stride + kv_head * head_dim
        key_target = key_pool + place * head_dim
        key_first = tl.load(key_source + column, is_rotated, 0.0)
        key_second = tl.load(key_source + half + column, is_rotated, 0.0)
        tl.store(key_target + column, _rotated(key_first, cos_first, key_second, -sin_first), is_rotated)
        tl.store(key_target + half + column, _rotated(key_second, cos_second, key_first, sin_second), is_rotated)
        if head_dim > 2 * half:
            tl.store(key_target + all_columns, tl.load(key_source + all_columns, is_rest, 0.0), is_rest)
        value = tl.load(values + token * value_stride + kv_head * head_dim + all_columns, is_column, 0.0)
        tl.store(value_pool + place * head_dim + all_columns, value, is_column)


@triton.jit
def _rotated(state, cos, other, sin):  # type: ignore[no-untyped-def]
    """`state * cos + other * sin`, each product rounded to the dtype, as PyTorch does."""
    first = (state.to(tl.float32) * cos.to(tl.float32)).to(state.dtype).to(tl.float32)
    second = (other.to(tl.float32) * sin).to(state.dtype).to(tl.float32)
    return (first + second).to(state.dtype)


def gate(gated: Tensor, up: Tensor, activation: str) -> Tensor:
    """See the contract."""
    n_tokens, size = gated.shape
    output = torch.empty(gated.shape, dtype=gated.dtype, device=gated.device)
    with torch.cuda.device_of(gated):  # type: ignore[no-untyped-call]
        _gate[(n_tokens, triton.cdiv(size, _GATE_BLOCK))](
            gated,
            up,
            output,
            gated.stride(0),
            up.stride(0),
            size=size,
            is_silu=activation == "silu",
            block=_GATE_BLOCK,
        )
    return output


@triton.jit  # type: ignore[untyped-decorator]
def _gate(  # type: ignore[no-untyped-def]
    gated, up, output, gated_stride, up_stride, size: tl.constexpr, is_silu: tl.constexpr, block: tl.constexpr
):
    """A part of one token. Both activations are `x * sigmoid(...)`, since `1 + tanh(x) = 2 * sigmoid(2 * x)`."""
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * block + tl.arange(0, block)
    is_column = column < size
    gate_state = tl.load(gated + row * gated_stride + column, is_column, 0.0)
    up_state = tl.load(up + row * up_stride + column, is_column, 0.0)
    x = gate_state.to(tl.float32)
    bent = x if is_silu else 1.5957691216057308 * (x + 0.044715 * x * x * x)  # 2 * sqrt(2 / pi)
    active = (x * tl.sigmoid(bent)).to(gate_state.dtype)
    product = active.to(tl.float32) * up_state.to(tl.float32)
    tl.store(output + row * size + column, product.to(gate_state.dtype), is_column)


def read_logits(logits: Tensor, answers: Tensor) -> Tensor:
    """See the contract."""
    n_tokens, n_vocabulary = logits.shape
    output = logits.new_empty((n_tokens, 4), dtype=torch.float32)
    with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]
        _read_logits[(n_tokens,)](
            logits, answers, output, logits.stride(0), n_vocabulary=n_vocabulary, block=_VOCABULARY_BLOCK, num_warps=8
        )
    return output


@triton.jit  # type: ignore[untyped-decorator]
def _read_logits(logits, answers, output, stride, n_vocabulary: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """One token. Each lane keeps the first of its highest logits; NaN is the highest, as in PyTorch."""
    token = tl.program_id(0).to(tl.int64)
    logits += token * stride
    lane = tl.arange(0, block)
    highest = tl.full((block,), float("-inf"), tl.float32)
    where = lane
    for start in tl.range(0, n_vocabulary, block, num_stages=3):  # loads ahead
        index = start + lane
        logit = tl.load(logits + index, index < n_vocabulary, float("-inf")).to(tl.float32)
        is_higher = (logit > highest) | (logit != logit)
        is_higher &= highest == highest
        highest, where = tl.where(is_higher, logit, highest), tl.where(is_higher, index, where)
    is_nan = (highest != highest).to(tl.int32)
    has_nan = tl.max(is_nan, 0)
    top = tl.max(tl.where(is_nan > 0, float("-inf"), highest), 0)
    first = tl.min(tl.where((is_nan == has_nan) & ((highest == top) | (is_nan > 0)), where, n_vocabulary), 0)
    tl.store(output + token * 4, first.to(tl.float32))
    tl.store(output + token * 4 + 1, tl.where(has_nan > 0, float("nan"), top))
    answer = tl.arange(0, 2)
    tl.store(output + token * 4 + 2 + answer, tl.load(logits + tl.load(answers + answer)).to(tl.float32))
