"""Which of several ways to run a model on a GPU to take: the best that fits, and the fastest."""

from collections.abc import Iterable
from dataclasses import dataclass

from rank1_hf.models.family import FAMILY
from rank1_hf.models.planning import QUANTIZATIONS, MemoryPlan

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


def _place(quantization: str | None) -> int:
    return _FROM_PRECISE.index(quantization) if quantization in _FROM_PRECISE else len(_FROM_PRECISE)
