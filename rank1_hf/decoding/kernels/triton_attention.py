"""Attention over the pages of the KV cache in Triton: one kernel for prefill, drafts and decoding.

Each program takes a few tokens of a row, with all the queries that read one KV head, and goes over the row's keys with
an online softmax (FlashAttention-2, Dao 2023). Pages are read in place (paged attention, Kwon et al. 2023): there is no
mask and no copy of the context, and a page is on its way while the one before is multiplied. Where rows bring few
tokens, several programs share a row's context, and a second kernel merges what they found (Flash-Decoding, Dao et al.
2023). They split it at fixed places, so that what a row computes does not depend on the rows beside it.
"""

import math
from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from transformers import PretrainedConfig

from rank1_hf.decoding.kernels.contract import PagedBatch
from rank1_hf.decoding.options import PAGE_SIZE
from rank1_hf.models import memory
from rank1_hf.models.memory import MAX_SPLITS

MAX_SPLIT_TOKENS = 16
"""Rows that bring more tokens than this have programs enough without a split."""

_SPLIT_PAGES = 4  # a part's results are then 5% of what it reads (group 7, head dim 128)
UNIFORM_PAGES = _SPLIT_PAGES * MAX_SPLITS
_SMALLEST = 16  # the least extent of a matrix product in Triton
_SHARED_BESIDES = 1024 + 256  # bytes: what a program costs by itself, and what its warps exchange
_UNBOUNDED = 2**30


