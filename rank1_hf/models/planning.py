"""What fits on a GPU, and how fast it can be at best, known from a config before anything is loaded."""

import math
from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from rank1_hf.models.cards import GIB, FusedTokens, Gpu
from rank1_hf.models.family import MEMBERS, full_name
from rank1_hf.models.memory import EXPECTED_ROWS, GPU_PREFILL_TOKENS, expected_rows, kv_bytes_per_token, step_bytes
from rank1_hf.models.products import Product, best_rows
from rank1_hf.models.quantization import stored_quantization
from rank1_hf.models.spellings import quantization_kind

CUDA_CONTEXT_BYTES = GIB // 2
"""What the CUDA context takes, about, before the first tensor."""

_BYTES_PER_WEIGHT = {
    # LLM.int8: a byte, and a float32 for each row, which is next to nothing.
    "8bit": 1.0,
    # NF4 with double quantization: half a byte, a byte for 64 weights, a float32 for 256 of these bytes.
    "4bit": 0.5 + 1 / 64 + 4 / (64 * 256),
    # AWQ as rank1's checkpoints have it: half a byte; a float16 and half a byte for 128 weights.
    "awq": 0.5 + (2 + 0.5) / 128,
}

PLANNED = tuple(_BYTES_PER_WEIGHT)
"""The kinds of quantization that are planned for."""

QUANTIZATIONS = ("8bit", "4bit")
"""Those that weights can be given as they are read."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How a model would run on a GPU. Sizes in bytes.

    Attributes:
        weights: the model's weights, quantized or not.
        reserve: what steps take besides, with the CUDA context and the share that is left to others.
        kv_per_token: keys and values of one token.
        kv_tokens: the tokens that the KV cache has room for; 0 or less where the model does not fit.
        rows: the pairs that decode together: as many as have room, or fewer where a step is then cheaper for each.
        pairs_per_minute: at most, by the roofline (Williams et al. 2009); None: the GPU's speed is unknown.
    """

    weights: int
    reserve: int
    kv_per_token: int
    kv_tokens: int
    rows: int
    pairs_per_minute: float | None

    @property
    def fits(self) -> bool:
        """Whether at least one pair can be judged."""
        return self.rows >= 1


def check_quantization(quantization: str | None) -> None:
    """Refuse what cannot be planned for.

    Raises:
        ValueError: it is neither None nor one of `QUANTIZATIONS`, in any usual spelling.
    """
    if quantization_kind(quantization) not in (None, *QUANTIZATIONS):
        raise ValueError(f"quantization must be one of {', '.join(QUANTIZATIONS)}, not {quantization!r}")


def ways_to_load(config: PretrainedConfig) -> tuple[str | None, ...]:
    """The kinds of quantization that a checkpoint's weights may have in memory; None: as they are.

    Raises:
        ValueError: they are quantized on disk, in a way that is not planned for.
    """
    stored = stored_quantization(config)
    if stored is None:
        return (None, *QUANTIZATIONS)
    if stored not in PLANNED:
        raise ValueError(f"the checkpoint is quantized by {stored!r}, and what that takes is not known here")
    return (stored,)


def family_config(name: str) -> PretrainedConfig | None:
    """The config of a family member or of a relative, from the tables; None for other names."""
    member = full_name(name)
    return None if member is None else AutoConfig.for_model(**MEMBERS[member])


