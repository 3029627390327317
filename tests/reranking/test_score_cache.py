"""The file of a score cache: what is in it after whatever has happened to it, to the disk, or to its processes."""

import hashlib
import multiprocessing
import os
import random
import signal
import sqlite3
import struct
import time
from collections import namedtuple
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from rank1_hf.reranking import score_cache
from rank1_hf.reranking.score_cache import CacheError, ScoreCache

MIB = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scores.db"


def key(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def value(number: int, size: int = 200) -> dict[str, Any]:
    """What a key must give, and nothing else."""
    text = f"chain {number} 翼 " * (size // 10)
    return {"log_odds": number / 7 - 1000, "chain": text, "n_chain_tokens": number, "ended": "closed"}


def test_what_was_put_is_there_for_every_connection(path: Path):
    with_one = ScoreCache(path)
    assert with_one.get(key(1)) is None
    with_one.put(key(1), value(1))
    assert with_one.get(key(1)) == ScoreCache(path).get(key(1)) == value(1)
    assert ScoreCache(path).get(key(2)) is None
    assert len(with_one) == 1


@pytest.mark.parametrize("number", [-0.0, 0.0, 5e-324, 1e-20, 0.1, 31.878387451171875, 1.7976931348623157e308])
def test_numbers_keep_their_bits(path: Path, number: float):
    ScoreCache(path).put(key(1), {"log_odds": number})
    found = ScoreCache(path).get(key(1))
    assert found is not None
    assert struct.pack("d", found["log_odds"]) == struct.pack("d", number)


@pytest.mark.parametrize("text", ["", "\0", "a'b\"c; DROP TABLE entries", "翼🙂", "\ud800"])
def test_texts_are_data(path: Path, text: str):
    ScoreCache(path).put(key(1), {"chain": text})
    assert ScoreCache(path).get(key(1)) == {"chain": text}


# ---- the limit -------------------------------------------------------------------------------------------------------


def test_the_file_stays_within_its_limit_and_loses_what_was_not_used_for_longest(path: Path):
    cache = ScoreCache(path, max_bytes=MIB)
    for number in range(3000):
        cache.put(key(number), value(number))
        if number % 50 == 0:
            assert cache.get(key(0)) == value(0), "it is in use"
    there = [number for number in range(3000) if cache.get(key(number)) is not None]
    assert there == [0, *range(there[1], 3000)]
    assert 300 < len(there) < 3000
    cache.close()
    assert path.stat().st_size <= MIB + 64 * 1024


def test_what_another_process_used_counts_too(path: Path):
    cache = ScoreCache(path, max_bytes=MIB)
    for number in range(100):
        cache.put(key(number), value(number))
    other = ScoreCache(path)
    assert other.get(key(0)) == value(0)
    other.close()
    for number in range(100, 3000):
        cache.put(key(number), value(number))
    assert cache.get(key(1)) is None
    there = [number for number in range(100) if cache.get(key(number)) is not None]
    assert there in ([], [0])  # gone again with time, but never before what was used earlier


def test_the_limit_stays_with_the_file(path: Path):
    assert ScoreCache(path).max_bytes == 4 << 30
    ScoreCache(path, max_bytes=5 * MIB)
    assert ScoreCache(path).max_bytes == 5 * MIB
    with pytest.raises(ValueError, match="at least 1048576"):
        ScoreCache(path, max_bytes=1000)


def test_an_entry_larger_than_the_limit_costs_the_others_and_no_error(path: Path):
    cache = ScoreCache(path, max_bytes=MIB)
    cache.put(key(1), value(1, size=3 * MIB))
    cache.put(key(2), value(2))
    assert cache.get(key(2)) == value(2)


# ---- what is no cache, or damaged ------------------------------------------------------------------------------------


def of_something_else(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE notes (text)")
        database.execute("INSERT INTO notes VALUES ('mine')")


def filled(path: Path, n: int = 2000) -> None:
    cache = ScoreCache(path)
    for number in range(n):
        cache.put(key(number), value(number))
    cache.close()


def of_another_version(path: Path) -> None:
    filled(path, 1)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA user_version = 99")


def cut_short(path: Path) -> None:
    filled(path)
    os.truncate(path, path.stat().st_size // 2)


def overwritten(path: Path) -> None:
    filled(path)
    with path.open("r+b") as file:
        file.seek(8 * 4096)
        file.write(random.Random(1).randbytes(40 * 4096))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_text("my notes"), "no score cache"),
        (lambda path: path.write_bytes(b"SQLite format 3\0" + bytes(5000)), "score cache"),
        (of_something_else, "a database of something else"),
        (of_another_version, "another version"),
        (cut_short, "damaged"),
        (overwritten, "damaged"),
    ],
)
def test_a_foreign_or_damaged_file_is_told_and_left_as_it_is(path: Path, damage: Any, said: str):
    damage(path)
    before = path.read_bytes()
    with pytest.raises(CacheError, match=said):
        ScoreCache(path)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["scores.db"]


def test_a_folder_and_a_place_that_is_not_there_are_told(tmp_path: Path):
    for path in (tmp_path, tmp_path / "nowhere" / "scores.db"):
        with pytest.raises(CacheError, match="cannot be used as a score cache"):
            ScoreCache(path)


def test_an_empty_file_becomes_a_cache(path: Path):
    path.touch()
    ScoreCache(path).put(key(1), value(1))
    assert ScoreCache(path).get(key(1)) == value(1)


def test_an_entry_whose_bytes_have_changed_is_none(path: Path):
    filled(path, 10)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE entries SET value = replace(value, '-999', '-111') WHERE key = ?", (key(5),))
        database.execute("UPDATE entries SET key = ? WHERE key = ?", (key(77), key(6)))
    cache = ScoreCache(path)
    assert [number for number in range(100) if cache.get(key(number)) is not None] == [0, 1, 2, 3, 4, 7, 8, 9]
    cache.put(key(5), value(5))
    assert cache.get(key(5)) == value(5)


def test_what_goes_wrong_later_ends_its_use_with_a_warning(path: Path, monkeypatch: pytest.MonkeyPatch):
    cache = ScoreCache(path)
    cache.put(key(1), value(1))
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DROP TABLE entries")
    with pytest.warns(UserWarning, match=r"scores\.db is not used any more: no such table"):
        assert cache.get(key(1)) is None
    cache.put(key(2), value(2))
    assert cache.get(key(2)) is None


def test_on_a_network_file_system_there_is_no_shared_memory(path: Path, monkeypatch: pytest.MonkeyPatch):
    Part = namedtuple("Part", ["mountpoint", "fstype"])
    parts = [Part("/", "ext4"), Part(str(path.parent), "nfs4"), Part(str(path.parent / "other"), "ext4")]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: parts)
    with pytest.warns(UserWarning, match="network file system"):
        cache = ScoreCache(path)
    cache.put(key(1), value(1))
    assert not path.with_name("scores.db-wal").exists()
    assert cache.get(key(1)) == value(1)
    parts[1] = Part(str(path.parent), "xfs")
    local = ScoreCache(path.with_name("local.db"))
    local.put(key(1), value(1))
    assert path.with_name("local.db-wal").exists()


