"""What graphics cards are and can do: memory, speed, bfloat16, and when bitsandbytes leaves its fused 4-bit kernel."""

import re
from dataclasses import dataclass

import torch

GIB = 2**30

_SMALL = 4 * 1024 * 1024  # weights of a matrix; bitsandbytes decides by other rules below


@dataclass(frozen=True, slots=True)
class Speed:
    """What a GPU can do: bytes read from its memory, and 16-bit operations of its tensor cores, a second."""

    bandwidth: float
    operations: float


TYPICAL_SPEED = Speed(bandwidth=1e12, operations=150e12)
"""Of a card that is not known: 150 operations a byte, as most of those below."""


@dataclass(frozen=True, slots=True)
class FusedTokens:
    """Up to how many tokens bitsandbytes multiplies 4-bit matrices without writing them out in 16 bits first.

    It decides by the card and the matrix [n, k]. These are the figures of a 7B model's four kinds of matrices; those of
    other models differ by little on the cards that they fit.

    Attributes:
        square: queries and the attention's output, [3584, 3584].
        small: keys and values, [512, 3584].
        wide: gate and up, [18944, 3584].
        tall: down, [3584, 18944].
    """

    square: int
    small: int
    wide: int
    tall: int

    def of(self, n: int, k: int) -> int:
        """The figure for a matrix with `n` outputs and `k` inputs."""
        if n * k < _SMALL:
            return self.small
        return self.wide if n >= 2 * k else self.tall if k > 2 * n else self.square


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU: its memory in bytes; its speed and its figures for 4-bit weights where they are known."""

    name: str
    memory: int
    speed: Speed | None = None
    fused_4bit: FusedTokens | None = None


GPUS = {
    name.lower(): Gpu(name, gib * GIB, Speed(gigabytes * 1e9, teraflops * 1e12), FusedTokens(*fused))
    for name, gib, gigabytes, teraflops, fused in [
        ("T4", 16, 320, 65, (64, 64, 128, 64)),  # in float16: it has no bfloat16
        ("L4", 24, 300, 121, (32, 23, 256, 128)),
        ("A10", 24, 600, 125, (64, 23, 128, 64)),
        ("RTX3060", 12, 360, 25, (128, 16, 128, 128)),
        ("RTX3090", 24, 936, 71, (64, 23, 128, 64)),
        ("RTX4060Ti", 16, 288, 44, (32, 23, 256, 128)),
        ("RTX4070", 12, 504, 58, (32, 23, 256, 128)),
        ("RTX4080", 16, 717, 97, (32, 23, 256, 64)),
        ("RTX4090", 24, 1008, 165, (8, 23, 128, 16)),
        ("RTX5090", 32, 1792, 209, (8, 23, 64, 8)),
        ("A100", 80, 2039, 312, (5, 32, 64, 5)),
        ("H100", 80, 3350, 989, (7, 32, 48, 5)),
        ("H200", 141, 4800, 989, (7, 32, 48, 5)),
    ]
}
"""Memory and speed from NVIDIA's data sheets, of the variant with this much memory; operations without sparsity, summed
in float32. The figures for 4-bit weights are what bitsandbytes 0.50.2 answers for these cards."""


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


def gpu_here(device: torch.device | None = None) -> Gpu:
    """A GPU of this machine; None: the first.

    Raises:
        ValueError: there is none.
    """
    if not torch.cuda.is_available():
        raise ValueError(f"there is no CUDA GPU here; name one with --gpu, like 24GiB or one of {known_gpus()}")
    properties = torch.cuda.get_device_properties(device or 0)
    known = _known_as(properties.name)
    if known is None:
        return Gpu(properties.name, properties.total_memory)
    return Gpu(properties.name, properties.total_memory, known.speed, known.fused_4bit)


def known_gpus() -> str:
    """The names that `parse_gpu` knows."""
    return ", ".join(gpu.name for gpu in GPUS.values())


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16; NVIDIA's cards before Ampere (T4, V100, RTX 20xx) emulate it, slowly."""
    if device.type == "mps":
        return bool(torch.backends.mps.is_macos_or_newer(14, 0))
    if device.type != "cuda" or torch.version.hip is not None:
        return True
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _known_as(name: str) -> Gpu | None:
    """A GPU by the name that its driver gives, like "NVIDIA A100-SXM4-80GB"; None: it is not known here.

    Names are compared by whole words: an L40S is no L4, an RTX 4070 Ti no RTX 4070.
    """
    words = [word for word in re.findall(r"[a-z0-9]+", name.lower()) if word not in ("nvidia", "tesla", "geforce")]
    names = [
        "".join(words[:n]) for n in range(1, len(words) + 1) if words[n:][:1] not in (["ti"], ["super"], ["laptop"])
    ]
    return next((GPUS[name] for name in names if name in GPUS), None)