@dataclass(frozen=True, slots=True)
class Size:
    """How many weights a model has: in the linear layers that quantization shrinks, and elsewhere.

    Attributes:
        shapes: of the linear layers but the output layer: outputs and inputs.
        output: the weights of the output layer, which each step reads too; of `others`.
        others: all weights besides, those that are shared counted once.
    """

    shapes: tuple[tuple[int, int], ...]
    output: int
    others: int

    @classmethod
    def of(cls, config: PretrainedConfig) -> "Size":
        """The size of the causal LM that a config describes."""
        with torch.device("meta"):  # all parameters, without memory for them
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        output = model.get_output_embeddings()
        layers = [part for part in model.modules() if isinstance(part, nn.Linear) and part is not output]
        shapes = tuple((layer.out_features, layer.in_features) for layer in layers)
        return cls(shapes, output.weight.numel(), model.num_parameters() - sum(n * k for n, k in shapes))

    @property
    def linear(self) -> int:
        """The weights of the linear layers."""
        return sum(n * k for n, k in self.shapes)

    @property
    def total(self) -> int:
        """All weights, those that are shared counted once."""
        return self.linear + self.others

    def n_bytes(self, dtype: torch.dtype, quantization: str | None = None) -> int:
        """What the weights take; `dtype` is that of those which are not quantized."""
        per_weight = _BYTES_PER_WEIGHT[quantization] if quantization else dtype.itemsize
        return int(self.others * dtype.itemsize + self.linear * per_weight)

    def products(self, dtype: torch.dtype, quantization: str | None, fused: FusedTokens | None) -> list[Product]:
        """What a step multiplies by; `fused` is the card's, and does for 4 bits only."""
        per_weight = _BYTES_PER_WEIGHT[quantization] if quantization else dtype.itemsize
        layers = [
            Product(
                n_layers * n * k,
                n_layers * n * k * per_weight,
                fused.of(n, k) if fused is not None and quantization == "4bit" else math.inf,
            )
            for (n, k), n_layers in Counter(self.shapes).items()
        ]
        return [*layers, Product(self.output, self.output * dtype.itemsize)]


def plan(
    config: PretrainedConfig,
    gpu: Gpu,
    *,
    size: Size | None = None,
    quantization: str | None = None,
    dtype: torch.dtype = torch.bfloat16,
    prompt_tokens: int = 400,
    chain_tokens: int = 300,
    utilization: float = 0.9,
) -> MemoryPlan:
    """How a model would run on a GPU.

    Args:
        config: a causal LM's.
        gpu: where it would run.
        size: the model's, where it is known already.
        quantization: one of `ways_to_load`.
        dtype: of what is not quantized, and of the KV cache.
        prompt_tokens, chain_tokens: the typical pair.
        utilization: the share of the GPU's memory to use in all.
    """
    size, kv_per_token = size or Size.of(config), kv_bytes_per_token(config, dtype)
    weights = size.n_bytes(dtype, quantization)
    room = gpu.memory - weights - CUDA_CONTEXT_BYTES - int((1 - utilization) * gpu.memory)

    def activation_bytes(rows: int) -> int:
        return step_bytes(
            config,
            dtype,
            n_tokens=GPU_PREFILL_TOKENS + rows,
            n_rows=rows,
            on_gpu=True,
            is_quantized=quantization is not None,
        )

    pair_tokens = prompt_tokens + chain_tokens
    room -= activation_bytes(expected_rows(room, pair_tokens * kv_per_token, activation_bytes))
    reserve, kv_tokens = gpu.memory - weights - room, room // kv_per_token
    rows = max(0, min(EXPECTED_ROWS, kv_tokens // pair_tokens))
    pairs_per_minute = None
    if gpu.speed and rows:
        products = size.products(dtype, quantization, gpu.fused_4bit)
        rows = best_rows(products, gpu.speed, rows)
        # A step reads every row's context too, which has half of its chain on average.
        kv_bytes = rows * (prompt_tokens + chain_tokens / 2) * kv_per_token
        step = sum(product.seconds(rows, gpu.speed) for product in products) + kv_bytes / gpu.speed.bandwidth
        prefill = prompt_tokens * 2 * size.linear / gpu.speed.operations
        pairs_per_minute = 60 / (prefill + chain_tokens * step / rows)
    return MemoryPlan(weights, reserve, kv_per_token, kv_tokens, rows, pairs_per_minute)
