"""Attention of a packed step over the paged KV cache, registered through Transformers' attention interface.

The model's own forward runs unchanged; where it would call its attention kernel it calls `paged_attention`, which
stores the step's keys and values in their pages first, so that every token finds its whole context there. The kernels
of the device (`kernels/`) then attend.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from rank1_hf.decoding.step import Step, TokenStep

NAME = "rank1_paged"


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
        key: [1, KV heads, tokens, head dim], rotated.
        value: of the same shape, not rotated.
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
    keys, values = step.cache.layer(layer)
    if step.probe is not None:
        step.probe.attended(layer, queries, scaling, window)
    parts = [step.kernels.attend(queries[part], keys, values, batch, scaling, window) for part, batch in step.batches]
    return parts[0] if len(parts) == 1 else torch.cat(parts)
