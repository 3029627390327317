"""Attention of a packed step over the paged KV cache, registered through Transformers' attention interface.

The model's own forward runs unchanged; where it would call its attention kernel it calls `paged_attention`, which
stores the step's keys and values in their pages first, so that every token finds its whole context there. Where there
are kernels for the device (`kernels/`), they attend; the functions below are what PyTorch's own operations can do.

Shapes: T tokens, H heads, KV heads of keys and values, G = H / KV heads in a group, D numbers a head.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from rank1_hf.decoding.kv_cache import joined
from rank1_hf.decoding.step import Segment, SharedPages, Step, TokenStep

NAME = "rank1_paged"
_TAKES_GROUPS = ("cpu",)
"""Where PyTorch's attention takes grouped heads with a mask. On CUDA it then has all scores in float32 in memory."""

_MAX_ROUNDING = 0.25  # of a score; none at all would make a run on a CPU a seventh slower


def check_attention(model: PreTrainedModel) -> None:
    """Raise ValueError where a model does not take its attention from Transformers' attention interface."""
    if not model._supports_attention_backend:
        raise ValueError(
            f"{type(model).__name__} does not use Transformers' attention interface, which rank1_hf decodes through; "
            "use a model that does (Qwen2, Llama, Mistral and most others)"
        )


@contextmanager
def attention_of(model: PreTrainedModel, name: str = NAME) -> Iterator[None]:
    """Let a model attend by a registered function meanwhile; by `paged_attention` its forward needs `step=`."""
    own = model.config._attn_implementation
    model.config._attn_implementation = name
    try:
        yield
    finally:
        model.config._attn_implementation = own


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # always None: what a token may see follows from its row and position
    *,
    scaling: float,
    step: Step | TokenStep,
    sliding_window: int | None = None,
    **kwargs: Any,  # noqa: ANN401
) -> tuple[Tensor, None]:
    """Attend one layer's part of a step.

    Args:
        module: the layer's attention module; its `layer_idx` names the layer in the KV cache.
        query: [1, heads, tokens, head dim], rotated.
        key, value: [1, KV heads, tokens, head dim], rotated.
        attention_mask: unused.
        scaling: what the scores are multiplied by.
        step: the rows that the tokens belong to.
        sliding_window: how many tokens a token sees, itself included; None: all before it.
        kwargs: the rest of Transformers' interface.

    Returns:
        [1, tokens, heads, head dim], and None for the attention weights.

    Raises:
        NotImplementedError: the model asks for something that changes attention and is not implemented here.
    """
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise NotImplementedError(f"{type(module).__name__} needs attention with {name}, which is not supported")
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    step = step.on(query.device)
    new_keys, new_values = (states[0, :, : step.n_tokens].transpose(0, 1) for states in (key, value))  # (T, KV, D)
    step.cache.write(layer, step.pages, step.offsets, new_keys, new_values)
    return attend_step(query[0].transpose(0, 1), layer, step, scaling, sliding_window)[None], None


AttentionInterface.register(NAME, paged_attention)


def attend_step(queries: Tensor, layer: int, step: Step | TokenStep, scaling: float, window: int | None) -> Tensor:
    """Attend a step whose keys and values are stored: [tokens, heads, head dim] in and out; 0 for padding."""
    keys, values = step.cache.layer(layer)  # (pages, KV, page size, D)
    if step.probe is not None:
        step.probe.attended(layer, queries, scaling, window)
    if step.kernels is not None:
        parts = [
            step.kernels.attend(queries[part], keys, values, batch, scaling, window) for part, batch in step.batches
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)
    assert isinstance(step, Step)  # a TokenStep is made for kernels only
    output = torch.empty(queries.shape, dtype=queries.dtype, device=queries.device)
    output[step.n_tokens :] = 0
    if step.n_decoding:
        part = slice(0, step.n_decoding)
        output[part] = _attend_decoding(queries[part], keys, values, step, scaling, window)
    for segment in step.segments:
        part = slice(segment.start, segment.stop)
        output[part] = _attend_segment(queries[part], keys, values, segment, scaling, window)
    return output