# ---- processes and kills ---------------------------------------------------------------------------------------------


def write(path: Path, numbers: range, written: Path, may_end: Path | None = None) -> None:
    """Put entries, and note each once `put` has returned; then wait until the process may end."""
    cache = ScoreCache(path)
    with written.open("ab", buffering=0) as notes:
        for number in numbers:
            cache.put(key(number), value(number))
            notes.write(struct.pack("q", number))
    while may_end is not None and not may_end.exists():  # a file, since an Event does not survive a kill
        time.sleep(0.001)


def fill_with_kills(folder: Path, *, n: int, n_processes: int, n_kills: int) -> None:
    """Several processes fill a cache; at random moments one is killed and another goes on in its place."""
    path = folder / "scores.db"
    context = multiprocessing.get_context("fork")
    rng = random.Random(13)
    shares = [range(start, n, n_processes) for start in range(n_processes)]
    notes = [folder / f"{place}.written" for place in range(n_processes)]

    def n_written(place: int) -> int:
        return notes[place].stat().st_size // 8 if notes[place].exists() else 0

    may_end = folder / "end"

    def begin(place: int) -> Any:
        rest = shares[place][n_written(place) :]
        process = context.Process(target=write, args=(path, rest, notes[place], may_end))
        process.start()
        return process

    processes = [begin(place) for place in range(n_processes)]
    for number in range(n_kills):
        place = number % n_processes
        target = rng.randrange(len(shares[place]) * number // n_kills, len(shares[place]) * (number + 1) // n_kills)
        while n_written(place) <= target:
            time.sleep(0.0005)
        processes[place].kill()
        processes[place].join()
        assert processes[place].exitcode == -signal.SIGKILL
        processes[place] = begin(place)
    may_end.touch()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    cache = ScoreCache(path)
    assert len(cache) == n
    for number in range(n):
        assert cache.get(key(number)) == value(number)


def test_processes_that_write_together_and_are_killed_lose_nothing(tmp_path: Path):
    fill_with_kills(tmp_path, n=2000, n_processes=3, n_kills=6)


@pytest.mark.skipif("RANK1_SLOW" not in os.environ, reason="takes minutes: RANK1_SLOW=1")
def test_a_hundred_thousand_judgments_of_four_processes_and_twenty_kills(tmp_path: Path):
    fill_with_kills(tmp_path, n=100_000, n_processes=4, n_kills=20)


def test_processes_that_make_the_file_together_make_one(tmp_path: Path):
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=write, args=(tmp_path / "scores.db", range(place, 200, 8), tmp_path / f"{place}"))
        for place in range(8)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(ScoreCache(tmp_path / "scores.db")) == 200


def test_a_reader_does_not_wait_for_a_writer(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(score_cache, "_PATIENCE", 0.1)
    filled(path, 3)
    cache = ScoreCache(path)
    with sqlite3.connect(path, isolation_level=None) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert cache.get(key(1)) == value(1)
        with pytest.warns(UserWarning, match="locked"):
            cache.put(key(9), value(9))
        writer.execute("ROLLBACK")
