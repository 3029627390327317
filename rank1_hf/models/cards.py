"""What graphics cards are and can do: memory, speed, bfloat16, and when bitsandbytes leaves its fused 4-bit kernel."""

import difflib
import re
from dataclasses import astuple, dataclass, replace
from statistics import median

import torch

from rank1_hf.models.card_table import CARDS

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


def _key(name: str) -> str:
    return name.lower().replace(" ", "")


GPUS = {
    _key(name): Gpu(name, gib * GIB, Speed(gigabytes * 1e9, teraflops * 1e12), FusedTokens(*fused))
    for name, gib, gigabytes, teraflops, fused in CARDS
}
"""The cards of the table by their names in lower case, without spaces."""

_MAKERS_WORDS = {
    *("nvidia", "geforce", "tesla", "generation", "blackwell", "workstation", "edition", "graphics", "gpu", "ac"),
    *("sxm", "sxm2", "sxm3", "sxm4", "sxm5", "sxm6", "hbm2", "hbm2e", "hbm3", "hbm3e"),
}
_OTHER_MAKERS = re.compile(
    r"amd|radeon|rx\d|(rx)?vega|instinct|mi\d{2,3}|intel|arc|gaudi|apple|m\d(pro|max|ultra)?$|\d{4}(xtx?|gre)$"
)
"""How the names of others' cards begin, and those that people call by number alone."""

_LAPTOPS_WORDS = {"mobile": "laptop", "notebook": "laptop"}


def parse_gpu(text: str) -> Gpu:
    """A GPU by its name or by its memory: "RTX 4090", "4090", "NVIDIA A100-SXM4-40GB", "4060ti-16", "RTX 6000 Ada";
    "24GiB", "24GB", "24576MiB".

    Raises:
        ValueError: it is neither; the message says what is like it.
    """
    size = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(gib|gb|g|mib|mb)?\s*", text.lower())
    if size is not None and size[2] and float(size[1]) > 0:
        # Vendors say GB and mean GiB, for memory.
        gibibytes = float(size[1]) / (1024 if size[2][0] == "m" else 1)
        return Gpu(f"{gibibytes:g} GiB", int(gibibytes * GIB))
    name, gib = _name_and_gib(text)
    variants = _variants(name)
    bare = re.fullmatch(r"(.+?)[\s_-]+(\d{1,3})\s*", text)  # "4060ti-16"
    if not variants and bare is not None and _variants(_name_and_gib(bare[1])[0]):
        return parse_gpu(f"{bare[1]} {bare[2]}GB")
    if not variants:
        raise ValueError(_unknown(text, name, bare_number=size is not None and "." not in text and float(size[1]) > 0))
    found = variants[0] if gib is None else next((gpu for gpu in variants if gpu.memory == gib * GIB), None)
    if found is None:
        there = dict.fromkeys([*variants, *_variants(f"{name}laptop")])
        sizes = " and ".join(f"{gpu.name} ({gpu.memory // GIB} GiB)" for gpu in there)
        raise ValueError(f"{text!r}: none of these has {gib} GiB: there is {sizes}; give one, or a size like 24GiB")
    return found


def other_sizes(gpu: Gpu) -> list[Gpu]:
    """The cards of the same name that have more or less memory."""
    return [each for each in _variants(_key(gpu.name.split()[0])) if each.name != gpu.name]


def typical(gpu: Gpu) -> Gpu:
    """A GPU of which only the memory is known, as a typical card that has it: with the medians of the known cards with
    the nearest memory.
    """
    nearest = min(abs(each.memory - gpu.memory) for each in GPUS.values())
    alike = [each for each in GPUS.values() if abs(each.memory - gpu.memory) == nearest]
    speeds = [each.speed for each in alike if each.speed]
    speed = Speed(median(each.bandwidth for each in speeds), median(each.operations for each in speeds))
    figures = zip(*(astuple(each.fused_4bit) for each in alike if each.fused_4bit), strict=True)
    return replace(gpu, speed=speed, fused_4bit=FusedTokens(*(int(median(each)) for each in figures)))


def gpu_here(device: torch.device | None = None) -> Gpu:
    """A GPU of this machine; None: the first.

    Raises:
        ValueError: there is none.
    """
    if not torch.cuda.is_available():
        raise ValueError("there is no CUDA GPU here; name one with --gpu, as in --gpu RTX4090 or --gpu 24GiB")
    properties = torch.cuda.get_device_properties(device or 0)
    variants = _variants(_name_and_gib(properties.name)[0])
    if not variants:
        return Gpu(properties.name, properties.total_memory)
    known = min(variants, key=lambda gpu: abs(gpu.memory - properties.total_memory))
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


def _name_and_gib(text: str) -> tuple[str, int | None]:
    """A card's name as `_key` has it, by whatever people and drivers call it; and the memory that is named with it."""
    words = [
        _LAPTOPS_WORDS.get(word, word)
        for word in re.findall(r"[a-z0-9]+", re.sub(r"(?<=\d) +(?=gi?b\b)", "", text.lower()))
        if word not in _MAKERS_WORDS
    ]
    words.sort(key=lambda word: word == "laptop")  # which then stands last
    sizes = [int(word.rstrip("gib")) for word in words if re.fullmatch(r"\d+(g|gb|gib)", word)]
    return "".join(word for word in words if not re.fullmatch(r"\d+(g|gb|gib)", word)), sizes[-1] if sizes else None


def _variants(name: str) -> list[Gpu]:
    """The cards of a name, one for each size of memory; the usual one first."""
    names = (name, f"rtx{name}", f"gtx{name}", f"titan{name}", name.replace("pcie", ""))
    for key in (*names, f"{name}laptop", f"rtx{name}laptop"):  # what only laptops have needs no word for that
        if key in GPUS:
            return [gpu for gpu in GPUS.values() if _key(gpu.name.split()[0]) == key]
    return []


def _unknown(text: str, name: str, *, bare_number: bool) -> str:
    if bare_number and len(name) <= 3:
        return f"{text!r}: a number of what? write {text.strip()}GiB for a GPU with so much memory"
    if _OTHER_MAKERS.match(name):
        return f"{text!r}: only NVIDIA's cards are known by name; give the memory of this one, a size like 8GiB"
    digits = re.sub(r"\D", "", name)
    alike = [gpu.name for key, gpu in GPUS.items() if digits and len(digits) > 2 and digits in key]
    alike = (
        alike or [GPUS[key].name for key in difflib.get_close_matches(name, GPUS, n=5)] or ["RTX4090", "A100", "H100"]
    )
    return (
        f"{text!r} is no GPU known here and no memory size; give one like 24GiB, or a name like {', '.join(alike)} "
        "(rank1-hf plan --gpu list shows all)"
    )
