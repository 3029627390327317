"""Sharing pairs out: every pair once, neighbours together, about the same cost for each."""

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from rank1_hf.prompts.shares import shares

COSTS = st.lists(st.integers(0, 1000), max_size=60)
N = st.integers(1, 9)


@given(COSTS, N)
def test_the_runs_are_the_sequence_cut_in_n(costs: list[int], n: int):
    runs = shares(costs, n)
    assert len(runs) == n
    assert list(chain.from_iterable(runs)) == list(range(len(costs)))


@given(COSTS.filter(bool), N)
def test_each_costs_an_nth_give_or_take_the_largest(costs: list[int], n: int):
    for run in shares(costs, n):
        assert abs(sum(costs[place] for place in run) - sum(costs) / n) <= max(costs)


@given(COSTS, N)
def test_what_costs_nothing_stays_with_what_stands_before_it(costs: list[int], n: int):
    for run in shares(costs, n):
        if run and run.start > 0:
            assert costs[run.start] > 0


def test_by_cost_and_not_by_number():
    assert shares([30, 10, 10, 10], 2) == [range(1), range(1, 4)]
    assert shares([1] * 6, 3) == [range(2), range(2, 4), range(4, 6)]
    assert shares([], 2) == [range(0), range(0)]
