"""Judgments read back from the files of evaluate."""

import gzip
import json
import math
from pathlib import Path

import pytest

from rank1_hf.files.inputs import InputError
from rank1_hf.files.sources import open_source
from rank1_hf.results.judgment import Judgment
from rank1_hf.viewing.saved import Places, holds_judgments, pairs_of, read_judgments
from tests.evaluation.stub import Stub, run, write_collection
from tests.evaluation.test_batch import run as run_pairs
from tests.evaluation.test_batch import write_pairs
from tests.viewing.made import judgment


def write(path: Path, judged: dict[tuple[str, str], Judgment]) -> Path:
    lines = [
        json.dumps({"query": query, "document": document, "rank": 1, **each.to_dict()})
        for (query, document), each in judged.items()
    ]
    path.write_text("\n".join(lines))
    return path


def test_they_come_back_as_they_were(tmp_path: Path):
    judged = {("q1", "d1"): judgment(0, 1.5, "\nIt is."), ("q1", "d2"): Judgment.failed(1, "no")}
    found = read_judgments(write(tmp_path / "judgments.jsonl", judged), {})
    assert found[0] == judged["q1", "d1"]
    assert (found[1].error, math.isnan(found[1].score), found[1].label) == ("no", True, None)


def test_two_files_agree_about_the_index_of_a_pair(tmp_path: Path):
    places: Places = {}
    first = {("q", "a"): judgment(0, 1.0), ("q", "b"): judgment(1, 2.0)}
    second = {("q", "b"): judgment(0, 3.0), ("q", "c"): judgment(1, 4.0)}
    assert [each.index for each in read_judgments(write(tmp_path / "1", first), places)] == [0, 1]
    assert [(each.index, each.log_odds) for each in read_judgments(write(tmp_path / "2", second), places)] == [
        (1, 3.0),
        (2, 4.0),
    ]
    assert pairs_of(places) == [("q", "a"), ("q", "b"), ("q", "c")]


def test_what_evaluate_writes_with_its_texts(tmp_path: Path):
    collection = write_collection(tmp_path / "collection")
    run(collection, tmp_path / "output", Stub())
    places: Places = {}
    found = read_judgments(tmp_path / "output" / "judgments.jsonl", places)
    assert len(found) == len(places) == 90
    pairs = pairs_of(places, open_source(str(collection)))
    for (query, document), index in places.items():
        assert pairs[index][0] == query.replace("q", "query ")
        assert pairs[index][1] == {"title": document.replace("d", "T"), "text": document.replace("d", "text ") + " 翼"}


@pytest.mark.parametrize("line", ['{"text": "a"}', "[]", "7", "{"])
def test_other_files_are_refused_with_their_line(tmp_path: Path, line: str):
    (tmp_path / "other.jsonl").write_text(line)
    with pytest.raises(InputError, match=r"other.jsonl, line 1"):
        read_judgments(tmp_path / "other.jsonl", {})


def test_a_journal_is_read_too_gzipped_or_not(tmp_path: Path):
    run(write_collection(tmp_path / "collection"), tmp_path / "output", Stub())
    places: Places = {}
    expected = read_judgments(tmp_path / "output" / "judgments.jsonl", places)
    journal = tmp_path / "journal.gz"
    journal.write_bytes(gzip.compress((tmp_path / "output" / "journal.jsonl").read_bytes()))
    assert sorted(read_judgments(journal, places), key=lambda each: each.index) == expected


def test_a_second_judgment_of_a_pair_that_differs_is_refused(tmp_path: Path):
    lines = [write(tmp_path / "one", {("q", "d"): judgment(0, log_odds)}).read_text() for log_odds in (1.0, 1.0, 2.0)]
    path = tmp_path / "judgments.jsonl"
    path.write_text("\n".join(lines[:2]))
    assert len(read_judgments(path, {})) == 1
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match="line 3: another judgment of query q and document d"):
        read_judgments(path, {})


# ---- what others write -----------------------------------------------------------------------------------------------

PAIR = {"qid": "q", "docid": "d"}
THOUGHT = {"score": 0.75, "completion": "\nSo.</think> true"}


