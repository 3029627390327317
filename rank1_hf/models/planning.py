"""What fits on a GPU, and how fast it can be at best, known from a config before anything is loaded."""

import re
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from rank1_hf.models.family import AWQ_FAMILY, FAMILY, RELATIVES
from rank1_hf.models.memory import EXPECTED_ROWS, GPU_PREFILL_TOKENS, activation_bytes, kv_bytes_per_token
from rank1_hf.models.quantization import stored_quantization

GIB = 2**30
CUDA_CONTEXT_BYTES = GIB // 2
"""What the CUDA context and the libraries' workspaces take, about, before the first tensor."""

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
class Speed:
    """What a GPU can do: bytes read from its memory, and 16-bit operations of its tensor cores, a second."""

    bandwidth: float
    operations: float


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU: its memory in bytes, and its speed where it is known."""

    name: str
    memory: int
    speed: Speed | None = None


GPUS = {
    name.lower(): Gpu(name, gib * GIB, Speed(gigabytes * 1e9, teraflops * 1e12))
    for name, gib, gigabytes, teraflops in [
        ("T4", 16, 320, 65),
        ("L4", 24, 300, 121),
        ("A10", 24, 600, 125),
        ("RTX3060", 12, 360, 25),
        ("RTX3090", 24, 936, 71),
        ("RTX4060Ti", 16, 288, 44),
        ("RTX4070", 12, 504, 58),
        ("RTX4080", 16, 717, 97),
        ("RTX4090", 24, 1008, 165),
        ("RTX5090", 32, 1792, 209),
        ("A100", 80, 2039, 312),
        ("H100", 80, 3350, 989),
        ("H200", 141, 4800, 989),
    ]
}
"""From NVIDIA's data sheets, of the variant with this much memory; operations without sparsity, summed in float32."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model would run on a GPU. Sizes in bytes.

    Attributes:
        weights: the model's weights, quantized or not.
        reserve: what a step takes besides, with the CUDA context and the share that is left to others.
        kv_per_token: keys and values of one token.
        kv_tokens: the tokens that the KV cache has room for; 0 or less where the model does not fit.
        rows: the pairs that decode together.
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


def parse_gpu(text: str) -> Gpu:
    """A GPU by its name or by its memory: "RTX4090", "24GiB", "24GB", "24".

    Raises:
        ValueError: it is neither.
    """
    known = GPUS.get(re.sub(r"[^a-z0-9]", "", text.lower()))
    if known is not None:
        return known
    size = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(gib|gb|g)?\s*", text.lower())
    if size is None or float(size[1]) == 0:
        raise ValueError(
            f"{text!r} is no GPU known here and no memory size; give one like 24GiB, or one of {known_gpus()}"
        )
    # Vendors say GB and mean GiB, for memory.
    return Gpu(f"{size[1]} GiB", int(float(size[1]) * GIB))


def gpu_here() -> Gpu:
    """The GPU of this machine.

    Raises:
        ValueError: there is none.
    """
    if not torch.cuda.is_available():
        raise ValueError(f"there is no CUDA GPU here; name one with --gpu, like 24GiB or one of {known_gpus()}")
    properties = torch.cuda.get_device_properties(0)
    return Gpu(properties.name, properties.total_memory, speed_of(properties.name))


def speed_of(name: str) -> Speed | None:
    """The speed of a GPU by the name that its driver gives, like "NVIDIA A100-SXM4-80GB"; None: it is not known here.

    Names are compared by whole words: an L40S is no L4, an RTX 4070 Ti no RTX 4070.
    """
    words = [word for word in re.findall(r"[a-z0-9]+", name.lower()) if word not in ("nvidia", "tesla", "geforce")]
    names = [
        "".join(words[:n]) for n in range(1, len(words) + 1) if words[n:][:1] not in (["ti"], ["super"], ["laptop"])
    ]
    return next((GPUS[name].speed for name in names if name in GPUS), None)


def check_quantization(quantization: str | None) -> None:
    """Refuse what cannot be planned for.

    Raises:
        ValueError: it is neither None nor one of `QUANTIZATIONS`.
    """
    if quantization not in (None, *QUANTIZATIONS):
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


def known_gpus() -> str:
    """The names that `parse_gpu` knows."""
    return ", ".join(gpu.name for gpu in GPUS.values())


