"""The page pool against a plain dictionary of what every row should contain."""

from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rank1_hf.decoding.kv_cache import PAGE_SIZE, KVCache, RowKV

LAYERS, KV_HEADS, HEAD_DIM = 2, 2, 3


def append(cache: KVCache, row: RowKV, values: list[float]) -> None:
    """Write tokens whose keys are `value` and whose values are `-value`, layer by layer, as a forward pass does."""
    start = row.length
    cache.extend(row, len(values))
    pages = torch.tensor([row.pages[p // PAGE_SIZE] for p in range(start, row.length)])
    offsets = torch.arange(start, row.length) % PAGE_SIZE
    states = torch.tensor(values)[:, None, None].expand(-1, KV_HEADS, HEAD_DIM)
    for layer in range(LAYERS):
        cache.write(layer, pages, offsets, states + layer, -states - layer)


def contents(cache: KVCache, row: RowKV, layer: int) -> tuple[list[float], list[float]]:
    if not row.pages:
        return [], []
    keys, values = (
        pool[row.pages].transpose(0, 1).flatten(1, 2)[0, : row.length, 0].tolist() for pool in cache.layer(layer)
    )
    return keys, values


operations = st.lists(
    st.tuples(
        st.sampled_from(["new", "append", "truncate", "free", "wipe", "fork"]), st.integers(0, 9), st.integers(1, 200)
    ),
    max_size=40,
)


@given(operations)
def test_rows_keep_their_own_tokens_whatever_happens_to_others(operations: list[tuple[str, int, int]]):
    cache = KVCache()
    rows: list[tuple[RowKV, list[float]]] = []
    counter = 0
    for name, which, n in operations:
        if name == "new" or not rows:
            rows.append((RowKV(), []))
            continue
        row, expected = rows[which % len(rows)]
        if name == "append":
            before, needed = cache.n_pages_used, cache.pages_needed(row, n)
            values = [float(counter + i) for i in range(n)]
            counter += n
            append(cache, row, values)
            expected += values
            assert cache.n_pages_used - before == needed
        elif name == "truncate":
            cache.truncate(row, n)
            del expected[n:]
        elif name in ("free", "wipe"):
            cache.free(row, wipe=name == "wipe" and bool(expected))
            rows = [(r, e) for r, e in rows if r is not row]
        elif name == "fork" and expected:
            n = min(n, len(expected))
            rows.append((cache.fork(row, n), expected[:n]))
        pages = [page for r, _ in rows for page in r.pages]
        assert len(set(pages)) == cache.n_pages_used
        for r, e in rows:
            assert r.length == len(e)
            for layer in range(LAYERS):
                assert contents(cache, r, layer) == ([v + layer for v in e], [-v - layer for v in e])


def test_freed_pages_are_taken_again():
    cache = KVCache()
    rows = [RowKV() for _ in range(50)]
    for row in rows:
        append(cache, row, [1.0] * (3 * PAGE_SIZE - 10))
    n_bytes = cache.n_bytes
    for row in rows[::2]:
        cache.free(row)
    assert cache.n_pages_used == 75
    later = [RowKV() for _ in range(25)]
    for row in later:
        append(cache, row, [2.0] * 3 * PAGE_SIZE)
    assert cache.n_bytes == n_bytes
    for row in rows[1::2]:
        assert contents(cache, row, 0)[0] == [1.0] * (3 * PAGE_SIZE - 10)


def test_pages_that_had_no_memory_are_not_taken_again():
    cache = KVCache()
    row, other = RowKV(), RowKV()
    append(cache, row, [1.0])
    n_allocated = len(cache.layer(0)[0])
    cache.extend(other, (n_allocated + 20) * PAGE_SIZE)
    cache.truncate(other, 0)  # as the loop does where the pools cannot grow
    cache.stop_growing()
    cache.extend(other, (n_allocated - 1) * PAGE_SIZE)
    assert sorted(row.pages + other.pages) == list(range(n_allocated))
    assert cache.n_pages_free == 0


def test_pages_are_reclaimed_before_the_pools_have_grown():
    """After an interrupt of the step for which they were taken."""
    cache = KVCache()
    row, other = RowKV(), RowKV()
    append(cache, row, [1.0])
    cache.extend(other, (len(cache.layer(0)[0]) + 5) * PAGE_SIZE)
    cache.reclaim([other])
    assert cache.n_pages_used == 1
    append(cache, other, [2.0] * 100 * PAGE_SIZE)
    assert contents(cache, row, 0)[0] == [1.0]
    assert contents(cache, other, 0)[0] == [2.0] * 100 * PAGE_SIZE


def test_what_a_failed_row_leaves_behind_is_wiped():
    cache = KVCache()
    good, bad = RowKV(), RowKV()
    append(cache, good, [1.0])
    append(cache, bad, [float("nan")] * 100)
    pages = set(bad.pages)
    assert not cache.is_finite(bad)
    cache.free(bad, wipe=True)
    after = RowKV()
    append(cache, after, [2.0])
    assert pages.issuperset(after.pages)
    assert cache.is_finite(after)


def test_forks_share_memory_until_they_write():
    cache = KVCache()
    source = RowKV()
    append(cache, source, [1.0] * (2 * PAGE_SIZE + 10))
    forks = [cache.fork(source, 2 * PAGE_SIZE + 5) for _ in range(10)]
    assert cache.n_pages_used == 3
    for fork in forks:
        append(cache, fork, [2.0])
    assert cache.n_pages_used == 3 + 10
    cache.free(source)
    assert all(contents(cache, fork, 0)[0] == [1.0] * (2 * PAGE_SIZE + 5) + [2.0] for fork in forks)


def test_a_fork_takes_nothing_behind_its_length():
    cache = KVCache()
    source = RowKV()
    append(cache, source, [1.0] * 10 + [float("inf")] * 10)
    fork = cache.fork(source, 10)
    append(cache, fork, [2.0])
    assert cache.is_finite(fork)
    assert contents(cache, fork, 0)[0] == [1.0] * 10 + [2.0]


def test_what_lies_behind_the_end_of_a_row_makes_it_no_less_finite():
    cache = KVCache()
    row = RowKV()
    append(cache, row, [1.0] * 10 + [float("nan")] * 2)
    cache.truncate(row, 10)
    assert cache.is_finite(row)


def test_a_copy_that_finds_no_memory_leaves_everything_as_it_was(monkeypatch):
    cache = KVCache()
    source = RowKV()
    append(cache, source, [1.0] * 10)
    fork = cache.fork(source, 10)

    def no_memory(*args: object) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")

    with monkeypatch.context() as patch:
        patch.setattr(cache, "_grown", no_memory)
        with pytest.raises(RuntimeError, match="out of memory"):
            cache.extend(fork, 1)
    assert cache.n_pages_used == 1
    append(cache, fork, [2.0])
    assert contents(cache, fork, 0)[0] == [1.0] * 10 + [2.0]
    assert contents(cache, source, 0)[0] == [1.0] * 10


def test_four_fifths_of_what_is_allocated_is_in_use_at_the_peak():
    """Prompts of 150 to 2,000 tokens, chains of 20 to 8,192, 64 rows at once, each replaced when it has ended."""
    random = Random(0)
    cache = KVCache()

    def admit() -> tuple[RowKV, int]:
        row, prompt = RowKV(), random.randint(150, 2000)
        cache.extend(row, prompt)
        return row, prompt + min(max(int(random.lognormvariate(5.5, 1.2)), 20), 8192)

    live = [admit() for _ in range(64)]
    most_live = 0
    for _ in range(3000):
        for i, (row, end) in enumerate(live):
            if row.length == end:
                cache.free(row)
                live[i] = admit()
            else:
                cache.extend(row, 1)
        most_live = max(most_live, sum(row.length for row, _ in live))
    assert most_live > 0.8 * cache._capacity * PAGE_SIZE