def attend(
    queries: Tensor, key_pool: Tensor, value_pool: Tensor, batch: PagedBatch, scaling: float, window: int | None
) -> Tensor:
    """See the contract. One launch, and one more where contexts are split."""
    n_tokens, n_heads, head_dim = queries.shape
    n_kv_heads, page_size = key_pool.shape[1:3]
    group = n_heads // n_kv_heads
    n_rows, width = batch.block_table.shape
    n_splits, split_size = 1, width * page_size
    if batch.longest_query <= MAX_SPLIT_TOKENS:
        n_splits, split_size = splits(width, page_size)
    blocks = choose_blocks(*device_limits(queries.device), queries.dtype.itemsize, head_dim, group, batch.longest_query)
    n_query_blocks = triton.cdiv(batch.longest_query, blocks.rows // group)

    output = torch.empty(queries.shape, dtype=queries.dtype, device=queries.device)
    partial, lse = output, None
    if n_splits > 1:
        partial = output.new_empty((n_tokens, n_heads, n_splits, head_dim), dtype=torch.float32)
        lse = output.new_empty((n_tokens, n_heads, n_splits), dtype=torch.float32)
    with torch.cuda.device_of(queries):  # type: ignore[no-untyped-call]  # where Triton launches
        _attend[(n_rows, n_kv_heads, n_query_blocks * n_splits)](
            queries,
            key_pool,
            value_pool,
            batch.query_starts,
            batch.context_lengths,
            batch.block_table,
            partial,
            lse,
            scaling * math.log2(math.e),
            _UNBOUNDED if window is None else window,
            queries.stride(0),
            batch.block_table.stride(0),
            n_splits,
            split_size,
            group=group,
            head_dim=head_dim,
            page_size=page_size,
            block_rows=blocks.rows,
            block_keys=min(blocks.keys, page_size),
            block_dim=_padded(head_dim),
            num_warps=blocks.warps,
            num_stages=blocks.stages,
        )
        if lse is not None:
            _merge[(n_tokens, n_heads)](
                partial,
                lse,
                output,
                n_splits,
                head_dim=head_dim,
                block_splits=MAX_SPLITS,
                block_dim=_padded(head_dim),
            )
    return output


def splits(width: int, page_size: int = PAGE_SIZE) -> tuple[int, int]:
    """How many splits contexts of up to `width` pages have, and how many tokens a split has."""
    pages = _SPLIT_PAGES * triton.cdiv(width, _SPLIT_PAGES * MAX_SPLITS)
    return triton.cdiv(width, pages), pages * page_size


class Blocks(NamedTuple):
    """What one program of the attention kernel has at a time.

    Attributes:
        rows: query tokens times the group.
        keys: keys, and values; a part of a page.
        warps, stages: as Triton's compiler takes them. With 3 stages the next keys are loaded while these are
            multiplied; with fewer they are not.
    """

    rows: int
    keys: int
    warps: int
    stages: int

    def shared_memory(self, itemsize: int, head_dim: int) -> int:
        """What a program needs at most, in bytes: as the compiler lays out queries, weights, and keys and values."""
        weights, buffers = self.rows * self.keys, max(self.stages - 1, 1)
        if self == _FROM_SHARED_MEMORY:  # a product reads its keys later, and has its weights in registers
            weights, buffers = 0, self.stages
        return (weights + (self.rows + 2 * buffers * self.keys) * _padded(head_dim)) * itemsize + _SHARED_BESIDES


_FROM_SHARED_MEMORY = Blocks(64, 64, 4, 3)
"""For the matrix units of Hopper and of the large Blackwell cards, which read keys and values from shared memory."""


def choose_blocks(
    capability: tuple[int, int], shared_memory: int, itemsize: int, head_dim: int, group: int, longest_query: int
) -> Blocks:
    """The best blocks with which two programs fit on a multiprocessor, so that one computes while the other waits.

    Where no two fit, one does.

    Args:
        capability: the device's compute capability.
        shared_memory: what one program may have, in bytes.
        itemsize: bytes a number.
        head_dim, group: of the model.
        longest_query: the most tokens that a row brings.

    Raises:
        ValueError: a head is too large for the device.
    """
    least_rows = _padded(group)
    is_small = longest_query * group <= least_rows
    rows: tuple[int, ...]
    if itemsize == 4 or capability < (8, 0):  # without matrix units; with larger blocks registers do not suffice
        itemsize = 4  # the compiler multiplies 16 bits in float32 there
        rows = (least_rows,) if is_small else (32, 16)
        blocks = [Blocks(max(n, least_rows), 16, 4, stages) for n in rows for stages in (3, 2)]
    elif is_small:  # waits for memory: to load ahead is worth more than large blocks
        blocks = [Blocks(least_rows, keys, 4, stages) for stages in (3, 2) for keys in (64, 32, 16)]
    else:
        rows = (64, 32, 16) if head_dim <= 128 else (32, 16)  # the outputs are in registers: 64 of a thread's 255
        blocks = [Blocks(n, keys, 4, stages) for n in rows for keys in (32, 16) for stages in (3, 2)]
        if (9, 0) <= capability < (12, 0) and head_dim <= 128:
            blocks.insert(0, _FROM_SHARED_MEMORY)
        blocks = [block._replace(rows=max(block.rows, least_rows)) for block in blocks]
    if capability < (8, 0):  # cannot load ahead
        blocks = [block._replace(stages=1) for block in blocks]
    for programs in (2, 1):
        for block in blocks:
            if programs * block.shared_memory(itemsize, head_dim) <= shared_memory:
                return block
    raise ValueError(f"heads of {head_dim} numbers are too large for this GPU's {shared_memory} bytes of shared memory")


def check_fit(device: torch.device, config: PretrainedConfig, dtype: torch.dtype) -> None:
    """Say before any step that a model's heads are too large for a device.

    Raises:
        ValueError: they are.
    """
    group = config.num_attention_heads // memory.kv_heads(config)
    for longest_query in (1, 1024):  # a decode step, a prefill chunk
        choose_blocks(*device_limits(device), dtype.itemsize, memory.head_dim(config), group, longest_query)


@cache
def device_limits(device: torch.device) -> tuple[tuple[int, int], int]:
    """Compute capability and shared memory; on a CPU, for Triton's interpreter, those of an H100."""
    if device.type != "cuda":
        return (9, 0), 232_448
    properties = torch.cuda.get_device_properties(device)
    return (properties.major, properties.minor), properties.shared_memory_per_block_optin  # type: ignore[attr-defined]


def _padded(size: int) -> int:
    return max(1 << (size - 1).bit_length(), _SMALLEST)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["window", "table_stride", "n_splits", "split_size"],
    do_not_specialize_on_alignment=["query_starts", "context_lengths", "block_table"],
)
def _attend(  # type: ignore[no-untyped-def]
    queries,
    keys,
    values,
    query_starts,
    context_lengths,
    block_table,
    partial,
    lse,
    scale,
    window,
    query_stride,
    table_stride,
    n_splits,
    split_size,
    group: tl.constexpr,
    head_dim: tl.constexpr,
    page_size: tl.constexpr,
    block_rows: tl.constexpr,
    block_keys: tl.constexpr,
    block_dim: tl.constexpr,
):
    """Some tokens of one row, one KV head, one split of the context. Grid: rows, KV heads, query blocks * splits.

    queries: [tokens, heads, head dim]. keys, values: pools, [pages, KV heads, page size, head dim]. query_starts:
    [rows + 1], context_lengths: [rows], block_table: [rows, pages], int32. partial: [tokens, heads, splits, head dim],
    each split's output, float32, or the output itself where there is one split; then lse is None, else [tokens, heads,
    splits], float32: log2 of the sum of the softmax's terms. scale holds log2(e), since exponents are of 2.
    """
    row, kv_head = tl.program_id(0), tl.program_id(1)
    n_heads = tl.num_programs(1) * group
    split = tl.program_id(2) % n_splits
    # The last tokens, which see most, are begun first.
    first_token = (tl.num_programs(2) // n_splits - 1 - tl.program_id(2) // n_splits) * (block_rows // group)
    start = tl.load(query_starts + row)
    n_tokens = tl.load(query_starts + row + 1) - start
    context = tl.load(context_lengths + row)
    if first_token >= n_tokens:
        return

    line, in_head, in_block = tl.arange(0, block_rows), tl.arange(0, block_dim), tl.arange(0, block_keys)
    token = first_token + line // group
    is_line = (line // group < block_rows // group) & (token < n_tokens)
    is_dim = in_head < head_dim
    is_query = is_line[:, None] & is_dim[None, :]
    head = kv_head * group + line % group
    query_at = (start + token).to(tl.int64) * query_stride + head * head_dim
    query = tl.load(queries + query_at[:, None] + in_head[None, :], is_query, 0.0)

    position = context - n_tokens + token
    last_token = tl.minimum(first_token + block_rows // group, n_tokens) - 1
    first_key = tl.maximum(context - n_tokens + first_token - window + 1, split * split_size)
    stop_key = tl.minimum(context - n_tokens + last_token + 1, (split + 1) * split_size)
    first_block, stop_block = tl.maximum(first_key, 0) // block_keys, tl.cdiv(tl.maximum(stop_key, 0), block_keys)
    blocks_a_page: tl.constexpr = page_size // block_keys

    running_max = tl.full((block_rows,), -1e30, tl.float32)  # finite, since a block may be hidden altogether
    running_sum = tl.zeros((block_rows,), tl.float32)
    output = tl.zeros((block_rows, block_dim), tl.float32)
    # Each block's page is looked up one turn ahead: the compiler can then load the block itself ahead.
    pages = block_table + row.to(tl.int64) * table_stride
    page = tl.load(pages + first_block // blocks_a_page, first_block < stop_block, 0)
    for block in range(first_block, stop_block):
        next_page = tl.load(pages + (block + 1) // blocks_a_page, block + 1 < stop_block, 0)
        key_at = block * block_keys + in_block
        is_key = (key_at < context)[:, None] & is_dim[None, :]
        in_pool = (
            (page.to(tl.int64) * tl.num_programs(1) + kv_head) * page_size + block % blocks_a_page * block_keys
        ) * head_dim
        offset = in_pool + in_block[:, None] * head_dim + in_head[None, :]
        key, value = tl.load(keys + offset, is_key, 0.0), tl.load(values + offset, is_key, 0.0)
        is_seen = (key_at[None, :] <= position[:, None]) & (key_at[None, :] > position[:, None] - window)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
        scores = tl.where(is_seen, scores, -1e30)
        new_max = tl.maximum(running_max, tl.max(scores, 1))
        weights = tl.where(is_seen, tl.exp2(scores - new_max[:, None]), 0.0)
        decay = tl.exp2(running_max - new_max)
        running_sum = running_sum * decay + tl.sum(weights, 1)
        output = tl.dot(weights.to(value.dtype), value, output * decay[:, None], input_precision="ieee")
        running_max = new_max
        page = next_page

    place = ((start + token).to(tl.int64) * n_heads + head) * n_splits + split
    if lse is None:
        divisor = tl.where(context > 0, running_sum, 1.0)  # a row without a context, which is padding, has zeros
    else:
        divisor = tl.where(running_sum == 0, 1.0, running_sum)
        nothing = tl.where(context > 0, float("-inf"), -1e30)
        log_sum = tl.where(running_sum == 0, nothing, running_max + tl.log2(running_sum))
        tl.store(lse + place, log_sum, is_line)
    if lse is None or first_block < stop_block:
        output = (output / divisor[:, None]).to(partial.dtype.element_ty)
        tl.store(partial + place[:, None] * head_dim + in_head[None, :], output, is_query)


@triton.jit(do_not_specialize=["n_splits"])  # type: ignore[untyped-decorator]
def _merge(  # type: ignore[no-untyped-def]
    partial,
    lse,
    output,
    n_splits,
    head_dim: tl.constexpr,
    block_splits: tl.constexpr,
    block_dim: tl.constexpr,
):
    """The splits of one query and head, weighted by their share of the softmax. Grid: tokens, heads.

    partial, lse: as `_attend` writes them. output: [tokens, heads, head dim].
    """
    place = tl.program_id(0).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    split, in_head = tl.arange(0, block_splits), tl.arange(0, block_dim)
    log_sum = tl.load(lse + place * n_splits + split, split < n_splits, float("-inf"))
    weights = tl.exp2(log_sum - tl.max(log_sum, 0))
    is_part = ((log_sum > -1e30) | (log_sum != log_sum))[:, None] & (in_head < head_dim)[None, :]
    offset = (place * n_splits + split)[:, None] * head_dim + in_head[None, :]
    part = tl.load(partial + offset, is_part, 0.0)
    merged = tl.sum(weights[:, None] * part, 0) / tl.sum(weights, 0)
    tl.store(output + place * head_dim + in_head, merged.to(output.dtype.element_ty), in_head < head_dim)
