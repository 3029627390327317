"""`rank1-hf measure`: finished runs, without a model."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rank1_hf.commands import cli
from rank1_hf.evaluation.measured import MeasuredRuns, measure_runs
from rank1_hf.files.trec import read_qrels, read_run
from tests.evaluation.stub import Stub, run


class Result:
    """What the command did, on a terminal of 200 columns."""

    def __init__(self, *arguments: object) -> None:
        result = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, ["measure", *map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.code, self.out, self.err = result.exit_code, result.stdout, result.stderr


@pytest.fixture
def runs(collection: Path, tmp_path: Path) -> list[Path]:
    """A run, and an output folder of evaluate."""
    run(collection, tmp_path / "output", Stub())
    return [collection / "run.trec", tmp_path / "output"]


@pytest.fixture
def given(collection: Path, runs: list[Path]) -> list[object]:
    return ["--run", runs[0], "--run", runs[1], "--qrels", collection / "qrels.tsv"]


def expected(collection: Path, runs: list[Path], *measures: str, **more: Any) -> MeasuredRuns:
    read = [(str(runs[0]), read_run(runs[0])), (str(runs[1]), read_run(runs[1] / "run.trec"))]
    return measure_runs(read, read_qrels(collection / "qrels.tsv"), measures, **more)


def test_neither_torch_nor_transformers_is_imported(collection: Path) -> None:
    code = (
        "import sys; from rank1_hf.commands.cli import main\n"
        f"sys.argv = ['rank1-hf', 'measure', '--run', {str(collection / 'run.trec')!r}, "
        f"'--qrels', {str(collection / 'qrels.tsv')!r}]\n"
        "try: main()\n"
        "except SystemExit as exit:\n"
        "    heavy = {'torch', 'transformers', 'pandas', 'scipy.stats'}\n"
        "    print(exit.code, sorted(heavy & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()[-1] == "0 []"


def test_one_table_of_all_runs(collection: Path, runs: list[Path], given: list[object]) -> None:
    result = Result(*given, "--measure", "nDCG@10", "--measures", "map")
    assert (result.code, result.err) == (0, "")
    title, heading, *rows = filter(None, map(str.rstrip, result.out.splitlines()))
    assert (title, heading.split()) == ("Measures", ["run", "nDCG@10", "map", "queries"])
    (table,) = expected(collection, runs, "nDCG@10", "map").tables()
    assert [row.split() for row in rows] == [list(row) for row in table.rows]


def test_each_query_and_json(collection: Path, runs: list[Path], given: list[object]) -> None:
    found = expected(collection, runs, "AP")
    assert Result(*given, "--measure", "AP", "--per-query").out.count("q0 ") == 2
    for more in (("--json",), ("--format", "json")):
        assert json.loads(Result(*given, "--measure", "AP", *more).out) == json.loads(json.dumps(found.to_dict()))
    as_json = Result(*given, "--measure", "AP", "--json", "--per-query").out
    assert json.loads(as_json) == json.loads(json.dumps(found.to_dict(per_query=True)))


@pytest.mark.parametrize("form", ["markdown", "latex"])
def test_tables_to_paste(collection: Path, runs: list[Path], given: list[object], form: str) -> None:
    (table,) = expected(collection, runs, "AP").tables()
    text = table.to_markdown() if form == "markdown" else table.to_latex()
    assert Result(*given, "--measure", "AP", "--format", form).out == f"{text}\n"


def test_csv_is_one_table_with_all_digits(collection: Path, runs: list[Path], given: list[object]) -> None:
    found = expected(collection, runs, "AP").runs
    out = Result(*given, "--measure", "AP", "--format", "csv").out
    assert out.endswith(",6\n")
    assert list(csv.DictReader(out.splitlines())) == [
        {"run": run.name, "AP": str(run.of_all_queries()["AP"]), "queries": "6"} for run in found
    ]
    rows = list(csv.DictReader(Result(*given, "--measure", "AP", "--format", "csv", "--per-query").out.splitlines()))
    assert [list(row) for row in rows] == [["query", "run", "AP"]] * 12
    assert {(row["query"], row["run"]): float(row["AP"]) for row in rows} == {
        (query, run.name): value for run in found for query, value in run.values["AP"].items()
    }


def test_queries_that_the_run_lacks_are_told(collection: Path, runs: list[Path], given: list[object]) -> None:
    lines = runs[0].read_text().splitlines(keepends=True)
    runs[0].write_text("".join(line for line in lines if not line.startswith(("q0 ", "q1 "))))
    for more, verdict in (((), "count as 0"), (("--only-run-queries",), "are left out")):
        result = Result(*given, *more, "--json")
        assert result.err == f"rank1-hf: 2 judged queries are not in {runs[0]} and {verdict}\n"
        said = json.loads(result.out)
        assert said["notes"] == [f"2 judged queries are not in {runs[0]} and {verdict}"]
        assert [each["measures"][0]["n"] for each in said["runs"]] == [4 if more else 6, 6]
    assert Result(*given, "--quiet").err == ""


def test_a_part_of_mtebs_predictions(collection: Path) -> None:
    parts = {"fas": {"test": {"q0": {"d0": 1.0}}, "dev": {"q1": {"d7": 0.9}}}, "rus": {"test": {"q2": {"d1": 1.0}}}}
    file = collection / "predictions.json"
    file.write_text(json.dumps({"mteb_model_meta": {}} | parts))
    given = ("--run", file, "--qrels", collection / "qrels.tsv", "--measure", "P@1", "--json", "--quiet", "--per-query")
    values = json.loads(Result(*given, "--subset", "fas", "--split", "dev", "--only-run-queries").out)["runs"][0]
    assert list(values["queries"]["P@1"]) == ["q1"]
    result = Result(*given, "--subset", "fsa")
    assert (result.code, "--subset must be one of fas, rus, not 'fsa'; did you mean 'fas'?" in result.err) == (2, True)
    result = Result(*given, "--subset", "rus", "--split", "tset")  # the only one is no reason to take another
    assert (result.code, "--split must be one of test, not 'tset'; did you mean 'test'?" in result.err) == (2, True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--run": "no.trec"}, "cannot read no.trec"),
        ({"--run": "."}, "cannot read run.trec"),
        ({"--run": "empty"}, "empty is empty"),
        ({"--run": "bad"}, "bad, line 1: must be: query Q0 document rank score tag; it has 2 columns"),
        ({"--qrels": "no.tsv"}, "cannot read no.tsv"),
        ({"--qrels": "bad"}, "bad, line 1: must be: a query id, a document id and a whole number"),
        ({"--measure": "nDCG@ten"}, "no measure"),
        ({"--split": "test"}, "has no splits"),
        ({"--subset": "fas"}, "has no subsets"),
        ({"--format": "pdf"}, "--format"),
    ],
)
def test_bad_usage(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").write_text("")
    Path("bad").write_text("two columns\n")
    options = {"--run": collection / "run.trec", "--qrels": collection / "qrels.tsv"} | change
    result = Result(*(part for option in options.items() for part in option))
    assert result.code == 2
    assert said in result.err
