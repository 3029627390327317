"""The belief curve of a judgment: what a trace says of a chain, small enough to be kept beside every judgment."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from rank1_hf.chains.beliefs import BeliefPoint, CurvePoint
from rank1_hf.results.judgment import Judgment, sigmoid

MOST_POINTS = 64
"""How many points a curve has at most: of more, the first, the last, and others evenly between them are kept."""

_DIGITS = 6  # of the numbers that are kept; float32 has hardly more


def belief_curve(judgment: Judgment) -> tuple[CurvePoint, ...]:
    """How the belief moved along a chain; the last point is the verdict. Empty where it was not read."""
    if judgment.belief is not None:
        return judgment.belief
    trace = judgment.trace
    if trace is None or not trace.belief or judgment.error is not None:
        return ()
    end = judgment.n_chain_tokens
    on_the_way = [point for point in trace.belief if point.n_tokens < end and math.isfinite(point.log_odds)]
    points = _thinned([*on_the_way, BeliefPoint(end, judgment.log_odds)])
    characters = [0, *accumulate(map(len, trace.texts))]
    starts = [0, *(point.n_tokens for point in points)]
    return tuple(
        CurvePoint(
            n_tokens=point.n_tokens,
            n_characters=characters[min(point.n_tokens, len(trace.texts))],
            score=round(sigmoid(point.log_odds), _DIGITS),
            log_odds=round(point.log_odds, _DIGITS),
            entropy=_mean(trace.entropies[start:stop]),
        )
        for point, (start, stop) in zip(points, pairwise(starts), strict=True)
    )


def with_curve(judgment: Judgment) -> Judgment:
    """The same judgment with its belief curve in the place of its trace, which is as long as the chain."""
    return judgment if judgment.trace is None else replace(judgment, belief=belief_curve(judgment), trace=None)


def mean_entropy(curve: Sequence[CurvePoint]) -> float | None:
    """How unsure the model was along a chain: the mean entropy of its tokens, in nats; None where it is not known."""
    starts = [0, *(point.n_tokens for point in curve)]
    known = [
        (point.entropy, stop - start)
        for point, (start, stop) in zip(curve, pairwise(starts), strict=True)
        if point.entropy is not None
    ]
    n_tokens = sum(n for _, n in known)
    return round(sum(entropy * n for entropy, n in known) / n_tokens, _DIGITS) if n_tokens else None


def _thinned(points: Sequence[BeliefPoint]) -> list[BeliefPoint]:
    if len(points) <= MOST_POINTS:
        return list(points)
    return [points[round(place * (len(points) - 1) / (MOST_POINTS - 1))] for place in range(MOST_POINTS)]


def _mean(entropies: Sequence[float]) -> float | None:
    known = [entropy for entropy in entropies if math.isfinite(entropy)]
    return round(math.fsum(known) / len(known), _DIGITS) if known else None
