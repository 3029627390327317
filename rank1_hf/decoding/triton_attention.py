"""Decode attention on a GPU: one Triton kernel that reads the pages of each row in place, no further than it is long.

Imported only where there is a GPU, since Triton comes with PyTorch's CUDA and ROCm builds alone. Its shapes do not
depend on how long the rows are, so that a CUDA graph of it stays valid while they grow. (Paged attention: Kwon et al.
2023; the split over a long context: Flash-Decoding, Dao et al. 2023.)
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_ENOUGH_PROGRAMS = 256  # keep a large GPU busy: about two a multiprocessor
_MAX_SPLITS = 16
_SMALLEST = 16  # the least extent of a matrix product in Triton
_UNBOUNDED = 2**30


def attend_tokens(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    block_table: Tensor,
    positions: Tensor,
    scaling: float,
    window: int | None,
) -> tuple[Tensor, Tensor]:
    """Attend every token over the context of its row, up to and including itself.

    Args:
        queries: [tokens, KV heads, group, head dim].
        keys, values: [pages, KV heads, page size, head dim].
        block_table: [tokens, most pages], int64: the pages of each token's row, in order.
        positions: [tokens], int64: each token's place in its row.
        scaling: what the scores are multiplied by.
        window: how many tokens a token sees, itself included; None: all before it.

    Returns:
        The context in splits that are still to be merged: the logarithm of the sum of the exponentiated scores, and the
        values weighted by the softmax of the split's scores; float32, each [tokens, splits, KV heads, group, 1 or
        head dim].
    """
    n_tokens, n_kv_heads, group, head_dim = queries.shape
    n_splits = min(max(_ENOUGH_PROGRAMS // (n_tokens * n_kv_heads), 1), _MAX_SPLITS)
    shape = (n_tokens, n_splits, n_kv_heads, group)
    log_total = queries.new_empty((*shape, 1), dtype=torch.float32)
    output = queries.new_empty((*shape, head_dim), dtype=torch.float32)
    with torch.cuda.device_of(queries):  # type: ignore[no-untyped-call]  # where Triton launches
        _attend_split[(n_tokens, n_kv_heads, n_splits)](
            queries.contiguous(),
            keys,
            values,
            block_table,
            positions,
            log_total,
            output,
            scaling,
            _UNBOUNDED if window is None else window,
            block_table.stride(0),
            positions.stride(0),
            n_splits,
            n_kv_heads,
            group=group,
            head_dim=head_dim,
            page_size=keys.shape[2],
            padded_group=max(triton.next_power_of_2(group), _SMALLEST),
            padded_dim=max(triton.next_power_of_2(head_dim), _SMALLEST),
        )
    return log_total, output


@triton.jit  # type: ignore[untyped-decorator]
def _attend_split(  # type: ignore[no-untyped-def]  # noqa: ANN202
    queries,  # noqa: ANN001
    keys,  # noqa: ANN001
    values,  # noqa: ANN001
    block_table,  # noqa: ANN001
    positions,  # noqa: ANN001
    log_total_out,  # noqa: ANN001
    output_out,  # noqa: ANN001
    scaling,  # noqa: ANN001
    window,  # noqa: ANN001
    table_stride,  # noqa: ANN001
    position_stride,  # noqa: ANN001
    n_splits,  # noqa: ANN001
    n_kv_heads,  # noqa: ANN001
    group: tl.constexpr,
    head_dim: tl.constexpr,
    page_size: tl.constexpr,
    padded_group: tl.constexpr,
    padded_dim: tl.constexpr,
):
    """One token, one KV head, one split of the pages: an online softmax from page to page."""
    token, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    in_group, in_head, in_page = tl.arange(0, padded_group), tl.arange(0, padded_dim), tl.arange(0, page_size)
    is_dim = in_head < head_dim
    is_query = (in_group < group)[:, None] & is_dim[None, :]
    of_query = in_group[:, None] * head_dim + in_head[None, :]
    of_key = in_page[:, None] * head_dim + in_head[None, :]

    query = tl.load(queries + (token * n_kv_heads + kv_head) * group * head_dim + of_query, is_query, 0.0)
    position = tl.load(positions + token * position_stride)
    first_page = tl.maximum(position - window + 1, 0) // page_size  # pages before a sliding window are not read
    n_pages = position // page_size + 1 - first_page
    per_split = (n_pages + n_splits - 1) // n_splits
    start = first_page + split * per_split
    stop = tl.minimum(start + per_split, first_page + n_pages)

    highest = tl.full((padded_group,), -1e30, tl.float32)  # finite, for a split without a page
    total = tl.zeros((padded_group,), tl.float32)
    output = tl.zeros((padded_group, padded_dim), tl.float32)
    for number in range(start, stop):
        page = tl.load(block_table + token * table_stride + number)
        key_position = number * page_size + in_page
        is_seen = (key_position <= position) & (key_position > position - window)
        is_key = is_seen[:, None] & is_dim[None, :]
        at = (page * n_kv_heads + kv_head) * page_size * head_dim + of_key
        key, value = tl.load(keys + at, is_key, 0.0), tl.load(values + at, is_key, 0.0)
        scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scaling
        scores = tl.where(is_seen[None, :], scores, -1e30)
        new_highest = tl.maximum(highest, tl.max(scores, 1))
        weights = tl.where(is_seen[None, :], tl.exp(scores - new_highest[:, None]), 0.0)
        decay = tl.exp(highest - new_highest)
        total = total * decay + tl.sum(weights, 1)
        output = output * decay[:, None] + tl.dot(weights.to(value.dtype), value, input_precision="ieee")
        highest = new_highest

    at = ((token * n_splits + split) * n_kv_heads + kv_head) * group
    total = tl.where(total > 0, total, 1.0)  # a split without a page has no weight beside the others
    tl.store(log_total_out + at + in_group, highest + tl.log(total), in_group < group)
    tl.store(output_out + at * head_dim + of_query, output / total[:, None], is_query)
