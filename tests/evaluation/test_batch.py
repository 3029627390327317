"""A job over a file of pairs, through everything that may end it on the way."""

import json
import multiprocessing
import os
import random
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rank1_hf.evaluation.batch import run_batch
from rank1_hf.evaluation.journal import JournalError
from rank1_hf.evaluation.pending import Outcome
from rank1_hf.files.pairs import PairFile
from rank1_hf.inputs.textfiles import InputError
from rank1_hf.results.judgment import Judgment
from tests.evaluation.stub import SETTINGS, Stub, killed_when, log_odds_of, results

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.evaluation.tiny"])

RECORDS: list[dict[str, Any]] = [
    {"id": n, "query": f"query {n % 7}", "passage": f"passage {n % 90}", "label": n % 3} for n in range(200)
]


def write_pairs(path: Path, records: Sequence[object] = RECORDS) -> Path:
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in records))
    return path


def run(path: Path, output: Path, stub: Stub | None = None, **settings: Any) -> Outcome:
    return run_batch(PairFile(path), output, SETTINGS | settings, lambda: stub or Stub(), show_progress=False)


def run_slowly(path: Path, output: Path) -> None:
    run(path, output, Stub(seconds=0.0005))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.jsonl")


def test_every_row_stands_in_its_place_with_what_it_came_with(pairs: Path, tmp_path: Path) -> None:
    outcome = run(pairs, tmp_path)
    assert (outcome.n_pairs, outcome.n_scored, outcome.n_failed, outcome.stopped) == (200, 200, 0, None)
    found = lines(tmp_path / "judgments.jsonl")
    for number, (row, given) in enumerate(zip(found, RECORDS, strict=True), start=1):
        assert row["line"] == number
        assert [row[name] for name in ("id", "query", "passage", "input_label")] == list(given.values())
        assert row["log_odds"] == log_odds_of(given["query"], given["passage"])
        assert row["label"] is (row["log_odds"] > 0)
        assert row["chain"] == f"\nIt says: {given['passage']}\n"
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_table(tmp_path / "judgments.parquet").to_pylist() == found


def test_pairs_of_one_query_are_judged_together(pairs: Path, tmp_path: Path) -> None:
    stub = Stub()
    run(pairs, tmp_path, stub)
    changes = sum(a[0] != b[0] for a, b in zip(stub.seen, stub.seen[1:], strict=False))
    assert changes < 7 + 2 * 200 / 8  # the stub turns round eight at a time; in the file's order there are 199


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_was_judged_and_the_same_call_goes_on(
    pairs: Path, tmp_path: Path, number: signal.Signals
) -> None:
    def interrupt(n_judged: int) -> None:
        if n_judged == 50:
            os.kill(os.getpid(), number)

    outcome = run(pairs, tmp_path / "stopped", Stub(before_each=interrupt))
    assert (outcome.stopped, results(tmp_path / "stopped")) == (number, {})
    rest = Stub()
    assert run(pairs, tmp_path / "stopped", rest).stopped is None
    assert len(rest.seen) == 200 - outcome.n_scored
    run(pairs, tmp_path / "undisturbed")
    assert results(tmp_path / "stopped") == results(tmp_path / "undisturbed")


def test_kills_lose_nothing_repeat_nothing_and_change_nothing(tmp_path: Path) -> None:
    path, output = write_pairs(tmp_path / "pairs.jsonl", RECORDS * 2), tmp_path / "killed"
    journal, start = output / "journal.jsonl", partial(FORKS.Process, target=run_slowly, args=(path, output))
    rng, n_kills = random.Random(3), 0

    def n_lines() -> int:
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    for _ in range(2):
        target = n_lines() + rng.randrange(80)
        n_kills += killed_when(start(), lambda target=target: n_lines() >= target)  # type: ignore[misc]
    n_kills += killed_when(start(), (output / "judgments.jsonl.new").exists)
    assert n_kills >= 2
    last = start()
    last.start()
    last.join()
    assert last.exitcode == 0
    assert sorted(record["index"] for record in lines(journal)[1:]) == list(range(400))
    run(path, tmp_path / "undisturbed")
    assert results(output) == results(tmp_path / "undisturbed")


def test_a_finished_job_is_left_as_it_is(pairs: Path, tmp_path: Path) -> None:
    run(pairs, tmp_path)
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*j*")}
    outcome = run_batch(PairFile(pairs), tmp_path, SETTINGS, lambda: pytest.fail("loaded"), show_progress=False)
    assert (outcome.was_finished, outcome.n_scored, outcome.stopped) == (True, 200, None)
    results = [name for name in before if name != "journal.jsonl"]
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in results} == {name: before[name] for name in results}


def test_what_was_finished_but_not_written_is_written(pairs: Path, tmp_path: Path) -> None:
    run(pairs, tmp_path)
    before = results(tmp_path)
    (tmp_path / "judgments.jsonl").unlink()
    outcome = run_batch(PairFile(pairs), tmp_path, SETTINGS, lambda: pytest.fail("loaded"), show_progress=False)
    assert (outcome.was_finished, results(tmp_path)) == (False, before)


def test_bad_rows_stand_in_their_places(tmp_path: Path) -> None:
    records: list[object] = [
        *RECORDS[:3],
        '{"query": ',
        {"query": "q"},
        '{"query": "q", "passage": "\\udead", "x": NaN}',
    ]
    outcome = run(write_pairs(tmp_path / "pairs.jsonl", [*records, *RECORDS[3:6]]), tmp_path / "output")
    assert (outcome.n_pairs, outcome.n_scored, outcome.n_failed, outcome.n_problems) == (9, 6, 3, 3)
    found = lines(tmp_path / "output" / "judgments.jsonl")
    assert [row["line"] for row in found] == list(range(1, 10))
    assert [row["error"] is None for row in found] == [True] * 3 + [False] * 3 + [True] * 3
    for row in found[3:6]:
        assert f"line {row['line']}" in row["error"]
        assert (row["score"], row["label"]) == (None, None)
    assert (found[4]["query"], found[5]["passage"], found[5]["x"]) == ("q", "\udead", None)
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_table(tmp_path / "output" / "judgments.parquet")["line"].to_pylist() == list(range(1, 10))


