"""`rank1-hf explain`: what is shown and written, and the exit codes."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rank1_hf import reranker
from rank1_hf.commands import cli
from rank1_hf.files.trec import read_qrels
from rank1_hf.models.identity import checkpoint_identity
from rank1_hf.results.judgment import Interrupted, Judgment
from rank1_hf.tracing import TraceOptions
from rank1_hf.viewing.judgments import Judgments
from tests.evaluation.stub import Stub, run, write_collection
from tests.viewing.made import judgment
from tests.viewing.test_report import Page

QUERY, DOCS = "wings", ["A wing.", "Flour.", "A sea."]


class Result:
    """What a command did."""

    def __init__(self, *arguments: object, stdin: str = "") -> None:
        result = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["explain", *map(str, arguments)], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.code, self.out, self.err = result.exit_code, result.stdout, result.stderr


class Scripted:
    """Stands in for Rank1: the judgments that it is given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.judgments = [judgment(0, 1.0, "\nOne."), judgment(1, 2.0, "\nTwo."), judgment(2, -1.0, "\nThree.")]
        self.interrupted = False
        self.pairs: Any = None
        monkeypatch.setattr(reranker, "Rank1", self._load)

    def _load(self, name: str | None = None, **options: Any) -> "Scripted":
        self.name, self.options = name, options
        return self

    def judge(self, pairs: Any, **options: Any) -> Judgments:
        self.pairs, self.trace = pairs, options["trace"]
        if self.interrupted:
            raise Interrupted(self.judgments[:1])
        return Judgments(self.judgments, pairs)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return Scripted(monkeypatch)


def data_of(path: Path) -> Any:
    return Page(path.read_text(encoding="utf-8")).data


def test_chains_are_shown_best_first(model: Scripted):
    result = Result(QUERY, *DOCS)
    assert result.code == 0
    order = [result.out.index(text) for text in ("Flour.", "Two.", "A wing.", "One.", "A sea.", "Three.")]
    assert order == sorted(order)


def test_a_page_is_written_with_the_texts(model: Scripted, tmp_path: Path):
    result = Result(QUERY, *DOCS, "--html", tmp_path / "report.html")
    assert (result.code, result.out) == (0, "")
    assert f"the page is in {tmp_path / 'report.html'}" in result.err
    data = data_of(tmp_path / "report.html")
    assert data["queries"] == [QUERY]
    assert [data["passages"][row["passage"]] for row in data["rows"]] == ["Flour.", "A wing.", "A sea."]


def test_options_and_stdin_reach_the_model(model: Scripted):
    result = Result(QUERY, "--instruction", "large ones", "--dtype", "float32", "-m", "some/model", stdin="one\ntwo\n")
    assert result.code == 0
    assert [(query, passage["text"]) for query, passage in model.pairs] == [
        (QUERY, "one"),
        (QUERY, "two"),
    ]
    assert (model.name, model.options["dtype"]) == ("some/model", "float32")
    assert model.options["prompt_template"] == "FILL_QUERY_HERE large ones"


def test_everything_is_traced_unless_that_is_not_wanted(model: Scripted):
    Result(QUERY, *DOCS)
    assert model.trace == TraceOptions(belief="sentences", lens=True, attention=True)
    Result(QUERY, *DOCS, "--no-trace")
    assert model.trace is False


def test_a_model_that_cannot_be_traced(model: Scripted, monkeypatch: pytest.MonkeyPatch):
    def judge(pairs: Any, **options: Any) -> Judgments:
        raise ValueError("the layer lens does not know where it has its final norm")

    monkeypatch.setattr(model, "judge", judge)
    result = Result(QUERY, *DOCS)
    assert (result.code, "final norm; with --no-trace" in result.err) == (2, True)


def test_the_embedded_model_explains_itself(tmp_path: Path):
    html = tmp_path / "report.html"
    assert Result(QUERY, *DOCS[:2], "--html", html, "--max-new-tokens", 40, "--device", "cpu").code == 0
    for row in data_of(html)["rows"]:
        (found,) = row["runs"]
        trace = found["trace"]
        assert len(found["pieces"]) == len(trace["entropies"]) == found["n_chain_tokens"]
        assert found["belief"][-1][:2] == [found["n_chain_tokens"], pytest.approx(found["log_odds"], abs=1e-3)]
        assert trace["lens"][-1] == pytest.approx(found["log_odds"], abs=1e-3)
        assert len(trace["attention"]) == len(trace["prompt"]) == found["n_prompt_tokens"]
        assert "Passage: " in "".join(trace["prompt"])
    made = dict(data_of(html)["made"]["rows"])
    assert made["command"].startswith(f"rank1-hf explain {QUERY} 'A wing.' Flour. --html report.html")
    assert made["weights"] == checkpoint_identity(None)
    assert {"model", "dtype", "device", "started", "versions"} <= made.keys()