def family_config(name: str) -> PretrainedConfig | None:
    """The config of a family member or of a relative, from the tables; None for other names."""
    members = FAMILY | AWQ_FAMILY | RELATIVES
    arguments = next((each for member, each in members.items() if name in (member, member.partition("/")[2])), None)
    return None if arguments is None else AutoConfig.for_model(**arguments)


@dataclass(frozen=True, slots=True)
class Size:
    """How many weights a model has: in the linear layers that quantization shrinks, and elsewhere."""

    linear: int
    others: int

    @classmethod
    def of(cls, config: PretrainedConfig) -> "Size":
        """The size of the causal LM that a config describes."""
        with torch.device("meta"):  # all parameters, without memory for them
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        output = model.get_output_embeddings()
        layers = [part for part in model.modules() if isinstance(part, nn.Linear) and part is not output]
        linear = sum(layer.weight.numel() for layer in layers)
        return cls(linear, model.num_parameters() - linear)

    @property
    def total(self) -> int:
        """All weights, those that are shared counted once."""
        return self.linear + self.others

    def n_bytes(self, dtype: torch.dtype, quantization: str | None = None) -> int:
        """What the weights take; `dtype` is that of those which are not quantized."""
        per_weight = _BYTES_PER_WEIGHT[quantization] if quantization else dtype.itemsize
        return int(self.others * dtype.itemsize + self.linear * per_weight)


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
) -> Plan:
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
    reserve = (
        CUDA_CONTEXT_BYTES
        + activation_bytes(config, dtype, n_tokens=GPU_PREFILL_TOKENS + EXPECTED_ROWS, n_rows=EXPECTED_ROWS)
        + int((1 - utilization) * gpu.memory)
    )
    kv_tokens = (gpu.memory - weights - reserve) // kv_per_token
    rows = max(0, min(EXPECTED_ROWS, kv_tokens // (prompt_tokens + chain_tokens)))
    pairs_per_minute = None
    if gpu.speed and rows:
        # A step reads all weights and every row's context, which is half of its chain long on average.
        step_bytes = weights + rows * (prompt_tokens + chain_tokens / 2) * kv_per_token
        operations_per_token = 2 * size.linear
        step = max(step_bytes / gpu.speed.bandwidth, rows * operations_per_token / gpu.speed.operations)
        prefill = prompt_tokens * operations_per_token / gpu.speed.operations
        pairs_per_minute = 60 / (prefill + chain_tokens * step / rows)
    return Plan(weights, reserve, kv_per_token, kv_tokens, rows, pairs_per_minute)


def largest_that_fits(gpu: Gpu, *, prompt_tokens: int = 400, chain_tokens: int = 300) -> tuple[str, str | None] | None:
    """The largest family member that fits a GPU, with as little quantization as it needs; None if there is none."""
    for name in reversed(FAMILY):
        config = AutoConfig.for_model(**FAMILY[name])
        size = Size.of(config)
        for quantization in (None, *QUANTIZATIONS):
            found = plan(
                config,
                gpu,
                size=size,
                quantization=quantization,
                prompt_tokens=prompt_tokens,
                chain_tokens=chain_tokens,
            )
            if found.fits:
                return name, quantization
    return None


def why_too_large(config: PretrainedConfig, dtype: torch.dtype, quantization: str | None, free: int) -> str | None:
    """A sentence that says what would fit instead, if the weights alone do not fit into `free` bytes; else None."""
    size, room = Size.of(config), Gpu("", free)
    needed = size.n_bytes(dtype, quantization)
    if needed <= free:
        return None
    smaller = [kind for kind in ways_to_load(config) if size.n_bytes(dtype, kind) < min(free, needed)]
    advice = [f"quantization={smaller[0]!r}"] if smaller else []
    if (largest := largest_that_fits(room)) is not None:
        name, kind = largest
        advice.append(f"{name} {f'with quantization={kind!r}' if kind else 'as it is'}")
    instead = " or ".join(advice) or "a smaller model, or a larger GPU,"
    return (
        f"its weights take {needed / GIB:.1f} GiB and the GPU has {free / GIB:.1f} GiB free; {instead} would fit, "
        "and device_map='auto' moves what does not fit to the CPU, slowly"
    )