@pytest.mark.parametrize(
    ("record", "key"),
    [
        (PAIR | THOUGHT, ("q", "d")),
        ({"query_id": 7, "corpus-id": 8} | THOUGHT, ("7", "8")),
        ({"query": "wings?", "passage": "A wing."} | THOUGHT, ("wings?", "A wing.")),
        ({"question": "wings?", "content": "A wing.", "title": "Wings"} | THOUGHT, ("wings?", "A wing.")),
        ({"query": 7, "contents": "A\nwing."} | THOUGHT, ("7", "A\nwing.")),
        ({"query": "wings?", "document": "d", "passage": "A wing."} | THOUGHT, ("wings?", "d")),
        (PAIR | {"similarity": "0.75", "response": "<think>\nSo.</think> true"}, ("q", "d")),
        (PAIR | {"score": 0.75, "reasoning": "\nSo.", "output": "true", "finish": "stop"}, ("q", "d")),
        (PAIR | {"score": 0.75, "generation": "\nSo.", "logprobs": [-0.1], "prompt": [{"role": "user"}]}, ("q", "d")),
        (PAIR | {"score": 0.75, "outputs": [{"text": "\nSo.", "finish_reason": "stop"}]}, ("q", "d")),
        (PAIR | {"score": 0.75, "response": {"choices": [{"text": "\nSo.</think> true"}]}}, ("q", "d")),
        (PAIR | {"score": 0.75, "choices": [{"message": {"reasoning": "\nSo.", "content": "true"}}]}, ("q", "d")),
    ],
)
def test_records_of_others_in_all_their_forms(tmp_path: Path, record: dict, key: tuple[str, str]):
    path, places = tmp_path / "others.jsonl", Places()
    path.write_text(json.dumps(record))
    assert holds_judgments(path)
    (found,) = read_judgments(path, places)
    assert (list(places), found.score, found.label, found.chain) == ([key], 0.75, True, "\nSo.")
    assert (found.log_odds, found.ended) == (pytest.approx(math.log(3)), "closed")


@pytest.mark.parametrize(
    ("fields", "ended"),
    [
        ({}, "closed"),
        ({"finish": "length"}, "budget"),
        ({"finish_reason": "length"}, "budget"),
        ({"finish_reason": "stop", "stop_reason": None}, "eos"),
        ({"finish_reason": "length", "completion": "So.</think> false"}, "closed"),
        ({"ended": "context"}, "context"),
    ],
)
def test_how_chains_of_others_ended(tmp_path: Path, fields: dict, ended: str):
    (tmp_path / "others.jsonl").write_text(json.dumps(PAIR | {"score": 0.5, "completion": "So."} | fields))
    assert [each.ended for each in read_judgments(tmp_path / "others.jsonl", {})] == [ended]


def test_stated_log_odds_and_what_failed(tmp_path: Path):
    records = [PAIR | THOUGHT | {"log_odds": 1.5}, {"qid": "q", "docid": "e", "score": None, "error": {"code": 500}}]
    (tmp_path / "others.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    first, second = read_judgments(tmp_path / "others.jsonl", {})
    assert (first.log_odds, second.error) == (1.5, "{'code': 500}")


def test_a_run_in_json_lines_holds_no_judgments(tmp_path: Path):
    (tmp_path / "run.jsonl").write_text('{"qid": "q", "docid": "d", "score": 3.5, "text": "A wing."}')
    assert not holds_judgments(tmp_path / "run.jsonl")


@pytest.mark.parametrize("name", ["judgments.jsonl", "judgments.parquet"])
@pytest.mark.parametrize("passage", ["passage", "document"])
def test_a_row_that_judge_could_not_read_costs_no_other(tmp_path: Path, name: str, passage: str):
    pairs = [{"query": "q", passage: "p"}, {"query": "q", passage: " \ud800"}]
    bad = ["{", "[]", {"query": "q"}, {"query": "q", passage: None}, {passage: "p"}]
    run_pairs(write_pairs(tmp_path / "pairs.jsonl", [*pairs, *bad, *pairs]), tmp_path / "judged")
    found = read_judgments(tmp_path / "judged" / name, Places())
    assert [each.error is None for each in found] == [True, False]


def test_a_pair_that_failed_once_has_its_other_judgment(tmp_path: Path):
    scored, failed = judgment(0, 1.0), Judgment.failed(0, "no memory")
    for order in ([scored, failed], [failed, scored], [failed, Judgment.failed(0, "too long"), scored]):
        lines = [write(tmp_path / "one", {("q", "d"): each}).read_text() for each in order]
        (tmp_path / "judgments.jsonl").write_text("\n".join(lines))
        assert [each.log_odds for each in read_judgments(tmp_path / "judgments.jsonl", {})] == [1.0]