def test_failures_and_interrupts_have_their_exit_codes(model: Scripted, tmp_path: Path):
    model.judgments[1] = Judgment.failed(1, "no memory")
    result = Result(QUERY, *DOCS)
    assert (result.code, "no memory" in result.out) == (1, True)
    model.interrupted = True
    result = Result(QUERY, *DOCS, "--html", tmp_path / "report.html")
    assert result.code == 130
    assert len(data_of(tmp_path / "report.html")["rows"]) == 1


def test_judgments_of_two_runs_stand_side_by_side(tmp_path: Path):
    collection = write_collection(tmp_path / "collection")
    run(collection, tmp_path / "bf16", Stub())
    (tmp_path / "4bit").mkdir()
    lines = (tmp_path / "bf16" / "judgments.jsonl").read_text(encoding="utf-8").splitlines()
    changed = json.loads(lines[0]) | {"chain": "\nIt claims: another thing."}
    (tmp_path / "4bit" / "judgments.jsonl").write_text("\n".join([*lines[1:], json.dumps(changed)]), encoding="utf-8")
    html = tmp_path / "report.html"
    files = ("--judgments", tmp_path / "bf16" / "judgments.jsonl", "--other", tmp_path / "4bit" / "judgments.jsonl")
    assert Result(*files, "--corpus", collection, "--html", html).code == 0
    data = data_of(html)
    assert data["names"] == ["bf16", "4bit"]
    assert "query 0" in data["queries"]
    parting = [row["diverges"] for row in data["rows"] if row["diverges"] is not None]
    assert parting == [[1, 1]]


def test_the_page_of_a_traced_job_has_ids_grades_its_belief_and_how_it_was_made(tmp_path: Path):
    collection, folder = write_collection(tmp_path / "collection", n_queries=1), tmp_path / "job"
    job = ("evaluate", "--corpus", collection, "--run", collection / "run.trec", "--output", folder, "--trace")
    options = ("--top-k", 2, "--max-new-tokens", 24, "--device", "cpu", "--dtype", "float32")
    assert CliRunner().invoke(cli.app, [*map(str, job + options)]).exit_code == 0
    html = tmp_path / "page.html"
    assert Result("--judgments", folder, "--html", html).code == 0
    data = data_of(html)
    grades = read_qrels(collection / "qrels.tsv")["q0"]
    assert {tuple(row["ids"]): row["grade"] for row in data["rows"]} == {
        ("q0", document): grades[document] for document in ("d0", "d3")
    }
    for row in data["rows"]:
        (found,) = row["runs"]
        assert found["belief"][-1][:3] == [
            found["n_chain_tokens"],
            pytest.approx(found["log_odds"], abs=1e-3),
            len(found["pieces"]),
        ]
        assert found["entropy"] > 0
    made = dict(data["made"]["rows"])
    assert made["dtype"] == "float32"
    assert made["command"].startswith("rank1-hf evaluate --corpus collection --output job --run run.trec --top-k 2")
    assert str(tmp_path) not in html.read_text()
    (collection / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td0\t3\n")  # no longer that of the job
    assert Result("--judgments", folder / "judgments.jsonl", "--html", html).code == 0
    assert {row["grade"] for row in data_of(html)["rows"]} == {None}
    assert (
        Result("--judgments", folder / "judgments.jsonl", "--html", html, "--qrels", collection / "qrels.tsv").code == 0
    )
    assert {row["grade"] for row in data_of(html)["rows"]} == {3, None}
    (folder / "environment.json").write_text("{")
    result = Result("--judgments", folder / "judgments.jsonl", "--html", html)
    assert (result.code, "the page does not say how" in result.err, data_of(html)["made"]) == (0, True, None)


def test_a_page_that_cannot_be_written(model: Scripted, tmp_path: Path):
    result = Result(QUERY, *DOCS, "--html", tmp_path / "no" / "report.html")
    assert result.code == 4
    assert result.err.splitlines()[-1].startswith(f"rank1-hf: cannot write {tmp_path / 'no'}")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "there is no query"),
        ((QUERY, "a", "--file", "b.txt"), "not both"),
        ((QUERY, "a", "--other", "b.jsonl"), "go with --judgments"),
        ((QUERY, "a", "--qrels", "b.tsv"), "go with --judgments"),
        ((QUERY, "a", "--subset", "fas"), "go with --judgments"),
        ((QUERY, "a", "--shade", "time"), "'entropy', 'margin'"),
        ((QUERY, "--judgments", "b.jsonl", "--html", "b.html"), "not both"),
        (("--judgments", "b.jsonl"), "needs --html"),
        (("--judgments", ".", "--html", "b.html"), "neither a judgments.jsonl nor a journal.jsonl"),
        (("--judgments", "b.jsonl", "--html", "b.html"), "cannot read b.jsonl"),
        ((" ", "a"), "the query is blank"),
    ],
)
def test_bad_usage_is_said_before_a_model_is_loaded(
    model: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
):
    monkeypatch.chdir(tmp_path)
    result = Result(*arguments)
    assert result.code == 2
    assert said in result.err
    assert not hasattr(model, "name")
    assert list(tmp_path.iterdir()) == []
