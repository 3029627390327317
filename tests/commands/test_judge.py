"""`rank1-hf judge`: what goes in, what comes out, and the exit codes."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rank1_hf.commands import cli
from tests.evaluation.stub import Stub
from tests.evaluation.test_batch import lines, write_pairs


class Result:
    """What a command did."""

    def __init__(self, *arguments: object) -> None:
        result = CliRunner(env={"COLUMNS": "400"}).invoke(cli.app, ["judge", *map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.code, self.out, self.err = result.exit_code, result.stdout, result.stderr


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl")


def test_it_judges_a_file_and_says_so_when_all_is_done(pairs: Path, tmp_path: Path, model: Stub) -> None:
    first = Result(pairs, "-o", tmp_path / "out")
    assert (first.code, first.out) == (0, f"{tmp_path / 'out' / 'judgments.jsonl'}\n")
    assert "200 of 200 pairs have a score" in first.err
    seen = list(model.seen)
    again = Result(pairs, "-o", tmp_path / "out", "--json")
    assert (again.code, model.seen) == (0, seen)
    assert "the job was finished before" in again.err
    assert json.loads(again.out) == {"n_pairs": 200, "n_scored": 200, "n_failed": 0}
    assert Result(pairs, "-o", tmp_path / "out", "--quiet").err == ""


def test_a_bad_line_costs_itself_and_the_exit_code_says_it(tmp_path: Path, model: Stub) -> None:
    path = write_pairs(tmp_path / "pairs.jsonl", [{"query": "q", "passage": "p", "id": 1}, "{", '{"query": "q"}'])
    for _ in range(2):
        result = Result(path, "-o", tmp_path / "out")
        assert (result.code, "2 rows could not be read or judged" in result.err) == (1, True)
    path.write_text('{"query": "q", "passage": "p"}\n{\n')
    assert "rank1-hf: 1 row could not be read or judged" in Result(path, "-o", tmp_path / "of one").err
    found = lines(tmp_path / "out" / "judgments.jsonl")
    assert [(row["line"], row["error"] is None) for row in found] == [(1, True), (2, False), (3, False)]


def test_every_option_reaches_the_reranker(pairs: Path, tmp_path: Path, model: Any) -> None:
    assert Result(pairs, "-o", tmp_path / "out", "-m", "some/model", "--max-new-tokens", 7).code == 0
    assert (model.name, model.options["max_new_tokens"]) == ("some/model", 7)
    refused = Result(pairs, "-o", tmp_path / "out", "-m", "some/model", "--max-new-tokens", 8)
    assert (refused.code, "max_new_tokens was 7, now 8" in refused.err) == (2, True)


def test_columns_may_have_names_of_their_own(tmp_path: Path, model: Stub) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("q,p\nwhat?,this\n")
    assert Result(path, "-o", tmp_path / "out", "--map", "query=q", "--map", "passage=p").code == 0
    assert model.seen == [("what?", "this")]
    assert lines(tmp_path / "out" / "judgments.jsonl")[0]["q"] == "what?"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("missing.jsonl",), "cannot read missing.jsonl"),
        (("{pairs}", "--map", "query"), "--map takes NAME=FIELD, not 'query'"),
        (("{pairs}", "--map", "score=s"), "there is no 'score' to map a field to"),
        (("{pairs}", "--decoding", "speculate=maybe"), "write on or off"),
        (("{folder}/table.csv",), 'no "passage"'),
    ],
)
def test_what_cannot_be_is_refused_before_the_model_is_loaded(
    pairs: Path, tmp_path: Path, model: Any, arguments: tuple[str, ...], said: str
) -> None:
    (tmp_path / "table.csv").write_text("query\nq\n")
    model.judgment = lambda *_: pytest.fail("judged")
    named = [each.format(pairs=pairs, folder=tmp_path) for each in arguments]
    result = Result(*named, "-o", tmp_path / "out")
    assert (result.code, said in result.err, result.err.count("\n")) == (2, True, 1)


def test_what_can_be_read_once_only_is_refused_before_the_model_is_loaded(tmp_path: Path, model: Any) -> None:
    model.judgment = lambda *_: pytest.fail("judged")
    os.mkfifo(tmp_path / "pipe")
    result = Result(tmp_path / "pipe", "-o", tmp_path / "out")
    assert (result.code, "cannot be read twice" in result.err) == (2, True)


def test_an_output_that_is_a_file_is_refused(pairs: Path, model: Any) -> None:
    result = Result(pairs, "-o", pairs)
    assert (result.code, "is a file; give a folder" in result.err) == (2, True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_with_a_summary(
    pairs: Path, tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(model, "_before_each", lambda n: signal.raise_signal(number) if n == 30 else None)
        result = Result(pairs, "-o", tmp_path / "out")
    assert result.code == code
    assert "of 200 pairs are judged and kept; run the same command again to resume" in result.err
    assert Result(pairs, "-o", tmp_path / "out").code == 0


def test_a_summary_says_which_rows_are_among_no_pairs_done(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_pairs(tmp_path / "pairs.jsonl", [*({"query": "q", "passage": f"p{n}"} for n in range(19)), "{"])
    monkeypatch.setattr(model, "_before_each", lambda n: signal.raise_signal(signal.SIGINT) if n == 8 else None)
    said = Result(path, "-o", tmp_path / "out").err
    assert "8 of 20 pairs are judged and kept, 1 cannot be judged; run the same command again" in said


def test_it_says_how_it_was_made(pairs: Path, tmp_path: Path) -> None:
    """With the embedded model, which is what a command without --model has."""
    write_pairs(pairs, [{"query": "what flies?", "passage": "A wing.", "doc_id": "d"}])
    assert Result(pairs, "-o", tmp_path / "out", "--max-new-tokens", 4, "--device", "cpu").code == 0
    found = json.loads((tmp_path / "out" / "environment.json").read_text())
    assert found["command"][:3] == ["rank1-hf", "judge", str(pairs)]
    assert found["options"]["pairs"] == str(pairs)
    assert list(found["inputs"]["pairs"]) == ["pairs.jsonl"]
    (row,) = lines(tmp_path / "out" / "judgments.jsonl")
    assert (row["doc_id"], row["n_chain_tokens"], row["error"]) == ("d", 4, None)
