"""How a row's decoding ends: with a verdict, or with an error that says what to do."""

import math

import torch
from transformers import PreTrainedModel

from rank1_hf.decoding.in_flight import NextToken
from rank1_hf.decoding.kv_cache import KVCache, RowKV
from rank1_hf.decoding.requests import Decoded
from rank1_hf.decoding.row import Row


def verdict(row: Row, next_token: NextToken, cache: KVCache, model: PreTrainedModel) -> Decoded:
    """The outcome of a chain that has ended, by the logits behind it."""
    true_logit, false_logit = next_token.answers
    if not all(map(math.isfinite, (next_token.logit, true_logit, false_logit))):
        return not_finite(row, cache, model)
    row.notify("verdict", len(row.chain.tokens), None, next_token.reading)
    return Decoded(row.request.index, row.chain.thought, row.chain.ended, true_logit, false_logit)


def not_finite(row: Row, cache: KVCache, model: PreTrainedModel) -> Decoded:
    """The outcome where a logit is NaN or inf."""
    n_layers, found = model.config.num_hidden_layers, "the model's logits are not finite (NaN or inf)"
    if model.dtype == torch.float16:
        found = f"float16, which ends at 65,504, overflowed in layer {_overflown_layer(cache, row.kv, n_layers)}"
    advice = "try dtype='bfloat16' or 'float32', and check the checkpoint's weights"
    return row.failed(f"{found} after {len(row.chain.tokens)} tokens; {advice}")


def too_large(row: Row) -> Decoded:
    """The outcome where the row does not fit into memory, even alone."""
    return row.failed(
        f"there is no memory for this pair, even alone, after {len(row.chain.tokens)} tokens; lower max_new_tokens or "
        "max_length, raise kv_cache_tokens if you have set it, or use a smaller or quantized model"
    )


def _overflown_layer(cache: KVCache, row: RowKV, n_layers: int) -> int:
    """The layer whose output is NaN or inf: the one before the first whose keys and values are, or the last."""
    for layer in range(n_layers):
        if not cache.is_finite(row, layer):
            return max(layer - 1, 0)
    return n_layers - 1
