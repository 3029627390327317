"""Requests that come while others are decoded, and requests that nobody wants any more."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from rank1_hf.decoding.kv_cache import PAGE_SIZE
from rank1_hf.decoding.requests import Decoded, Request
from tests.decoding.oracle import Oracle, assert_same
from tests.decoding.test_reproducible import decoder as reproducible_decoder
from tests.decoding.test_steering import every_third, steered


def cancellable(requests: list[Request], cancelled: set[int]) -> list[Request]:
    return [replace(request, is_cancelled=lambda index=request.index: index in cancelled) for request in requests]


def kept(results: list[Decoded]) -> list[Decoded]:
    return [result for result in results if result.error is None]


def test_a_request_that_comes_later_joins_the_rows_that_are_live(case):
    folder, oracle, requests, expected = case("qwen2")
    decoder = oracle.decoder(folder)
    rows: list[int] = []

    def arriving() -> Iterator[Request | None]:
        for request in requests:
            yield request
            yield None

    results = list(decoder.run(arriving(), on_step=lambda stats: rows.append(stats.live_rows)))
    assert_same(results, expected)
    assert rows[:4] == [1, 2, 3, 4], "each step begins with what has come"


def test_the_loop_ends_when_nothing_is_live_and_nothing_has_come(case):
    folder, oracle, requests, expected = case("qwen2")
    decoder = oracle.decoder(folder)
    arriving = iter([requests[0], *[None] * 100, requests[1]])
    assert_same(list(decoder.run(arriving)), expected[:1])
    assert decoder._cache.n_pages_used == 0
    assert next(request for request in arriving if request) is requests[1], "it must not wait for what comes later"


@pytest.mark.parametrize("make", [Oracle.decoder, reproducible_decoder])
def test_cancelled_rows_are_freed_before_the_next_step_and_the_others_do_not_notice(case, make):
    folder, oracle, requests, expected = case("qwen2")
    decoder = make(oracle, folder)
    cancelled: set[int] = set()
    results: list[Decoded] = []
    steps = decoder.steps(cancellable(requests, cancelled))
    while decoder.stats.steps < 12:
        results += next(steps)
    live = decoder.stats.live_rows
    done = {result.index for result in results}
    n_steps, n_pages = decoder.stats.steps, decoder._cache.n_pages_used
    cancelled.update({0, 3, 4, 8} - done)
    dropped = next(steps)
    assert {(result.index, result.error) for result in dropped} == {(index, "cancelled") for index in cancelled}
    assert decoder.stats.steps == n_steps
    assert decoder._cache.n_pages_used < n_pages
    for finished in steps:
        results += finished
    assert live > len(cancelled) > 1
    assert_same(results, [result for result in expected if result.index not in cancelled])
    assert decoder._cache.n_pages_used == 0


def test_a_row_that_computes_what_others_wait_for_may_be_cancelled(case):
    folder, oracle, requests, expected = case("qwen2")
    decoder = oracle.decoder(folder, prefill_chunk=4)
    same_query = [request for request in requests if request.prompt[:20] == requests[0].prompt[:20]]
    assert len(same_query) > 2
    cancelled: set[int] = set()
    steps = decoder.steps(cancellable(same_query, cancelled))
    next(steps)
    assert decoder.stats.prefill_tokens == 4 < same_query[0].n_shared, "the first row must be in the shared part"
    cancelled.add(same_query[0].index)
    results = [result for finished in steps for result in finished]
    assert_same(kept(results), [expected[request.index] for request in same_query[1:]])


def test_rows_that_wait_for_memory_are_cancelled_too(case):
    folder, oracle, requests, expected = case("qwen2")
    decoder = oracle.decoder(folder, kv_cache_tokens=5 * PAGE_SIZE)
    cancelled: set[int] = set()
    results: list[Decoded] = []
    asked: list[int] = []

    def preempted() -> list[int]:
        return [index for index in asked if index not in {result.index for result in results}]

    def noted() -> Iterator[Request]:
        for request in cancellable(requests, cancelled):
            asked.append(request.index)
            yield request

    steps = decoder.steps(noted())
    while len(preempted()) <= decoder.stats.live_rows or not results:
        results += next(steps)
    waiting = preempted()[-1]
    cancelled.add(waiting)
    n_steps = decoder.stats.steps
    results += next(steps)
    assert results[-1].index == waiting
    assert decoder.stats.steps == n_steps, "it must not have to be admitted first"
    for finished in steps:
        results += finished
    assert [result.index for result in results if result.error] == [waiting]
    assert_same(kept(results), [result for result in expected if result.index != waiting])


def test_a_row_is_cancelled_with_its_branches(case):
    folder, oracle, requests, expected = case("qwen2")
    decoder = oracle.decoder(folder)
    cancelled: set[int] = set()
    results: list[Decoded] = []
    steps = decoder.steps(cancellable(steered(requests[:4], belief_at=every_third), cancelled))
    while decoder.stats.branches < 2:
        results += next(steps)
    assert decoder.stats.live_rows > 4, "there must be branches"
    cancelled.add(2)
    for finished in steps:
        results += finished
    assert sorted(result.index for result in results) == [0, 1, 2, 3], "one outcome each"
    assert_same(kept(results), [expected[index] for index in (0, 1, 3)])
    assert decoder._cache.n_pages_used == 0