def _attend_decoding(
    queries: Tensor, keys: Tensor, values: Tensor, step: Step, scaling: float, window: int | None
) -> Tensor:
    """Few query tokens a row, over all its pages: [tokens, heads, head dim] in and out.

    The context is attended in parts, which are merged by their softmax weights (Flash-Decoding, Dao et al. 2023).
    """
    n_tokens, n_heads, head_dim = queries.shape
    n_kv_heads = keys.shape[1]
    queries = queries.view(n_tokens, n_kv_heads, n_heads // n_kv_heads, head_dim)  # (T, KV, G, D)
    exact = 2.0 ** math.floor(math.log2(scaling))  # changes no digit; unscaled scores may be too large for float16
    queries = queries * exact
    by_row = queries.index_select(0, step.slots.flatten()).view(*step.slots.shape, *queries.shape[1:])
    merged = _merged(*_attend_all_pages(by_row.transpose(1, 2), keys, values, step, scaling / exact, window))
    merged = merged.transpose(1, 2).flatten(0, 1).index_select(0, step.slot_of_token)  # (T, KV, G, D)
    return merged.to(queries.dtype).view(n_tokens, n_heads, head_dim)


def _merged(log_total: Tensor, output: Tensor) -> Tensor:
    """Attention over the whole context from its parts, which lie along the second dimension."""
    return (log_total.softmax(1) * output).sum(1)


def _attend_all_pages(
    queries: Tensor, keys: Tensor, values: Tensor, step: Step, scaling: float, window: int | None
) -> tuple[Tensor, Tensor]:
    """Attend every page on its own: [rows, KV heads, slots, group, head dim] to [rows, most pages, KV heads, ...].

    Pages of one row are attended as one batch over the front of the pool, which reads the cache in place and never
    expands the KV heads; a page of several rows is read once for all of them.
    """
    parts = [_attend_pages(queries.index_select(0, step.page_reader), keys, values, scaling, step.page_bias(window))]
    for shared in step.shared:
        readers = queries.index_select(0, shared.readers)
        parts.append(_attend_shared(readers, keys, values, shared, scaling, shared.bias(window)))
    log_total, output = (
        (part[0] if len(part) == 1 else torch.cat(part)).index_select(0, step.partials.flatten())
        for part in zip(*parts, strict=True)
    )
    log_total, output = (part.unflatten(0, step.partials.shape) for part in (log_total, output))
    return log_total.masked_fill(step.is_filling[..., None, None, None, None], -math.inf), output


class Part(NamedTuple):
    """Attention over single pages, still to be merged: each [pages, KV heads, slots, group, 1 or head dim].

    Attributes:
        log_total: the logarithm of the sum of the exponentiated scores, float32.
        output: the values weighted by the softmax of the page's scores.
    """

    log_total: Tensor
    output: Tensor


def _attend_pages(queries: Tensor, keys: Tensor, values: Tensor, scaling: float, bias: Tensor | None) -> Part:
    """Attend every page by queries of its own: [pages, KV heads, slots, group, head dim]."""
    (n_slots, group, head_dim), page_size = queries.shape[2:], keys.shape[2]
    rows = queries.reshape(-1, n_slots * group, head_dim)  # (pages * KV, slots * G, D)
    scores = _scores(rows, keys.flatten(0, 1)).view(*queries.shape[:-1], page_size)  # (pages, KV, slots, G, size)
    scores = scores * scaling if bias is None else torch.add(bias, scores, alpha=scaling)
    weights = scores.softmax(-1)
    output = torch.bmm(weights.to(values.dtype).view(*rows.shape[:2], page_size), values.flatten(0, 1))
    # The highest weight is 1 / sum(exp(scores - highest)): the total follows without another pass of exponentials.
    log_total = scores.amax(-1, keepdim=True) - weights.amax(-1, keepdim=True).log_()
    return Part(log_total, output.view(queries.shape))


def _scores(queries: Tensor, keys: Tensor) -> Tensor:
    """Products of a batch of queries and keys, [batch, queries, head dim] and [batch, keys, head dim], in float32.

    A product of 16-bit matrices is rounded to 16 bits. Where its entries are large, as in Qwen2, whose keys have large
    biases in common, that loses the differences between keys; a second product then brings what was rounded off.
    """
    scores = torch.bmm(queries, keys.transpose(1, 2))
    if scores.dtype == torch.float32:
        return scores
    if scores.device.type == "cpu":  # any other device would have to be waited for, in every layer
        lowest, highest = scores.aminmax()
        if max(-lowest, highest) * torch.finfo(scores.dtype).eps / 2 < _MAX_ROUNDING:
            return scores.float()
    rounded_off = torch.baddbmm(scores, queries, keys.transpose(1, 2), beta=-1)  # rounded after it is summed
    return scores.float().add_(rounded_off)


def _attend_shared(
    queries: Tensor, keys: Tensor, values: Tensor, shared: SharedPages, scaling: float, bias: Tensor | None
) -> Part:
    """Attend pages that all of these rows read: [rows, KV heads, slots, group, head dim].

    The rows' queries are put side by side, so that each page meets them in one matrix product. The parts come page by
    page, row by row.
    """
    n_rows, n_slots, n_pages = len(queries), queries.shape[2], len(shared.pages)
    together = queries.transpose(0, 1).flatten(1, 2).expand(n_pages, -1, -1, -1, -1)  # (pages, KV, rows * slots, G, D)
    shared_keys, shared_values = (pool.index_select(0, shared.pages) for pool in (keys, values))
    part = _attend_pages(together, shared_keys, shared_values, scaling, bias)
    by_row = (x.view(n_pages, -1, n_rows, n_slots, *x.shape[3:]).transpose(1, 2).flatten(0, 1) for x in part)
    return Part(*by_row)


def _attend_segment(
    queries: Tensor, keys: Tensor, values: Tensor, segment: Segment, scaling: float, window: int | None
) -> Tensor:
    """Several query tokens of one row over its whole context, itself included: [tokens, heads, head dim] in and out."""
    n_new, n_context = segment.stop - segment.start, segment.n_context
    context_keys, context_values = (joined(pool, segment.pages, n_context)[None] for pool in (keys, values))
    mask = segment.mask(window, queries.dtype)
    takes_groups = queries.device.type in _TAKES_GROUPS
    if not takes_groups:
        group = queries.shape[1] // keys.shape[1]
        context_keys, context_values = (x.repeat_interleave(group, 1) for x in (context_keys, context_values))
    attended = F.scaled_dot_product_attention(
        queries.transpose(0, 1)[None],
        context_keys,
        context_values,
        attn_mask=mask,
        is_causal=mask is None and n_new > 1,
        scale=scaling,
        enable_gqa=takes_groups,
    )
    return attended[0].transpose(0, 1)