def test_a_file_of_bad_rows_alone_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "pairs.jsonl", ["[]", "{}"])
    with pytest.raises(InputError, match="line 1: must be an object with a query and a passage"):
        run_batch(PairFile(path), tmp_path / "output", {}, lambda: pytest.fail("loaded"), show_progress=False)
    assert [file.name for file in (tmp_path / "output").iterdir()] == [".lock"]


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pairs\.jsonl has no rows"):
        run(write_pairs(tmp_path / "pairs.jsonl", [""]), tmp_path / "output")


def test_a_pair_that_failed_is_tried_again(pairs: Path, tmp_path: Path) -> None:
    class Failing(Stub):
        def judgment(self, index: int, query: str, passage: str) -> Judgment:
            failed = Judgment.failed(index, "no memory")
            return failed if passage == "passage 7" else super().judgment(index, query, passage)

    assert run(pairs, tmp_path / "output", Failing()).n_failed == 3
    again = Stub()
    assert run(pairs, tmp_path / "output", again).n_failed == 0
    assert {passage for _, passage in again.seen} == {"passage 7"}
    run(pairs, tmp_path / "undisturbed")
    assert results(tmp_path / "output") == results(tmp_path / "undisturbed")


def test_other_pairs_and_other_settings_are_refused(pairs: Path, tmp_path: Path) -> None:
    run(pairs, tmp_path)
    with pytest.raises(JournalError, match="max_new_tokens was 256, now 512"):
        run(pairs, tmp_path, max_new_tokens=512)
    with pytest.raises(JournalError, match="pairs was"):
        run(write_pairs(tmp_path / "other.jsonl", RECORDS[1:]), tmp_path)


@pytest.mark.parametrize(
    "change", [RECORDS[:-1], [*RECORDS, RECORDS[0]], [*RECORDS, "{"], ["{", *RECORDS[1:]], [RECORDS[1], *RECORDS[1:]]]
)
def test_a_file_that_changes_meanwhile_is_told_and_no_judgment_lost(tmp_path: Path, change: list[object]) -> None:
    path = write_pairs(tmp_path / "pairs.jsonl")

    def rewrite(n_judged: int) -> None:
        if n_judged == 150:
            write_pairs(path, change)

    with pytest.raises(InputError, match="was changed while its pairs were judged"):
        run(path, tmp_path / "output", Stub(before_each=rewrite))
    assert results(tmp_path / "output") == {}
    write_pairs(path)
    assert run(path, tmp_path / "output", Stub(before_each=lambda n: pytest.fail("judged again"))).n_scored == 200


def test_columns_of_any_kind_become_columns_of_a_table(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    values: dict[str, list[Any]] = {
        "ids": [1, "2", None],
        "large": [2**70, 1, 2],
        "number": [1, 2.5, None],
        "nested": [{"a": []}, {}, [1]],
        "nothing": [None, None, None],
        "text": ["a", "\ud800", "翼"],
        "is_new": [True, None, False],
        "line": [7, 8, 9],
        "input_line": ["x", "y", "z"],
    }
    pairs = [{"query": "q", "passage": "p", **{name: value[n] for name, value in values.items()}} for n in range(3)]
    run(write_pairs(tmp_path / "pairs.jsonl", pairs), tmp_path / "output")
    found = lines(tmp_path / "output" / "judgments.jsonl")
    expected = {name: value for name, value in values.items() if name != "line"} | {"input_input_line": [7, 8, 9]}
    assert {name: [row[name] for row in found] for name in expected} == expected
    table = pq.read_table(tmp_path / "output" / "judgments.parquet").to_pydict()
    assert table["ids"] == ["1", "2", None]
    assert table["large"] == [str(2**70), "1", "2"]
    assert table["number"] == [1.0, 2.5, None]
    assert table["nested"] == ['{"a": []}', "{}", "[1]"]
    assert table["text"] == ["a", "?", "翼"]
    assert (table["is_new"], table["nothing"]) == ([True, None, False], [None] * 3)


def test_a_table_of_parquet_keeps_its_types(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    given = pa.table(
        {
            "query": ["q", "q", None],
            "passage": pa.array(["p", "r", "s"], pa.large_string()),
            "when": pa.array([1, None, 3], pa.timestamp("us")),
            "price": pa.array([1, 2, None], pa.decimal128(9, 2)),
            "raw": pa.array([b"\xff", b"", None]),
            "tags": pa.array([["a"], [], None], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
            "small": pa.array([1, 2, 3], pa.int8()),
            "nan": [float("nan"), 1.0, None],
        }
    )
    pq.write_table(given, tmp_path / "pairs.parquet")
    assert run(tmp_path / "pairs.parquet", tmp_path / "output").n_scored == 2
    found = pq.read_table(tmp_path / "output" / "judgments.parquet")
    for name in set(given.column_names) - {"tags"}:
        assert found[name].type == given[name].type
    assert str(found.select(given.column_names).to_pylist()) == str(given.to_pylist())
    first = lines(tmp_path / "output" / "judgments.jsonl")[0]
    assert [first[name] for name in ("when", "price", "raw", "nan")] == [
        "1970-01-01T00:00:00.000001",
        "1.00",
        "/w==",
        None,
    ]
