"""Which of several ways to run a model on a GPU to take: the best that fits, and the fastest."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from transformers import AutoConfig, PretrainedConfig

from rank1_hf.models.cards import GIB, Gpu
from rank1_hf.models.family import FAMILY
from rank1_hf.models.planning import QUANTIZATIONS, MemoryPlan, Size, plan, ways_to_load

ENOUGH_PAIRS = 32
"""Pairs that must have room together in what is recommended as the best, where anything has so much: a step reads all
weights once for all of them."""

_FROM_PRECISE = (None, *QUANTIZATIONS)


@dataclass(frozen=True, slots=True)
class Way:
    """A way to run a model.

    Attributes:
        model: its name.
        n_weights: how many it has; more is better.
        quantization: see `planning.ways_to_load`; less is better.
        plan: what that would be like.
        room: the pairs that have room in the KV cache together; `plan.rows` is less where fewer are faster.
    """

    model: str
    n_weights: int
    quantization: str | None
    plan: MemoryPlan
    room: int

    @classmethod
    def of(
        cls,
        model: str,
        config: PretrainedConfig,
        gpu: Gpu,
        quantization: str | None,
        *,
        size: Size,
        dtype: torch.dtype = torch.bfloat16,
        prompt_tokens: int = 400,
        chain_tokens: int = 300,
    ) -> "Way":
        """A model on a GPU; see `planning.plan`."""
        found = plan(
            config,
            gpu,
            size=size,
            quantization=quantization,
            dtype=dtype,
            prompt_tokens=prompt_tokens,
            chain_tokens=chain_tokens,
        )
        room = max(0, found.kv_tokens // (prompt_tokens + chain_tokens))
        return cls(model, size.total, quantization, found, room)


def best_that_fits(ways: Iterable[Way]) -> Way | None:
    """The largest model for which enough pairs have room, as little quantized as that takes; where none has so much
    room, the way with the most.
    """
    fitting = [way for way in ways if way.plan.fits]
    roomy = [way for way in fitting if way.room >= ENOUGH_PAIRS]
    if not roomy:
        return max(fitting, key=lambda way: (way.room, way.n_weights), default=None)
    return max(roomy, key=lambda way: (way.n_weights, -_place(way.quantization)))


def fastest_that_fits(ways: Iterable[Way]) -> Way | None:
    """The way with the most pairs a minute; of equal ones the largest model, as little quantized as possible."""
    fitting = [way for way in ways if way.plan.fits]
    return max(
        fitting,
        key=lambda way: (way.plan.pairs_per_minute or 0.0, way.n_weights, -_place(way.quantization)),
        default=None,
    )


def candidates(ways: Iterable[Way]) -> list[Way]:
    """Of all ways those that are recommended: rank1 itself, in ways that need no library beside bitsandbytes."""
    return [way for way in ways if way.model in FAMILY and way.quantization in _FROM_PRECISE]


def why_too_large(config: PretrainedConfig, dtype: torch.dtype, quantization: str | None, free: int) -> str | None:
    """A sentence that says what would fit instead, if the weights alone do not fit into `free` bytes; else None."""
    size, gpu = Size.of(config), Gpu("", free)
    needed = size.n_bytes(dtype, quantization)
    if needed <= free:
        return None
    own = best_that_fits(Way.of("", config, gpu, kind, size=size, dtype=dtype) for kind in ways_to_load(config))
    best = best_that_fits(_family_ways(gpu))
    advice = [] if own is None else [f"quantization={own.quantization!r}"]
    if best is not None and (own is None or best.n_weights != own.n_weights):
        advice.append(f"{best.model} {f'with quantization={best.quantization!r}' if best.quantization else 'as it is'}")
    instead = " or ".join(advice) or "a smaller model, or a larger GPU,"
    return (
        f"its weights take {needed / GIB:.1f} GiB and the GPU has {free / GIB:.1f} GiB free; {instead} would fit, "
        "and device_map='auto' moves what does not fit to the CPU, slowly"
    )


def _family_ways(gpu: Gpu) -> Iterator[Way]:
    for name, shape in FAMILY.items():
        config = AutoConfig.for_model(**shape)
        size = Size.of(config)
        yield from (Way.of(name, config, gpu, kind, size=size) for kind in _FROM_PRECISE)


def _place(quantization: str | None) -> int:
    return _FROM_PRECISE.index(quantization) if quantization in _FROM_PRECISE else len(_FROM_PRECISE)
