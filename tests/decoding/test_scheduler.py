"""The scheduler on made-up rows: a row "decodes" by growing one token a step until its length is reached."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rank1_hf.chain import Chain, ChainRules
from rank1_hf.decoding.kv_cache import PAGE_SIZE, KVCache
from rank1_hf.decoding.requests import Request
from rank1_hf.decoding.row import Row
from rank1_hf.decoding.scheduler import Scheduler

CLOSE, EOS = 1000, 1001
RULES = ChainRules((CLOSE,), frozenset({EOS}), lambda prompt, thought: [*prompt, *thought, 7, CLOSE], lambda p, t: [])


@dataclass
class Simulation:
    """What a run of the scheduler did, without a model."""

    finished: list[int]
    prefill_tokens: list[int]
    live_rows: list[int]
    fed: dict[int, list[int]]
    failed: list[int]


def simulate(
    requests: list[Request], *, max_rows: int, max_prefill_tokens: int, max_tokens: int | None = None
) -> Simulation:
    cache = KVCache(max_tokens)
    scheduler = Scheduler(
        iter(requests),
        lambda request: Row(request, Chain(request.prompt, RULES, limit=request.limit)),
        cache,
        max_rows=max_rows,
        max_prefill_tokens=max_prefill_tokens,
    )
    seen = Simulation([], [], [], {}, [])
    for _ in range(10_000):
        plan = scheduler.plan().work
        seen.failed += [row.request.index for row in scheduler.failed]
        scheduler.failed.clear()
        if not plan:
            assert scheduler.rows == []
            scheduler.close()
            assert cache.n_pages == 0
            return seen
        seen.live_rows.append(len(scheduler.rows))
        seen.prefill_tokens.append(sum(work.n_tokens for work in plan if work.n_tokens > 1))
        assert len({id(work.row) for work in plan}) == len(plan), "a row is in one step twice"
        completed = [work.row for work in plan if work.completes]
        for work in plan:
            start = work.row.kv.length
            cache.extend(work.row.kv, work.n_tokens)
            assert cache.n_pages_used <= cache.max_pages
            pages = torch.tensor(work.row.kv.pages)
            for layer in range(1):  # the pool must exist before prefixes can be copied
                cache.write(layer, pages, torch.zeros_like(pages), *2 * [torch.ones(len(pages), 1, 1)])
            fed = work.row.chain.tokens[start : work.row.kv.length]
            seen.fed.setdefault(work.row.request.index, []).extend(fed)
        for work in plan:
            scheduler.stepped(work.row)
        assert cache.n_pages_used <= cache.max_pages
        for row in completed:
            if row.chain.ended:
                seen.finished.append(row.request.index)
                scheduler.release(row)
            else:
                cache.truncate(row.kv, row.chain.advance(50))
    raise AssertionError("the scheduler starves a row")


requests_strategy = st.lists(
    st.tuples(st.integers(1, 90), st.integers(0, 90), st.integers(1, 20), st.integers(0, 2)), max_size=12
).map(
    lambda shapes: [
        Request(i, [q] * min(shared, n) + [100 + i] * (n - min(shared, n)), min(shared, n), limit)
        for i, (n, shared, limit, q) in enumerate(shapes)
    ]
)


@given(requests_strategy, st.integers(1, 6), st.integers(1, 80))
def test_every_request_runs_once_within_the_limits(requests: list[Request], max_rows: int, max_prefill_tokens: int):
    seen = simulate(requests, max_rows=max_rows, max_prefill_tokens=max_prefill_tokens)
    assert sorted(seen.finished) == [request.index for request in requests]
    assert max(seen.live_rows, default=0) <= max_rows
    assert max(seen.prefill_tokens, default=0) <= max_prefill_tokens
    for request in requests:  # what a row was fed is its context, less what it started with from its query's prefix
        whole = [*request.prompt, *[50] * request.limit, 7, CLOSE]
        fed = seen.fed[request.index]
        assert fed == whole[len(whole) - len(fed) :]
        assert len(whole) - len(fed) in (0, min(request.n_shared, len(request.prompt) - 1))


@given(requests_strategy, st.integers(1, 6), st.integers(1, 80), st.integers(64, 500))
def test_a_small_memory_is_never_exceeded_and_fails_only_what_cannot_fit(
    requests: list[Request], max_rows: int, max_prefill_tokens: int, max_tokens: int
):
    seen = simulate(requests, max_rows=max_rows, max_prefill_tokens=max_prefill_tokens, max_tokens=max_tokens)
    assert sorted(seen.finished + seen.failed) == [request.index for request in requests]
    most = max_tokens // PAGE_SIZE * PAGE_SIZE
    whole = {request.index: len(request.prompt) + request.limit + 2 for request in requests}
    assert all(whole[index] <= most for index in seen.finished)
    assert all(whole[index] + 1 > most for index in seen.failed)


@given(st.integers(2, 40), st.integers(1, 8))
def test_the_prefix_of_a_query_is_fed_once(n_pairs: int, max_rows: int):
    prefix = list(range(30))
    requests = [Request(i, [*prefix, 100 + i], len(prefix), 3) for i in range(n_pairs)]
    seen = simulate(requests, max_rows=max_rows, max_prefill_tokens=1000)
    assert sum(fed[: len(prefix)] == prefix for fed in seen.fed.values()) == 1


def test_rows_are_admitted_in_order_and_a_free_place_is_taken_at_the_next_step():
    requests = [Request(i, [100 + i] * 5, 0, limit) for i, limit in enumerate([9, 1, 1, 1])]
    seen = simulate(requests, max_rows=2, max_prefill_tokens=100)
    assert seen.finished == [1, 2, 3, 0]
    assert seen.live_rows[:6] == [2] * 6


@pytest.mark.parametrize(("max_rows", "max_prefill_tokens"), [(0, 10), (1, 0), (-1, 10)])
def test_nothing_can_run_without_rows_or_tokens(max_rows: int, max_prefill_tokens: int):
    with pytest.raises(ValueError, match="at least one row"):
        simulate([], max_rows=max_rows, max_prefill_tokens=max_prefill_tokens)
