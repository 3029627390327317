"""The scheduler on made-up rows: a row "decodes" by growing a token, and what is right of a draft, until its limit."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rank1_hf.chains.chain import Chain, ChainRules
from rank1_hf.decoding.kv_cache import PAGE_SIZE, KVCache
from rank1_hf.decoding.plan import ScheduledRow
from rank1_hf.decoding.requests import Request
from rank1_hf.decoding.row import Row
from rank1_hf.decoding.scheduler import Scheduler

CLOSE, EOS = 1000, 1001
RULES = ChainRules((CLOSE,), frozenset({EOS}), lambda prompt, thought: [*prompt, *thought, 7, CLOSE], lambda p, t: [])


def said_behind(n_tokens: int) -> int:
    """What the made-up model says behind a context of so many tokens."""
    return 50 + n_tokens % 3


@dataclass
class Simulation:
    """What a run of the scheduler did, without a model."""

    finished: list[int]
    prefill_tokens: list[int]
    live_rows: list[int]
    fed: dict[int, list[int]]
    failed: list[int]
    n_steps: int = 0
    n_ahead: int = 0


def simulate(
    requests: Iterable[Request | None],
    *,
    max_rows: int,
    prefill_chunk: int,
    max_tokens: int | None = None,
    step_overhead_tokens: int = 0,
    overlaps: bool = False,
    refill_share: float = 0.0,
) -> Simulation:
    cache = KVCache(max_tokens)
    scheduler = Scheduler(
        iter(requests),
        lambda request: Row(request, Chain(request.prompt, RULES, limit=request.limit)),
        cache,
        max_rows=max_rows,
        prefill_chunk=prefill_chunk,
        step_overhead_tokens=step_overhead_tokens,
        overlaps=overlaps,
        refill_share=refill_share,
    )
    seen = Simulation([], [], [], {}, [])
    flight: list[tuple[ScheduledRow, int]] = []  # with where its tokens begin in the row's context
    for _ in range(10_000):
        landing = [(part, start) for part, start in flight if not part.needs_logits or part.row.pending <= 0]
        flight = []
        if not landing or scheduler.can_overlap([part for part, _ in landing]):
            plan = scheduler.plan(overlapping=bool(landing)).rows
            seen.failed += [row.request.index for row in scheduler.failed]
            scheduler.failed.clear()
            if not plan and not landing:
                assert scheduler.rows == []
                scheduler.close()
                assert cache.n_pages_used == 0
                return seen
            seen.n_ahead += bool(plan and landing)
            flight = feed(plan, scheduler, cache, seen)
        for part, start in landing:
            row, ended = part.row, part.row.chain.ended
            if part.needs_logits and not ended:
                cache.truncate(row.kv, advance(row, part.draft))
            stop = row.kv.length if part.draft else start + part.n_tokens
            seen.fed.setdefault(row.request.index, []).extend(row.chain.tokens[start:stop])
            if part.needs_logits and ended:
                seen.finished.append(row.request.index)
                scheduler.release(row)
    raise AssertionError("the scheduler starves a row")


def feed(
    plan: list[ScheduledRow], scheduler: Scheduler, cache: KVCache, seen: Simulation
) -> list[tuple[ScheduledRow, int]]:
    """Give a step's tokens their place in the KV cache. Returns the rows' parts, and where they begin in the rows."""
    seen.live_rows.append(len(scheduler.rows))
    seen.prefill_tokens.append(sum(part.n_tokens for part in plan if part.n_tokens > 1))
    assert len({id(part.row) for part in plan}) == len(plan), "a row is in one step twice"
    seen.n_steps += bool(plan)
    starts = [part.row.kv.length for part in plan]
    for part in plan:
        assert not part.draft or part.row.pending == 1, "nothing is known to draft from"
        cache.extend(part.row.kv, part.n_fed)
        assert cache.n_pages_used <= cache.max_pages
        pages = torch.tensor(part.row.kv.pages)
        for layer in range(1):  # the pool must exist before prefixes can be copied
            cache.write(layer, pages, torch.zeros_like(pages), *2 * [torch.ones(len(pages), 1, 1)])
    for part in plan:
        scheduler.stepped(part.row)
    assert cache.n_pages_used <= cache.max_pages
    return list(zip(plan, starts, strict=True))


def advance(row: Row, draft: list[int]) -> int:
    """Take what the model says behind the row's context and behind what is right of the draft.

    Returns:
        How many tokens of the context stand, if they have been fed.
    """
    for drafted in [*draft, None]:
        unchanged = row.chain.advance(said_behind(len(row.chain.tokens)))
        if row.chain.ended or drafted not in (None, row.chain.tokens[-1]):
            return unchanged
    return len(row.chain.tokens)


requests_strategy = st.lists(
    st.tuples(st.integers(1, 90), st.integers(0, 90), st.integers(1, 20), st.integers(0, 2)), max_size=12
).map(
    lambda shapes: [
        Request(i, [q] * min(shared, n) + [100 + i] * (n - min(shared, n)), min(shared, n), limit)
        for i, (n, shared, limit, q) in enumerate(shapes)
    ]
)


limits_strategy = st.fixed_dictionaries({"max_rows": st.integers(1, 6), "prefill_chunk": st.integers(1, 80)})
options_strategy = st.fixed_dictionaries(
    {
        "step_overhead_tokens": st.sampled_from([0, 4, 100]),
        "overlaps": st.booleans(),
        "refill_share": st.sampled_from([0, 0.5]),
    }
)


@given(requests_strategy, limits_strategy, options_strategy)
def test_every_request_runs_once_within_the_limits(
    requests: list[Request], limits: dict[str, int], options: dict[str, Any]
):
    seen = simulate(requests, **limits, **options)
    assert sorted(seen.finished) == [request.index for request in requests]
    assert max(seen.live_rows, default=0) <= limits["max_rows"]
    assert max(seen.prefill_tokens, default=0) <= limits["prefill_chunk"]
    for request in requests:  # what a row was fed is its context, less what it started with from its query's prefix
        n_prompt = len(request.prompt)
        whole = [*request.prompt, *map(said_behind, range(n_prompt, n_prompt + request.limit)), 7, CLOSE]
        fed = seen.fed[request.index]
        assert fed == whole[len(whole) - len(fed) :]
        assert len(whole) - len(fed) in (0, min(request.n_shared, len(request.prompt) - 1))


@given(requests_strategy, limits_strategy, st.integers(64, 500), options_strategy)
def test_a_small_memory_is_never_exceeded_and_fails_only_what_cannot_fit(
    requests: list[Request], limits: dict[str, int], max_tokens: int, options: dict[str, Any]
):
    seen = simulate(requests, max_tokens=max_tokens, **limits, **options)
    assert sorted(seen.finished + seen.failed) == [request.index for request in requests]
    most = max_tokens // PAGE_SIZE * PAGE_SIZE
    whole = {request.index: len(request.prompt) + request.limit + 2 for request in requests}
    assert all(whole[index] <= most for index in seen.finished)
    assert all(whole[index] + 1 > most for index in seen.failed)


@given(st.integers(2, 40), st.integers(1, 8))
def test_the_prefix_of_a_query_is_fed_once(n_pairs: int, max_rows: int):
    prefix = list(range(30))
    requests = [Request(i, [*prefix, 100 + i], len(prefix), 3) for i in range(n_pairs)]
    seen = simulate(requests, max_rows=max_rows, prefill_chunk=1000)
    assert sum(fed[: len(prefix)] == prefix for fed in seen.fed.values()) == 1


def test_rows_are_admitted_in_order_and_a_free_place_is_taken_at_the_next_step():
    requests = [Request(i, [100 + i] * 5, 0, limit) for i, limit in enumerate([9, 1, 1, 1])]
    seen = simulate(requests, max_rows=2, prefill_chunk=100)
    assert seen.finished == [1, 2, 3, 0]
    assert seen.live_rows[:6] == [2] * 6


def test_where_steps_with_prefill_are_slow_places_are_taken_in_groups():
    requests = [Request(i, [100 + i] * 5, 0, 10 + i % 7) for i in range(200)]
    groups, single = (simulate(requests, max_rows=32, prefill_chunk=1000, refill_share=share) for share in (1 / 16, 0))
    assert sorted(groups.finished) == sorted(single.finished) == list(range(200))
    n_prefills = [sum(n_tokens >= 5 for n_tokens in seen.prefill_tokens) for seen in (groups, single)]
    assert n_prefills[0] < n_prefills[1]
    assert min(groups.live_rows[: len(groups.live_rows) // 2]) > 30, "no more than two places of 32 wait"


def test_a_place_that_was_free_already_waits_for_no_others():
    def arriving() -> Iterator[Request | None]:
        yield from (Request(i, [100 + i] * 5, 0, 20 + i) for i in range(24))
        yield from [None] * 25  # the shortest ends meanwhile
        yield Request(24, [300] * 5, 0, 5)

    groups, single = (simulate(arriving(), max_rows=32, prefill_chunk=1000, refill_share=share) for share in (1 / 4, 0))
    assert groups.finished == single.finished
    assert groups.finished[-1] != 24


def test_a_row_drafts_from_what_other_rows_have_said():
    request = Request(0, [100] * 3, 0, 40)
    alone = simulate([request], max_rows=1, prefill_chunk=100, step_overhead_tokens=0)
    first = simulate([request], max_rows=1, prefill_chunk=100, step_overhead_tokens=7)
    both = simulate([request, Request(1, [101] * 6, 0, 40)], max_rows=1, prefill_chunk=100, step_overhead_tokens=7)
    assert alone.n_steps > 40 > first.n_steps
    assert both.n_steps - first.n_steps < 10


def test_steps_are_planned_ahead_where_many_rows_leave_nothing_to_spare():
    requests = [Request(i, [100 + i] * 5, 0, 20) for i in range(4)]
    many, few, never = (
        simulate(requests, max_rows=4, prefill_chunk=100, step_overhead_tokens=spare, overlaps=ahead)
        for spare, ahead in [(4, True), (5, True), (4, False)]
    )
    assert many.n_ahead > 15
    assert few.n_ahead == never.n_ahead == 0
    assert many.n_steps > few.n_steps, "few rows draft"


@pytest.mark.parametrize(("max_rows", "prefill_chunk"), [(0, 10), (1, 0), (-1, 10)])
def test_nothing_can_run_without_rows_or_tokens(max_rows: int, prefill_chunk: int):
    with pytest.raises(ValueError, match="at least one row"):
        simulate([], max_rows=max_rows, prefill_chunk=prefill_chunk)
