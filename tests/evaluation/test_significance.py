"""Paired tests against their definitions, SciPy called directly, and statsmodels."""

import itertools
import random

import numpy as np
import pytest
from scipy import stats

from rank1_hf.evaluation.significance import differences, holm, paired_t_test, permutation_test

BEFORE = [0.2, 0.5, 0.9, 0.4, 0.0, 1.0, 0.3]
AFTER = [0.4, 0.5, 0.8, 0.9, 0.1, 1.0, 0.6]


def column(seed: int, n: int) -> list[float]:
    draw = random.Random(seed)
    return [draw.choice([0.0, 0.25, 0.5, 1.0, draw.random()]) for _ in range(n)]


def test_the_t_test_is_scipy_s():
    assert paired_t_test(BEFORE, AFTER) == stats.ttest_rel(AFTER, BEFORE).pvalue
    assert paired_t_test(AFTER, BEFORE) == pytest.approx(paired_t_test(BEFORE, AFTER), rel=1e-12)


def test_the_permutation_test_of_few_queries_tries_all_signs():
    changes = np.subtract(AFTER, BEFORE)
    sums = [abs(np.dot(signs, changes)) for signs in itertools.product((1, -1), repeat=len(changes))]
    expected = np.mean([each >= abs(changes.sum()) - 1e-12 for each in sums])
    assert permutation_test(BEFORE, AFTER) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_the_permutation_test_of_many_queries_is_that_of_scipy_over_both_columns(seed: int):
    before, after = column(seed, 120), column(seed + 100, 120)
    expected = stats.permutation_test(
        (after, before),
        lambda x, y, axis: np.mean(x, axis=axis) - np.mean(y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        rng=np.random.default_rng(7),
    ).pvalue
    found = permutation_test(before, after)
    assert found == pytest.approx(expected, abs=0.03)
    assert found == permutation_test(before, after)  # without chance from call to call


def test_equal_queries_change_nothing_of_the_permutation_test():
    assert permutation_test(BEFORE + [0.7] * 50, AFTER + [0.7] * 50) == permutation_test(BEFORE, AFTER)


@pytest.mark.parametrize(
    ("before", "after", "t_test", "permutation"),
    [
        ([0.5], [0.9], None, None),  # one query
        ([], [], None, None),
        ([0.5, 0.7], [0.5, 0.7], None, 1.0),  # no difference
        ([0.5, 0.7, 0.1], [0.5, 0.9, 0.1], pytest.approx(0.42264973), 1.0),  # a single one
        ([0.0, 0.1, 0.2], [0.5, 0.6, 0.7], None, 0.25),  # differences that do not vary: 2 of 8 sign patterns
        ([0.3, 0.1 + 0.2], [0.1 + 0.2, 0.3], None, 1.0),  # which differ by rounding alone
    ],
)
def test_where_there_is_nothing_to_test(before, after, t_test, permutation):
    assert paired_t_test(before, after) == t_test
    assert permutation_test(before, after) == permutation


def test_differences_that_are_rounding_are_none():
    assert list(differences([0.3, 0.5, 0.0], [0.1 + 0.2, 0.25, 1e-12])) == [0.0, -0.25, 1e-12]


def test_sums_that_differ_by_rounding_alone_are_ties():
    """The differences of P@5 sum to 0, but not in floats: no sign pattern is nearer to 0 than what was seen."""
    before, after = [0.0, 0.0, 0.6, 0.0, 0.2], [0.2, 0.2, 0.0, 0.4, 0.0]
    assert sum(np.subtract(after, before)) != 0
    for order in itertools.permutations(range(5)):
        assert permutation_test([before[place] for place in order], [after[place] for place in order]) == 1.0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # 3 * .01; 2 * .03; .04, raised to .06
    assert holm([0.01, None, 0.4]) == [pytest.approx(0.03), None, pytest.approx(0.8)]  # None counts among the three
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_holm_is_that_of_statsmodels(n: int):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    draw = random.Random(n)
    p_values = [draw.random() ** 3 for _ in range(n)]
    assert holm(p_values) == pytest.approx(list(multitest.multipletests(p_values, method="holm")[1]), rel=1e-12)
