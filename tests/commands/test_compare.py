"""`rank1-hf compare`: what goes in, what comes out, and the exit codes."""

import csv
import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rank1_hf.commands import cli
from rank1_hf.evaluation.compare import compare
from rank1_hf.files.beir import SAMPLE
from rank1_hf.files.trec import read_qrels
from tests.evaluation.stub import Stub, run, write_collection
from tests.evaluation.test_batch import run as run_pairs
from tests.evaluation.test_batch import write_pairs
from tests.evaluation.test_compare import Other, lines
from tests.viewing.made import HOSTILE
from tests.viewing.test_report import Page


class Result:
    """What a command did, on a terminal of 80 columns."""

    def __init__(self, *arguments: object) -> None:
        result = CliRunner(env={"COLUMNS": "80"}).invoke(cli.app, ["compare", *map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.code, self.out, self.err = result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("compared")
    collection = write_collection(folder / "collection")
    run(collection, folder / "a", Stub())
    run(collection, folder / "b", Other())
    return folder / "a", folder / "b"


def test_the_terminal_shows_all_of_it_in_80_columns(folders: tuple[Path, Path]) -> None:
    result = Result(*folders)
    assert (result.code, result.err) == (0, "")
    assert max(map(len, result.out.splitlines())) <= 80
    report = compare(*folders)
    for row in report.measures:
        rows = [line.split() for line in result.out.splitlines() if "." in line]
        (shown,) = [cells for cells in rows if cells[:1] == [row.measure]]
        assert shown[1:4] == [f"{row.a:.4f}", f"{row.b:.4f}", f"{row.b - row.a:+.4f}"]
        p_values = (row.t_test, row.t_test_holm, row.permutation_test, row.permutation_test_holm)
        assert shown[4:] == [f"{p:.4f}" for p in p_values if p is not None]
    for title in ("Measures", "Queries", "Agreement", "Diverging chains: 30, largest"):
        assert f"\n{title}" in result.out
    assert str(folders[0]) in "".join(result.out.split())


def test_long_and_strange_texts_fit_too(tmp_path: Path) -> None:
    records = [
        {"qid": f"{'query' * 30}{n}", "docid": f"document {n}", "chain": f"\n{word} {HOSTILE}", "score": 0.1 * n + 0.1}
        for n, word in enumerate(("one", "two", "three"))
    ]
    other = [record | {"chain": f"\n{HOSTILE} {n}", "score": 0.5} for n, record in enumerate(records)]
    result = Result(
        lines(tmp_path / "a.jsonl", records), lines(tmp_path / "b.jsonl", other), "--names", "x" * 60, HOSTILE
    )
    assert result.code == 0
    assert max(map(len, result.out.splitlines())) <= 80
    assert "\x1b" not in result.out


def test_json_is_one_object(folders: tuple[Path, Path]) -> None:
    result = Result(*folders, "--format", "json", "--measure", "AP")
    assert (result.code, result.err) == (0, "")
    assert json.loads(result.out) == json.loads(json.dumps(compare(*folders, measures=["AP"]).to_dict()))


@pytest.mark.parametrize("form", ["markdown", "latex"])
def test_tables_to_paste(folders: tuple[Path, Path], form: str) -> None:
    report = compare(*folders, names=("bf16", "4bit"))
    expected = report.to_markdown() if form == "markdown" else report.to_latex()
    result = Result(*folders, "--format", form, "--names", "bf16", "4bit")
    assert (result.code, result.out) == (0, f"{expected}\n")


def test_csv_has_the_measures_with_all_digits(folders: tuple[Path, Path]) -> None:
    heading, *rows = csv.reader(Result(*folders, "--format", "csv", "--names", "bf16", "4,bit").out.splitlines())
    tests = ["t_test", "t_test_holm", "permutation_test", "permutation_test_holm"]
    assert heading == ["measure", "bf16", "4,bit", "difference", *tests, "wins", "ties", "losses", "queries"]
    measures = compare(*folders).measures
    found = [(row.measure, row.a, row.b, row.b - row.a, *(getattr(row, test) for test in tests)) for row in measures]
    assert [row[:8] for row in rows] == [["" if cell is None else str(cell) for cell in row] for row in found]
    counts = [(row.wins, row.ties, row.losses, row.n) for row in measures]
    assert [tuple(map(int, row[8:])) for row in rows] == counts
    assert any(row[4] == "" for row in rows), "of some measure all differences are 0"


def test_runs_need_qrels_for_measures(folders: tuple[Path, Path]) -> None:
    runs = [folder / "run.trec" for folder in folders]
    result = Result(*runs)
    assert (result.code, "rank1-hf: nothing is measured" in result.err) == (0, True)
    assert "Kendall tau" in result.out
    assert Result(*runs, "--quiet").err == ""
    result = Result(*runs, "--qrels", folders[0].parent / "collection" / "qrels.tsv", "--measure", "P@3")
    assert (result.code, result.err) == (0, "")
    assert "P@3" in result.out


def test_the_page(folders: tuple[Path, Path], tmp_path: Path) -> None:
    html = tmp_path / "page.html"
    result = Result(*folders, "--html", html, "--corpus", folders[0].parent / "collection")
    assert (result.code, f"the page is in {html}" in result.err) == (0, True)
    data: Any = Page(html.read_text()).data
    assert ("query 0" in data["queries"], data["tables"][0]["title"]) == (True, "Compared")
    assert data["tables"][0]["rows"] == [["A", "a"], ["B", "b"]]
    assert str(tmp_path.parent) not in html.read_text()  # nor any other folder of whoever made it
    assert {row["grade"] for row in data["rows"]} == {None}
    qrels = folders[0].parent / "collection" / "qrels.tsv"
    copies = [Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in folders]
    for folder in copies:
        facts = {"environment": 1, "versions": {}, "options": {"qrels": str(qrels)}, "dtype": folder.name}
        digest = f"sha256:{sha256(qrels.read_bytes()).hexdigest()}"
        (folder / "environment.json").write_text(json.dumps(facts | {"inputs": {"qrels": {qrels.name: digest}}}))
    assert Result(*copies, "--html", html).code == 0
    data = Page(html.read_text()).data
    assert ["dtype", "a", "b"] in data["made"]["rows"]
    grades = read_qrels(qrels)
    assert [row["grade"] for row in data["rows"]] == [grades[q].get(d) for q, d in (row["ids"] for row in data["rows"])]


def test_tokens_of_a_checkpoint_are_counted(folders: tuple[Path, Path], checkpoint: Callable[..., Path]) -> None:
    result = Result(*folders, "--tokenizer", checkpoint("qwen2"), "--format", "json")
    assert result.code == 0
    assert all(0 < parting["token"] <= parting["character"] for parting in json.loads(result.out)["partings"])
    assert Result(*folders, "--tokenizer", folders[0] / "nothing").code == 3


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("a", "missing"), 2, "cannot read"),
        (("a", "."), 2, "neither a judgments.jsonl"),
        (("a", "b", "--qrels", "missing"), 2, "cannot read missing"),
        (("a", "b", "--measure", "nDCG@ten"), 2, "no measure"),
        (("a", "b", "--measure", "P@7"), 2, "A has no P@7"),
        (("a", "b", "--format", "pdf"), 2, "--format"),
        (("a", "b", "--only-run-queries"), 2, "--only-run-queries needs --qrels"),
        (("a", "b", "--corpus", "./missing"), 2, "there is no folder"),
        (("a", "b", "--corpus", str(SAMPLE), "--subset", "fas"), 2, "has no subsets"),
        (("a", "b", "--subset", "fas"), 2, "give --corpus, too"),
        (("a",), 2, "Missing argument"),
        (("a", "b", "--html", "no/page.html"), 4, "cannot write no/page.html"),
    ],
)
def test_bad_usage(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, said: str
) -> None:
    monkeypatch.chdir(folders[0].parent)
    result = Result(*arguments)
    assert result.code == code
    assert said in result.err


def test_rows_that_judge_could_not_read_are_left_out_and_told(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "pairs.jsonl", [{"query": "q", "passage": "p"}, "{", {"query": "q"}])
    run_pairs(path, tmp_path / "judged")
    result = Result(*[tmp_path / "judged" / "judgments.jsonl"] * 2)
    assert result.code == 0
    assert result.err.count("records left out that have an error and no query or no document: 2\n") == 2
    assert Result(*[tmp_path / "judged"] * 2, "--quiet").err == ""
