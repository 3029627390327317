"""Attention of a packed step over the paged KV cache, registered through Transformers' attention interface.

The model's own forward runs unchanged; where it would call its attention kernel it calls `paged_attention`, which
stores the step's keys and values in their pages first, so that every token finds its whole context there.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from rank1_hf.decoding.kv_cache import PAGE_SIZE
from rank1_hf.decoding.step import Segment, Step

NAME = "rank1_paged"
_LOWEST = -1e30  # below every score, and finite: the maximum of a page that is hidden altogether


def use_paged_attention(model: PreTrainedModel) -> None:
    """Switch a model to `paged_attention`. From then on its forward needs `step=`.

    Raises:
        ValueError: the model does not take its attention from Transformers' attention interface.
    """
    if not model._supports_attention_backend:
        raise ValueError(
            f"{type(model).__name__} does not use Transformers' attention interface, which rank1_hf decodes through; "
            "use a model that does (Qwen2, Llama, Mistral and most others)"
        )
    AttentionInterface.register(NAME, paged_attention)
    model.set_attn_implementation(NAME)


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # always None: what a token may see follows from its row and position
    *,
    scaling: float,
    step: Step,
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
    step.cache.write(layer, step.pages, step.offsets, key[0].transpose(0, 1), value[0].transpose(0, 1))
    keys, values = step.cache.layer(layer)
    queries = query[0].transpose(0, 1)
    output = torch.empty_like(queries)
    n_decoding = len(step.decoding)
    if n_decoding:
        output[:n_decoding] = _attend_decoding(queries[:n_decoding], keys, values, step, scaling, sliding_window)
    for segment in step.segments:
        part = slice(segment.start, segment.stop)
        output[part] = _attend_segment(queries[part], keys, values, segment, scaling, sliding_window)
    return output[None], None


def _attend_decoding(
    queries: Tensor, keys: Tensor, values: Tensor, step: Step, scaling: float, window: int | None
) -> Tensor:
    """One query token a row, over all pages at the front of the pool: [rows, heads, head dim] in and out.

    Every page is attended by the row that owns it, as one batch of small matrix products that reads the cache in place
    and never expands the KV heads; then the pages of a row are merged by their softmax weights (Flash-Decoding, Dao et
    al. 2023, with a page as the split).
    """
    n_rows, n_heads, head_dim = queries.shape
    n_pages, n_kv_heads = keys.shape[:2]
    group = n_heads // n_kv_heads  # query heads that share a KV head
    by_page = queries.view(n_rows, n_kv_heads, group, head_dim)[step.page_reader].flatten(0, 1)

    scores = torch.bmm(by_page, keys.flatten(0, 1).transpose(1, 2)).view(n_pages, n_kv_heads, group, PAGE_SIZE)
    scores = (scores.float() * scaling).masked_fill_(step.page_mask(window), -math.inf)
    page_max = scores.amax(-1, keepdim=True).clamp_(min=_LOWEST)
    weights = scores.sub_(page_max).exp_()
    page_output = torch.bmm(weights.to(values.dtype).flatten(0, 1), values.flatten(0, 1))

    page_output = page_output.view(n_pages, n_kv_heads, group, head_dim)[step.reader_pages].float()
    page_sum = weights.sum(-1, keepdim=True)[step.reader_pages]
    page_max = page_max[step.reader_pages].masked_fill_(step.is_filling[..., None, None, None], -math.inf)
    page_weight = (page_max - page_max.amax(1, keepdim=True)).exp_()
    merged = (page_weight * page_output).sum(1) / (page_weight * page_sum).sum(1)
    return merged.to(queries.dtype).view(n_rows, n_heads, head_dim)


def _attend_segment(
    queries: Tensor, keys: Tensor, values: Tensor, segment: Segment, scaling: float, window: int | None
) -> Tensor:
    """Several query tokens of one row over its whole context, itself included: [tokens, heads, head dim] in and out."""
    n_new, n_context = segment.stop - segment.start, segment.n_context
    context_keys, context_values = (
        pool[segment.pages].transpose(0, 1).flatten(1, 2)[None, :, :n_context] for pool in (keys, values)
    )
    whole = n_new == n_context and (window is None or window >= n_context)
    mask = None
    if not whole:
        position = torch.arange(n_context, device=queries.device)
        distance = position[n_context - n_new :, None] - position
        mask = (distance >= 0) if window is None else (distance >= 0) & (distance < window)
    attended = F.scaled_dot_product_attention(
        queries.transpose(0, 1)[None],
        context_keys,
        context_values,
        attn_mask=mask,
        is_causal=whole,
        scale=scaling,
        enable_gqa=True,
    )
    return attended[0].transpose(0, 1)
