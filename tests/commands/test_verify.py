"""`rank1-hf verify`: what is printed, written and returned, and what is refused before a model is loaded."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rank1_hf import Rank1
from rank1_hf.commands import options
from rank1_hf.commands.cli import app
from rank1_hf.files.beir import SAMPLE
from tests.viewing.test_report import Page

PAIRS = [("wings?", "A wing carries."), ("wings?", "Bread <b>is</b> food."), ("bread?", "Bread is food.")]


@pytest.fixture(scope="module")
def records() -> list[dict]:
    model = Rank1(device="cpu", dtype="float32", max_new_tokens=40)
    return [
        {"query": query, "passage": passage, "query_id": f"q{query[0]}", "docid": f"d{judgment.index}"}
        | {"completion": judgment.chain, "score": judgment.score, "ended": judgment.ended}
        for judgment, (query, passage) in zip(model.judge(PAIRS), PAIRS, strict=True)
    ]


def run(tmp_path: Path, records: list[object], *arguments: str) -> Result:
    file = tmp_path / "records.jsonl"
    file.write_text("".join(f"{record if isinstance(record, str) else json.dumps(record)}\n" for record in records))
    return CliRunner().invoke(app, ["verify", str(file), "--dtype", "float32", "--device", "cpu", "-q", *arguments])


def test_records_that_agree(tmp_path: Path, records):
    qrels = tmp_path / "qrels.txt"
    qrels.write_text("qw 0 d0 1\nqb 0 d2 1\n")
    result = run(tmp_path, records, "--qrels", str(qrels))
    assert result.exit_code == 0
    assert "3 of 3 records agree" in result.stdout
    assert "scores: 3 of 3 within 0.0001, 0 within rounding, 0 different" in result.stdout
    assert "rankings: 0 of 1 change (Kendall's tau 1.0000)" in result.stdout
    assert "nDCG@10: theirs" in result.stdout


def test_a_record_that_does_not(tmp_path: Path, records):
    page = tmp_path / "page.html"
    wrong = [{**records[0], "score": 0.5}, *records[1:]]
    (tmp_path / "qrels.txt").write_text("qw 0 d0 3\n")
    result = run(tmp_path, wrong, "--html", str(page), "--qrels", str(tmp_path / "qrels.txt"))
    assert result.exit_code == 1
    assert "records.jsonl, line 1: placeholder score: 0.5" in " ".join(result.stdout.split())
    assert "1 placeholder score: The score is what engines give" in " ".join(result.stdout.split())
    html = page.read_text()
    assert "placeholder score: The score is what engines give" in html
    assert "<b>is</b>" not in html  # text of a passage is no markup
    data: Any = Page(html).data
    assert data["rows"][0]["ids"] == ["qw", "d0"]
    assert [row["grade"] for row in data["rows"]] == [3, None, None]
    assert ["dtype", "float32", ""] in data["made"]["rows"]
    assert (data["names"], str(tmp_path) in html) == (["this model", "records.jsonl"], False)
    assert run(tmp_path, wrong, "--threshold", "0.34").exit_code == 0


def test_json_has_an_object_for_each_record_and_the_summary(tmp_path: Path, records):
    result = run(tmp_path, [{**records[0], "score": 0.5}, records[1]], "--json")
    *each, last = map(json.loads, result.stdout.splitlines())
    assert [one["agrees"] for one in each] == [False, True]
    assert each[0]["findings"][0]["kind"] == "placeholder score"
    assert (last["summary"]["n"], last["summary"]["n_agree"]) == (2, 1)


def test_a_line_that_cannot_be_read_costs_that_line_and_the_exit_code(tmp_path: Path, records):
    result = run(tmp_path, [records[0], "{", records[1]])
    assert result.exit_code == 1
    assert "2 of 2 records agree" in result.stdout


def test_texts_of_judgments_come_from_the_collection(tmp_path: Path, records):
    collection = tmp_path / "collection"
    collection.mkdir()
    corpus = [{"_id": each["docid"], "text": each["passage"]} for each in records]
    queries = [{"_id": each["query_id"], "text": each["query"]} for each in records[::2]]
    for name, lines in (("corpus", corpus), ("queries", queries)):
        (collection / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    judgments = [
        {"query": each["query_id"], "document": each["docid"], "score": each["score"], "log_odds": None}
        | {"chain": each["completion"], "ended": each["ended"], "error": None}
        for each in records
    ]
    assert run(tmp_path, judgments, "--corpus", str(collection)).exit_code == 0
    without = run(tmp_path, judgments)
    assert without.exit_code == 1
    assert "give the collection" in " ".join(without.stdout.split())


def test_fields_of_other_names(tmp_path: Path, records):
    renamed = [
        {"a": each["query"], "b": {"c": each["passage"]}, "d": each["completion"], "e": each["score"]}
        for each in records
    ]
    maps = [part for name in ("query=a", "passage=b.c", "completion=d", "score=e") for part in ("--map", name)]
    assert run(tmp_path, renamed, *maps).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--map", "passage"], "--map takes NAME=FIELD"),
        (["--map", "colour=x"], "there is no 'colour' to map a field to"),
        (["--their-dtype", "int8"], "--their-dtype must be one of"),
        (["--prompt-template", "none"], "FILL_QUERY_HERE"),
        (["--corpus", "/nowhere"], "/nowhere"),
        (["--corpus", str(SAMPLE), "--subset", "fas"], "has no subsets"),
        (["--subset", "fas"], "give --corpus, too"),
        (["--qrels", "/nowhere"], "cannot read /nowhere"),
    ],
)
def test_what_makes_no_sense_is_refused_before_the_model_is_loaded(
    tmp_path: Path, records, monkeypatch: pytest.MonkeyPatch, arguments: list[str], reason: str
):
    monkeypatch.setattr(options, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    result = run(tmp_path, records, *arguments)
    assert result.exit_code == 2
    assert reason in result.stderr


def test_a_file_without_records(tmp_path: Path):
    result = run(tmp_path, [])
    assert result.exit_code == 2
    assert "has no record" in result.stderr


def test_an_interrupt_says_that_nothing_is_reported(tmp_path: Path, records, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(options, "load", lambda *_, **__: SimpleNamespace(verify=interrupted))
    file = tmp_path / "records.jsonl"
    file.write_text(json.dumps(records[0]))
    result = CliRunner().invoke(app, ["verify", str(file)])
    assert (result.exit_code, result.stdout) == (130, "")
    assert "interrupted: nothing is reported" in result.stderr
