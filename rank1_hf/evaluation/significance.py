"""Whether the difference between two rankings could be chance: paired tests over the queries, by SciPy."""

from collections.abc import Sequence

import numpy as np

try:
    import scipy  # noqa: F401 (said now if it is missing; what takes long of it is imported where it is used)
except ImportError as error:
    raise ImportError("tests of significance need scipy; install it with: pip install scipy") from error

N_RESAMPLES = 9_999
"""Sign flips of the permutation test where there are too many to try them all: no p-value is below 0.0002."""

SEED = 0
"""Of the random sign flips, so that two calls give one p-value."""

_ROUNDING = 1e-9  # of a difference, as a share of what it is a difference of
_DECIMALS = 9
_NUMBERS_AT_A_TIME = 1 << 20  # of the permutation test, which would take gigabytes over thousands of queries


def differences(before: Sequence[float], after: Sequence[float]) -> np.ndarray:
    """after - before for each query, [queries] float64; 0 where that is rounding alone."""
    first, second = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    found: np.ndarray = np.where(np.isclose(first, second, rtol=_ROUNDING, atol=0), 0.0, second - first)
    return found


def paired_t_test(before: Sequence[float], after: Sequence[float]) -> float | None:
    """The p-value of a two-sided paired t-test; None where there is nothing to test: one query, or differences that do
    not vary.
    """
    found = np.subtract(after, before)
    if len(found) < 2 or np.ptp(found) <= _ROUNDING * np.max(np.abs((before, after))):
        return None
    from scipy.stats import ttest_rel

    return float(ttest_rel(after, before).pvalue)


def permutation_test(before: Sequence[float], after: Sequence[float]) -> float | None:
    """The p-value of a two-sided paired permutation test of the mean difference (Fisher's randomization test): the sign
    of each query's difference is flipped in all ways, or in `N_RESAMPLES` random ones. None with less than two queries.
    """
    if len(before) < 2:
        return None
    # A difference of 0 is the same under both signs, so it is left out: of many equal queries the test is as quick as
    # of few.
    found = differences(before, after)
    found = found[found != 0]
    if len(found) < 2:
        return 1.0  # a single difference is as large under either sign; SciPy takes two or more
    from scipy.stats import permutation_test as permuted

    result = permuted(
        (found / np.abs(found).max(),),
        _sum,
        permutation_type="samples",
        vectorized=True,
        n_resamples=N_RESAMPLES,
        batch=max(1, _NUMBERS_AT_A_TIME // len(found)),
        rng=np.random.default_rng(SEED),
    )
    return float(result.pvalue)


def _sum(changes: np.ndarray, axis: int) -> np.ndarray:
    """The sum, rounded so that sums that are equal but for rounding count as equal."""
    total: np.ndarray = np.round(np.sum(changes, axis=axis), _DECIMALS)
    return total


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values corrected for their number: the chance of any false discovery among them stays what it is of one.

    Of m values the i-th smallest (from 0) is multiplied by m - i, and is at least the one before it and at most 1. As
    in Holm, A simple sequentially rejective multiple test procedure (1979); SciPy has no such function. None, where
    there was nothing to test, stays None and counts among the m, as a p-value of 1 would.
    """
    tested = sorted((value, place) for place, value in enumerate(p_values) if value is not None)
    corrected: list[float | None] = [None] * len(p_values)
    last = 0.0
    for number, (value, place) in enumerate(tested):
        last = max(last, min(1.0, value * (len(p_values) - number)))
        corrected[place] = last
    return corrected
