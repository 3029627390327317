"""The journal: what is in it after whatever has happened to the process, the disk or the file."""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank1_hf.evaluation.journal import Journal, JournalError, lock, refuse_others

SETTINGS = {"model": "rank1-7b", "max_new_tokens": 256, "prompt_template": None}
RECORDS: list[dict[str, Any]] = [
    {"index": index, "score": 0.1, "chain": f"wing 翼 {index}\n", "error": None} for index in (2, 0, 1)
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def written(path: Path, records: list[dict[str, Any]] = RECORDS) -> bytes:
    with Journal(path, SETTINGS, 4) as journal:
        for record in records:
            journal.append(record)
    return path.read_bytes()


def indices(journal: Journal) -> set[int]:
    return {index for index in range(4) if journal.has_score(index)}


def test_what_was_appended_is_there_for_the_next_process(path: Path) -> None:
    written(path)
    with Journal(path, SETTINGS, 4) as journal:
        assert indices(journal) == {0, 1, 2}
        assert journal.n_scored == 3
        assert [journal.read(record["index"]) for record in RECORDS] == RECORDS
        assert journal.read(3) is None


def test_a_judgment_is_in_the_file_as_soon_as_it_is_appended(path: Path) -> None:
    with Journal(path, SETTINGS, 4) as journal:
        journal.append(RECORDS[0])
        assert json.loads(path.read_bytes().splitlines()[-1]) == RECORDS[0]
        assert journal.read(2) == RECORDS[0]


@given(cut=st.integers(min_value=0, max_value=400))
def test_wherever_the_end_is_lost_whole_lines_count_and_the_rest_is_appended(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.jsonl"
    path.unlink(missing_ok=True)
    whole = written(path)
    n_header = whole.index(b"\n") + 1
    path.write_bytes(whole[: n_header + cut])
    n_whole_lines = whole[n_header : n_header + cut].count(b"\n")
    with Journal(path, SETTINGS, 4) as journal:
        assert indices(journal) == {record["index"] for record in RECORDS[:n_whole_lines]}
        for record in RECORDS[n_whole_lines:]:
            journal.append(record)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "damage", [b"\0" * 30, b"{", b"[1]", b'{"index": 9, "error": null}', b'{"index": "0"}', b"\xff"]
)
def test_a_line_that_cannot_be_read_is_as_good_as_absent_and_told(
    path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    lines = written(path).splitlines()
    lines[2] = damage
    path.write_bytes(b"\n".join([*lines, b""]))
    with Journal(path, SETTINGS, 4) as journal:
        assert indices(journal) == {2, 1}
        assert f"{path}: damaged lines: 1; what they held is judged again" in caplog.text
        journal.append(RECORDS[1])
    with Journal(path, SETTINGS, 4) as journal:
        assert indices(journal) == {0, 1, 2}


def test_a_pair_that_failed_is_tried_again_and_its_last_judgment_counts(path: Path) -> None:
    failed = {"index": 0, "error": "no memory"}
    written(path, [failed])
    with Journal(path, SETTINGS, 4) as journal:
        assert not journal.has_score(0)
        assert journal.read(0) == failed
        journal.append(RECORDS[1])
        assert journal.has_score(0)
        assert journal.read(0) == RECORDS[1]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": "rank1-14b"}, 'model was "rank1-7b", now "rank1-14b"'),
        ({"max_new_tokens": None}, "max_new_tokens was 256, now null"),
        ({"dtype": "float16"}, 'dtype was null, now "float16"'),
    ],
)
def test_a_journal_with_other_settings_is_refused_and_left_as_it_is(
    path: Path, changed: dict[str, Any], said: str
) -> None:
    before = written(path)
    with pytest.raises(JournalError, match=said):
        Journal(path, SETTINGS | changed, 4)
    assert path.read_bytes() == before


def test_a_journal_without_judgments_binds_nobody(path: Path) -> None:
    """A job whose model could not be loaded leaves one; with the mistake mended it begins."""
    written(path, [])
    other = SETTINGS | {"dtype": "float16"}
    with Journal(path, other, 4) as journal:
        journal.append(RECORDS[0])
    with pytest.raises(JournalError, match='dtype was "float16", now "float32"'):
        refuse_others(path, {"dtype": "float32"})
    refuse_others(path, {"max_new_tokens": 256})
    with Journal(path, other, 4) as journal:
        assert journal.read(2) == RECORDS[0]


@pytest.mark.parametrize("content", [b"", b"{}\n", b"a text\n", b'{"journal": 99, "settings": {}}\n'])
def test_what_is_no_journal_is_refused_and_left_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(JournalError, match="not a journal"):
        Journal(path, SETTINGS, 4)
    assert path.read_bytes() == content


def test_where_there_is_no_room_for_a_line_none_of_it_stays(path: Path) -> None:
    n_bytes = len(written(path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal(path, SETTINGS, 4) as journal:
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes + 10, limits[1]))  # as a disk that is almost full
        try:
            with pytest.raises(OSError, match="No space left"):
                journal.append({"index": 3, "error": None})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.stat().st_size == n_bytes
        assert not journal.has_score(3)
        journal.append({"index": 3, "error": None})
    with Journal(path, SETTINGS, 4) as journal:
        assert indices(journal) == {0, 1, 2, 3}


def test_a_folder_belongs_to_one_process_until_it_ends(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from rank1_hf.evaluation.journal import lock; "
    hold = "held = lock(Path(sys.argv[1])); held.__enter__(); print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code + hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(JournalError, match="in use by another process"), lock(tmp_path):
            pass
        other.kill()
        other.wait()
        with lock(tmp_path):
            pass
