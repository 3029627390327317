"""How many tokens the KV cache may hold on a device: its free memory, less what a step needs besides."""

import psutil
import torch
from transformers import PretrainedConfig

EXPECTED_ROWS = 256
"""The rows that memory for activations is reserved for."""

GPU_PREFILL_TOKENS = 4096
"""The most prompt tokens of a step on a GPU, which needs thousands to be busy."""

TYPICAL_TOKENS = 1024
"""What a row typically comes to, prompt and chain: what the KV cache of a GPU has room for from the start."""

CPU_SHARE = 0.5
"""The share of the free main memory that the KV cache takes on a CPU at most; other programs need some too."""


def kv_bytes_per_token(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """The bytes of one token's keys and values, over all layers."""
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(2 * config.num_hidden_layers * kv_heads * head_dim * dtype.itemsize)


def activation_bytes(config: PretrainedConfig, dtype: torch.dtype, *, n_tokens: int, n_rows: int) -> int:
    """What one step takes besides weights and KV, roughly: its attention, its MLP or its logits, the largest of them.

    Of a token attention has about eight states alive (the stream, the normed one, queries, keys, values, two of them
    once more while they are rotated, the output), the MLP two and three of its inner ones. A row's logits are there in
    the model's dtype and in float32.
    """
    hidden, inner = config.hidden_size, getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    layer = n_tokens * max(8 * hidden, 2 * hidden + 3 * inner) * dtype.itemsize
    in_float32 = torch.float32.itemsize + (dtype.itemsize if dtype != torch.float32 else 0)
    return int(max(layer, n_tokens * 2 * hidden * dtype.itemsize + n_rows * config.vocab_size * in_float32))


def kv_budget(
    config: PretrainedConfig,
    dtype: torch.dtype,
    device: torch.device,
    *,
    n_tokens: int,
    n_rows: int,
    utilization: float = 0.9,
    share: float = 1.0,
) -> int:
    """How many tokens the KV cache may hold, with the weights loaded.

    Args:
        config: the model's.
        dtype: of keys and values.
        device: where they lie.
        n_tokens: the most tokens a step feeds.
        n_rows: the most rows a step gives logits for.
        utilization: the share of a GPU's memory to use in all, weights included.
        share: the share of the model's layers that lie on this device.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        # What PyTorch holds in its cache and does not use is free for us too.
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        usable = free - (1 - utilization) * total
    else:
        usable = psutil.virtual_memory().available * CPU_SHARE
    usable -= activation_bytes(config, dtype, n_tokens=n_tokens, n_rows=n_rows)
    return max(int(usable / (share * kv_bytes_per_token(config, dtype))), 1)
