"""How many tokens the KV cache may hold on a device: its free memory, less what a step needs besides."""

from collections.abc import Callable

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


MAX_CAPTURED_TOKENS = 512
"""The most tokens of a decode step that is captured as a CUDA graph."""

MAX_SPLITS = 32
"""The most parts of a context that a GPU's attention kernel leaves to be merged."""

_DRAFTED_TOKENS = 128  # of a step, at most

_WORKSPACE_BYTES = 32 * 2**20  # what cuBLAS keeps for each stream on Hopper and Blackwell; elsewhere 8 MiB


def kv_bytes_per_token(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """The bytes of one token's keys and values, over all layers."""
    return 2 * int(config.num_hidden_layers) * kv_heads(config) * head_dim(config) * dtype.itemsize


def step_bytes(
    config: PretrainedConfig,
    dtype: torch.dtype,
    *,
    n_tokens: int,
    n_rows: int,
    on_gpu: bool,
    captures: bool = True,
    is_quantized: bool = False,
) -> int:
    """What steps take besides weights and KV, roughly.

    On a GPU that is the largest step and the largest captured step, whose graph keeps its memory for itself, and
    cuBLAS's workspace for the stream of each.

    Args:
        config: the model's.
        dtype: of its activations.
        n_tokens: the most tokens a step feeds.
        n_rows: the most rows a step gives logits for.
        on_gpu: whether it runs on a CUDA device.
        captures: whether decode steps are captured there.
        is_quantized: whether weights are written out in `dtype` where a step has many tokens.
    """
    largest = activation_bytes(config, dtype, n_tokens=n_tokens, n_rows=n_rows, is_quantized=is_quantized)
    if not on_gpu:
        return largest
    n = min(MAX_CAPTURED_TOKENS, 2 * n_rows + _DRAFTED_TOKENS)  # a forced close brings several tokens
    captured = activation_bytes(config, dtype, n_tokens=n, n_rows=n, is_quantized=is_quantized) + _WORKSPACE_BYTES
    return largest + _WORKSPACE_BYTES + captures * captured


def activation_bytes(
    config: PretrainedConfig, dtype: torch.dtype, *, n_tokens: int, n_rows: int, is_quantized: bool = False
) -> int:
    """What one step takes besides weights and KV, roughly: its attention, its MLP or its logits, the largest of them.

    Of a token attention has about eight states alive (the stream, the normed one, queries, keys, values, two of them
    once more while they are rotated, the output), the MLP three and three of its inner ones. Of rows with few tokens
    Triton's attention has the parts of their contexts, in float32. Of quantized weights the largest matrix is written
    out.
    """
    hidden, inner = config.hidden_size, getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    parts = min(n_rows, n_tokens) * config.num_attention_heads * MAX_SPLITS * (head_dim(config) + 1)
    attention = n_tokens * 8 * hidden * dtype.itemsize + parts * torch.float32.itemsize
    mlp = n_tokens * (3 * hidden + 3 * inner) * dtype.itemsize
    logits = (n_tokens * 2 * hidden + n_rows * config.vocab_size) * dtype.itemsize
    written_out = hidden * inner * dtype.itemsize if is_quantized else 0
    return int(max(attention + written_out, mlp + written_out, logits))


def expected_rows(room: float, row_bytes: float, steps: Callable[[int], int], most: int = EXPECTED_ROWS) -> int:
    """How many rows memory for steps is reserved for: fewer where their own KV would not have room beside that.

    Args:
        room: what KV and steps may take together, in bytes.
        row_bytes: the KV of a row.
        steps: what steps of so many rows take.
        most: the most rows.
    """
    while most > 1 and steps(most) + most * row_bytes > room:
        most //= 2
    return most


def kv_budget(
    config: PretrainedConfig,
    dtype: torch.dtype,
    device: torch.device,
    *,
    prefill_tokens: int,
    n_rows: int = EXPECTED_ROWS,
    utilization: float = 0.9,
    share: float = 1.0,
    captures: bool = False,
    is_quantized: bool = False,
) -> int:
    """How many tokens the KV cache may hold, with the weights loaded.

    Args:
        config: the model's.
        dtype: of keys and values.
        device: where they lie.
        prefill_tokens: the most tokens a step feeds besides one of each row.
        n_rows: the most rows that decode together, where there is memory for them.
        utilization: the share of a GPU's memory to use in all, weights included.
        share: the share of the model's layers that lie on this device.
        captures, is_quantized: see `step_bytes`.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        # What PyTorch holds in its cache and does not use is free for us too.
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        usable = free - (1 - utilization) * total
    else:
        usable = psutil.virtual_memory().available * CPU_SHARE
    per_token = share * kv_bytes_per_token(config, dtype)

    def steps(rows: int) -> int:
        return step_bytes(
            config,
            dtype,
            n_tokens=prefill_tokens + rows,
            n_rows=rows,
            on_gpu=device.type == "cuda",
            captures=captures,
            is_quantized=is_quantized,
        )

    usable -= steps(expected_rows(usable, TYPICAL_TOKENS * per_token, steps, n_rows))
    return max(int(usable / per_token), 1)


def kv_heads(config: PretrainedConfig) -> int:
    """The heads of keys and values: as many as there are of queries where the config says nothing else."""
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def head_dim(config: PretrainedConfig) -> int:
    """The numbers of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
