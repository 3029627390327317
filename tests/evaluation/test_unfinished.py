"""What is kept of unfinished chains, after whatever has happened to the process or the file."""

import json
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank1_hf.evaluation import unfinished
from rank1_hf.evaluation.unfinished import UnfinishedChains

SETTINGS = {"model": "rank1-7b"}
STEPS = [{0: [5]}, {0: [5, 6], 3: [7, 8]}, {3: [7, 8, 9], 4: []}, {0: [5, 6, 1], 3: [7, 8, 9, 2], 4: [3]}]


def chains(path: Path, finished: tuple[int, ...] = (), settings: dict[str, str] = SETTINGS) -> UnfinishedChains:
    return UnfinishedChains(path, settings, finished.__contains__)


def kept(path: Path, *finished: int) -> dict[int, list[int]]:
    found = chains(path, finished)
    return {index: list(found.generated(index)) for index in range(6) if found.generated(index)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chains.jsonl"


def written(path: Path, steps: list[dict[int, list[int]]] = STEPS) -> bytes:
    found = chains(path)
    for step in steps:
        found.keep(step)
    found.close()
    return path.read_bytes()


def test_what_was_kept_is_there_for_the_next_process_but_for_what_is_finished(path: Path) -> None:
    written(path)
    assert kept(path) == STEPS[-1]
    assert kept(path, 3) == {0: [5, 6, 1], 4: [3]}


def test_a_line_has_only_what_chains_have_grown_by(path: Path) -> None:
    lines = [json.loads(line) for line in written(path).splitlines()]
    assert lines[1:] == [
        {"0": [0, [5]]},
        {"0": [1, [6]], "3": [0, [7, 8]]},
        {"3": [2, [9]]},
        {"0": [2, [1]], "3": [3, [2]], "4": [0, [3]]},
    ]


@given(cut=st.integers(min_value=0, max_value=400))
def test_wherever_the_end_is_lost_whole_lines_count(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.getbasetemp() / "cut-chains.jsonl"
    path.unlink(missing_ok=True)
    whole = written(path)
    path.write_bytes(whole[:cut])
    n_whole = sum(len(b"".join(whole.splitlines(True)[: 2 + n])) - 1 <= cut for n in range(len(STEPS)))
    expected = {index: ids for index, ids in STEPS[n_whole - 1].items() if ids} if n_whole else {}
    for step in STEPS[:n_whole]:
        expected = {index: ids for index, ids in {**expected, **step}.items() if ids}
    assert kept(path) == expected
    more = chains(path)
    more.keep({0: [5, 6, 1, 4]})
    more.close()
    assert kept(path)[0] == [5, 6, 1, 4]


@pytest.mark.parametrize(
    "damage",
    [b"\0\0", b"{", b"[1]", b'{"0": 3}', b'{"0": [1, ["6"]]}', b'{"0": [1, [-6]]}', b'{"x": [1, [6]]}', b"\xff"],
)
def test_of_a_chain_with_a_gap_only_what_is_before_it_counts(path: Path, damage: bytes) -> None:
    lines = written(path).splitlines(True)
    lines[2] = damage + b"\n"
    path.write_bytes(b"".join(lines))
    assert kept(path) == {0: [5], 4: [3]}


def test_what_was_appended_twice_counts_once(path: Path) -> None:
    """As where an interrupt came behind a line, before it was known that it is there."""
    lines = written(path).splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], lines[2], *lines[3:]]))
    assert kept(path) == STEPS[-1]


def test_chains_of_another_job_count_for_nothing(path: Path) -> None:
    written(path)
    other = chains(path, settings={"model": "rank1-14b"})
    assert list(other.generated(0)) == []
    other.keep({0: [1]})
    other.close()
    assert kept(path) == {}  # for the first job
    path.write_bytes(b"no chains\n")
    assert kept(path) == {}


def test_the_file_never_outgrows_what_is_unfinished(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished, "_ROOM", 1000)
    found = chains(path)
    for pair in range(50):
        for length in range(1, 40):
            found.keep({pair: list(range(1000, 1000 + length))})
        found.drop(pair)
        assert path.stat().st_size < 2500
    found.keep({50: [1, 2]})
    found.close()
    assert list(chains(path).generated(50)) == [1, 2]


def test_no_file_is_made_where_there_is_nothing_to_keep_and_none_stays_when_all_is_done(path: Path) -> None:
    found = chains(path)
    found.keep({0: []})
    assert not path.exists()
    found.delete()
    written(path)
    chains(path).delete()
    assert not path.exists()


def test_where_there_is_no_room_the_file_is_as_it_was(path: Path) -> None:
    found = chains(path)
    found.keep({0: [1, 2]})
    size, limits = path.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, limits[1]))  # as a disk that is almost full
    try:
        with pytest.raises(OSError, match="No space left"):
            found.keep({0: [1, 2, 3]})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.stat().st_size == size
    found.close()
    assert kept(path) == {0: [1, 2]}
