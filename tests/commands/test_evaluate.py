"""`rank1-hf evaluate`: what goes in, what comes out, and the exit codes."""

import json
import re
import signal
import warnings
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from rank1_hf import reranker
from rank1_hf.commands import cli
from rank1_hf.commands.evaluate import _problems, _table
from rank1_hf.decoding.loop import Decoder
from rank1_hf.decoding.options import DecodingOptions
from rank1_hf.evaluation import metrics
from rank1_hf.evaluation import task as task_module
from rank1_hf.evaluation.candidates import queries_are_documents
from rank1_hf.evaluation.metrics import Comparison
from rank1_hf.evaluation.pending import Outcome
from rank1_hf.files.inputs import Document, InputError
from rank1_hf.files.sources import BeirFolder
from rank1_hf.files.trec import read_qrels, read_run, write_run
from rank1_hf.models import identity
from rank1_hf.results.judgment import Judgment
from tests.evaluation.repository import write_repository
from tests.evaluation.stub import Stub, results, run, write_collection


class Result:
    """What a command did."""

    def __init__(self, *arguments: object) -> None:
        result = CliRunner(env={"COLUMNS": "400"}).invoke(cli.app, ["evaluate", *map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.code, self.out, self.err = result.exit_code, result.stdout, result.stderr


def given(collection: Path, output: Path, *more: object) -> tuple[object, ...]:
    return ("--corpus", collection, "--run", collection / "run.trec", "--output", output, *more)


def test_it_writes_what_the_job_writes_and_shows_the_metrics(collection: Path, tmp_path: Path, model: Stub) -> None:
    result = Result(*given(collection, tmp_path / "output", "--qrels", collection / "qrels.tsv", "--top-k", 15))
    assert result.code == 0
    metrics = run(collection, tmp_path / "expected", top_k=15).metrics
    assert results(tmp_path / "output") == results(tmp_path / "expected")
    _, heading, *rows = result.out.splitlines()
    assert heading.split() == ["measure", "before", "after", "difference", "p", "queries"]
    shown = [row.split()[:3] for row in rows[: len(metrics)]]
    assert shown == [[m.measure, f"{m.before:.4f}", f"{m.after:.4f}"] for m in metrics]
    assert "90 of 90 pairs have a score; the results are in" in result.err
    again = Result(*given(collection, tmp_path / "output", "--qrels", collection / "qrels.tsv", "--top-k", 15))
    assert (again.code, again.out) == (0, result.out)
    assert "90 of 90 pairs have a score (nothing was left to judge, measured again); the results are in" in again.err


@pytest.mark.parametrize(("p_value", "shown"), [(0.04321, "0.0432"), (1e-9, "<0.0001"), (None, "225")])
def test_no_chance_is_shown_as_none(p_value: float | None, shown: str) -> None:
    console = Console(width=100, record=True, file=StringIO())
    console.print(_table([Comparison("AP", 0.1, 0.2, p_value, 225)]).to_rich())
    assert console.export_text().splitlines()[2].split()[4] == shown


def test_json_says_the_same(collection: Path, tmp_path: Path, model: Stub) -> None:
    measures = ("--measure", "P@5", "--measure", "nDCG@3")
    result = Result(*given(collection, tmp_path / "output", "--json", "--quiet", "--top-k", 15, *measures))
    said = json.loads(result.out)
    assert (said["n_pairs"], said["n_scored"], said["n_failed"]) == (90, 90, 0)
    assert [row["measure"] for row in said["metrics"]] == ["P@5", "nDCG@3"]
    assert said["metrics"] == json.loads((tmp_path / "output" / "metrics.json").read_text())
    assert result.err == ""


def test_queries_that_only_the_run_or_only_the_judgments_have_are_told(
    collection: Path, tmp_path: Path, model: Stub
) -> None:
    qrels = collection / "qrels.tsv"
    lines = [line for line in qrels.read_text().splitlines() if not line.startswith("q0\t")]
    qrels.write_text("\n".join([*lines, "other\td0\t1", "another\td0\t1\n"]))
    unjudged = "1 query of the run has no relevance judgments (qrels)"
    for more, n, verdict in (((), 7, "count as 0"), (("--only-run-queries",), 5, "are left out")):
        result = Result(*given(collection, tmp_path / "output", "--json", "--top-k", 2, "--measure", "AP", *more))
        said = json.loads(result.out)
        assert [row["n"] for row in said["metrics"]] == [n]
        assert said["notes"] == [f"2 judged queries are not in the run and {verdict}", unjudged]
        said_first = result.err.partition("pairs have a score")[0]
        unmeasured = "pairs of queries without relevance judgments: 2; --only-judged-queries leaves them out"
        for sentence in (*said["notes"], unmeasured):
            assert said_first.count(f"rank1-hf: {sentence}\n") == 1
        assert len((tmp_path / "output" / "per_query.tsv").read_text().splitlines()) == n + 1


def test_queries_are_chosen_by_their_qrels_and_their_number_and_only_these_are_measured(
    collection: Path, tmp_path: Path, model: Stub
) -> None:
    qrels = collection / "qrels.tsv"
    lines = qrels.read_text().splitlines(keepends=True)
    qrels.write_text("".join(line for line in lines if not line.startswith("q0\t")))
    options = ("--json", "--top-k", 2, "--measure", "AP", "--only-judged-queries", "--queries", 2)
    said = json.loads(Result(*given(collection, tmp_path / "output", *options)).out)
    assert {query for query, _ in model.seen} == {"query 1", "query 2"}
    assert (said["n_pairs"], said["metrics"][0]["n"], said["notes"]) == (4, 2, [])
    assert list(read_run(tmp_path / "output" / "run.trec")) == ["q1", "q2"]
    for more, queries in (((), ["q1", "q2"]), (("--queries", 1), ["q1"])):
        output = tmp_path / str(len(queries))
        assert Result("--like", tmp_path / "output", "--output", output, *more).code == 0
        assert list(read_run(output / "run.trec")) == queries


def test_queries_are_not_chosen_by_qrels_that_do_not_judge_them(collection: Path, tmp_path: Path, model: Stub) -> None:
    qrels = collection / "qrels.tsv"
    qrels.write_text("query-id\tcorpus-id\tscore\nq5\td1\t1\n")
    few = Result(*given(collection, tmp_path / "output", "--queries", 2))
    assert "the qrels judge none of the run's first 2 queries; add --only-judged-queries" in few.err
    qrels.unlink()
    without = Result(*given(collection, tmp_path / "output", "--only-judged-queries"))
    assert "--only-judged-queries needs relevance judgments (qrels); give --qrels" in without.err
    assert (few.code, without.code, model.seen) == (2, 2, [])
    assert Result(*given(collection, tmp_path / "output", "--queries", 2, "--top-k", 1)).code == 0
    assert len(model.seen) == 2


def test_candidates_without_an_order_are_refused_unless_all_are_reranked(tmp_path: Path, model: Stub) -> None:
    """As those of MS MARCO, a query id and a document id a line."""
    ir_datasets = pytest.importorskip("ir_datasets")
    files = {"docs": "d1\tone\nd2\ttwo\nd3\tthree\n", "queries": "q\twhat?\n", "candidates": "q\td3\nq\td1\nq\td2\n"}
    local = {}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        local[name] = ir_datasets.util.LocalDownload(tmp_path / name)
    formats = ir_datasets.formats
    parts = formats.TsvDocs(local["docs"]), formats.TsvQueries(local["queries"])
    dataset = ir_datasets.Dataset(*parts, formats.TrecScoredDocs(local["candidates"]))
    ir_datasets.registry.register("rank1-test-pairs", dataset)
    options = ("--corpus", "ir_datasets:rank1-test-pairs", "--output", tmp_path / "output")
    refused = Result(*options, "--top-k", 2)
    assert (refused.code, model.seen) == (2, [])
    assert "lists candidates without an order" in refused.err
    assert "--top-k 3 to rerank all of them" in refused.err
    told = Result(*options, "--top-k", 3)
    assert (told.code, len(model.seen), "without an order" in told.err) == (0, 3, True)


def test_the_tag_is_the_last_column_of_the_run_and_merging_keeps_it(
    collection: Path, tmp_path: Path, model: Stub
) -> None:
    def tags(folder: Path) -> set[str]:
        return {line.split()[5] for line in (folder / "run.trec").read_text().splitlines()}

    for name, more in (("plain", ()), ("whole", ("--tag", "bm25+stub"))):
        assert Result(*given(collection, tmp_path / name, "--top-k", 2, *more)).code == 0
    assert (tags(tmp_path / "plain"), tags(tmp_path / "whole")) == ({"rank1-hf"}, {"bm25+stub"})
    shards = [tmp_path / "1", tmp_path / "2"]
    for folder in shards:
        shard = ("--shard", f"{folder.name}/2", "--tag", "bm25+stub", "--only-run-queries")
        assert Result(*given(collection, folder, "--top-k", 2, *shard)).code == 0
    assert merge(*shards, "-o", tmp_path / "merged").code == 0
    assert tags(tmp_path / "merged") == {"bm25+stub"}


def test_two_names_of_a_measure_give_equal_rows(collection: Path, tmp_path: Path, model: Stub) -> None:
    names = ("MRR@10", "RR@10", "AP", "MAP", "MRR@10")
    options = [part for name in names for part in ("--measure", name)]
    rows = json.loads(Result(*given(collection, tmp_path / "output", "--json", *options)).out)["metrics"]
    assert [row.pop("measure") for row in rows] == ["MRR@10", "RR@10", "AP", "MAP"]
    assert rows[0] == rows[1] != rows[2] == rows[3]


def test_a_measure_that_fails_at_the_end_is_told_even_if_quiet(
    collection: Path, tmp_path: Path, model: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter([{"P@1": {"q0": 0.5}, "AP": {"q0": 0.5}}, {"AP": {"q0": 1.0}}])

    def measure(qrels: Any, run: Any, names: Any, skip: Any = None) -> Any:
        if skip:
            skip(InputError("P@1 cannot be computed: no memory"))
        return next(measured)

    for module in (task_module, metrics):  # before, and after
        monkeypatch.setattr(module, "measure", measure)
    result = Result(*given(collection, tmp_path / "output", "--quiet", "--json"))
    assert (result.code, result.err) == (0, "rank1-hf: P@1 cannot be computed: no memory\n")
    said = json.loads(result.out)
    assert ([row["measure"] for row in said["metrics"]], said["unmeasured"]) == (
        ["AP"],
        ["P@1 cannot be computed: no memory"],
    )


def test_no_warning_of_a_library_is_heard_if_quiet(
    collection: Path, tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    judgment = model.judgment

    def warn(*arguments: Any) -> Judgment:
        warnings.warn("of a library", RuntimeWarning, stacklevel=2)
        return judgment(*arguments)

    monkeypatch.setattr(model, "judgment", warn)
    for quiet in (True, False):
        result = Result(*given(collection, tmp_path / str(quiet), *(["--quiet"] if quiet else [])))
        assert ("rank1-hf: of a library\n" in result.err) is not quiet


@pytest.mark.parametrize("quiet", [True, False])
def test_chains_that_all_run_out_are_told_unless_quiet(
    collection: Path, tmp_path: Path, checkpoint: Callable[..., Path], quiet: bool
) -> None:
    more = ("--model", checkpoint("qwen2"), "--device", "cpu", "--max-new-tokens", 1, "--top-k", 2)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        result = Result(*given(collection, tmp_path / "output", *more, *(["--quiet"] if quiet else [])))
    assert result.code == 0
    told = result.err + "".join(str(each.message) for each in heard)
    assert ("12 of 12 chains were not closed within their budget of 1 tokens" in told) is not quiet
    assert not (quiet and told)


def test_the_run_as_json(collection: Path, tmp_path: Path, model: Stub) -> None:
    for run_format in ("json", "trec"):
        assert Result(*given(collection, tmp_path / run_format, "--run-format", run_format)).code == 0
    assert json.loads((tmp_path / "json" / "run.json").read_text()) == read_run(tmp_path / "json" / "run.trec")
    assert not (tmp_path / "trec" / "run.json").exists()


@pytest.mark.parametrize(
    ("folder", "options", "left_out"),
    [
        ("arguana", (), True),
        ("arguana", ("--no-ignore-identical-ids",), False),
        ("BIRCO-ArguAna-Test", (), True),
        ("quora", (), True),
        ("cranfield", (), False),
        ("cranfield", ("--task", "SciFact"), False),
        ("cranfield", ("--task", "ArguAna"), True),
        ("cranfield", ("--task", "NanoArguAnaRetrieval"), True),
        ("cranfield", ("--task", "QuoraRetrieval"), True),
        ("cranfield", ("--task", "ArguAna", "--no-ignore-identical-ids"), False),
        ("cranfield", ("--ignore-identical-ids",), True),
    ],
)
def test_a_query_is_no_candidate_of_its_own_where_queries_are_documents(
    tmp_path: Path, model: Stub, folder: str, options: tuple[str, ...], left_out: bool
) -> None:
    collection = write_collection(tmp_path / folder, n_documents=20, depth=20)
    for name in ("queries.jsonl", "run.trec", "qrels.tsv"):  # query q3 is now document d3
        text = (collection / name).read_text()
        (collection / name).write_text(re.sub(r'^(\{"_id": ")?q(?=\d)', r"\1d", text, flags=re.MULTILINE))
    result = Result(*given(collection, tmp_path / "output", "--json", "--top-k", 20, *options))
    before, after = read_run(collection / "run.trec"), read_run(tmp_path / "output" / "run.trec")
    assert sum(query in scores for query, scores in before.items()) == 6
    assert sum(query in scores for query, scores in after.items()) == (0 if left_out else 6)
    assert json.loads(result.out)["n_pairs"] == (114 if left_out else 120)
    assert ("left out: 6 candidates with their query's own id" in result.err) is left_out


def test_a_run_of_own_queries_alone_leaves_nothing_to_rerank(collection: Path, tmp_path: Path, model: Any) -> None:
    (collection / "run.trec").write_text("q0 Q0 q0 1 1 bm25\n")
    result = Result(*given(collection, tmp_path / "output", "--ignore-identical-ids"))
    assert (result.code, "nothing to rerank" in result.err) == (2, True)


@pytest.mark.parametrize(
    ("corpus", "task", "known"),
    [
        ("mteb/arguana", None, True),
        ("BeIR/quora", None, True),
        ("ir_datasets:beir/arguana", None, True),
        ("ir_datasets:beir/quora/test", None, True),
        ("mteb/ArguAna-PL", None, True),
        ("mteb/scifact", "ArguAna", True),
        ("mteb/scifact", "SciFact", False),
        ("ir_datasets:beir/webis-touche2020", "Touche2020", False),
    ],
)
def test_collections_whose_queries_are_documents_are_known(corpus: str, task: str | None, known: bool) -> None:
    assert queries_are_documents(corpus, task) is known


def test_every_option_reaches_the_reranker(collection: Path, tmp_path: Path, model: Any) -> None:
    options = ("-m", "some/model", "--max-new-tokens", 7, "--dtype", "float32", "--device", "cpu")
    more = ("--quantization", "4bit", "--prompt-template", "Find FILL_QUERY_HERE", "--reproducible")
    assert Result(*given(collection, tmp_path / "output", *options, *more)).code == 0
    assert model.name == "some/model"
    assert model.options == {
        "max_new_tokens": 7,
        "dtype": "float32",
        "device": "cpu",
        "quantization": "4bit",
        "prompt_template": "Find FILL_QUERY_HERE",
        "decoding": DecodingOptions(reproducible=True),
        "num_gpus": 1,
    }


def test_a_task_has_its_dataset_prompt_from_the_package_or_a_file(collection: Path, tmp_path: Path, model: Any) -> None:
    Result(*given(collection, tmp_path / "first", "--task", "ArguAna"))
    assert "counter-argument" in model.options["prompt_template"]
    (tmp_path / "prompts.yaml").write_text("Bright: Find FILL_QUERY_HERE\nBright/pony: Pony, FILL_QUERY_HERE\n")
    for task, template in (("Bright", "Find FILL_QUERY_HERE"), ("Bright/pony", "Pony, FILL_QUERY_HERE")):
        Result(*given(collection, tmp_path / task, "--task", task, "--prompts", tmp_path / "prompts.yaml"))
        assert model.options["prompt_template"] == template


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (("-m", "other/model"), 'model was "None", now "other/model"'),
        (("--prompt-template", "Find FILL_QUERY_HERE"), "prompt_template was null"),
        (("--max-new-tokens", 7), "max_new_tokens was null, now 7"),
        (("--dtype", "float32"), "dtype was null"),
        (("--reproducible",), "reproducible was false, now true"),
        (("--decoding", "reproducible=on"), "reproducible was false, now true"),
    ],
)
def test_another_job_s_journal_is_refused(
    collection: Path, tmp_path: Path, model: Stub, option: tuple[object, ...], said: str
) -> None:
    Result(*given(collection, tmp_path / "output"))
    result = Result(*given(collection, tmp_path / "output", "--quiet", *option))
    assert result.code == 2
    assert said in result.err
    assert result.err.count("\n") == 1


def test_a_journal_goes_on_with_other_decoding_that_decides_nothing(
    collection: Path, tmp_path: Path, model: Stub
) -> None:
    output = tmp_path / "output"
    assert Result(*given(collection, output, "--decoding", "speculate=off,batch_size=3")).code == 0
    assert Result(*given(collection, output, "--batch-size", 5)).code == 0


def test_a_reproducible_journal_knows_the_batch_size_however_it_was_given(
    collection: Path, tmp_path: Path, model: Stub
) -> None:
    output = tmp_path / "output"
    assert Result(*given(collection, output, "--reproducible", "--batch-size", 4)).code == 0
    assert Result(*given(collection, output, "--decoding", "reproducible=on,batch_size=4,pack=off")).code == 0
    other = Result(*given(collection, output, "--reproducible", "--decoding", "batch_size=5"))
    assert (other.code, "batch_size was 4, now 5" in other.err) == (2, True)


def test_decoding_that_makes_no_sense_is_refused_before_anything_is_read(tmp_path: Path, model: Stub) -> None:
    result = Result(*given(tmp_path / "missing", tmp_path / "output", "--decoding", "speculate=maybe"))
    assert (result.code, "speculate=maybe: write on or off" in result.err) == (2, True)
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_with_a_summary(
    collection: Path, tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    def interrupt(n_judged: int) -> None:
        if n_judged == 30:
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(model, "_before_each", interrupt)
        result = Result(*given(collection, tmp_path / "output"))
    assert result.code == code
    assert "of 120 pairs are judged and kept; run the same command again to resume" in result.err
    again = Result(*given(collection, tmp_path / "output"))
    assert again.code == 0
    assert f"going on with the job in {tmp_path / 'output'}" in again.err
    assert "going on" not in Result(*given(collection, tmp_path / "output")).err, "nothing is left to judge"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_while_the_corpus_is_read_ends_with_a_summary_too(
    collection: Path, tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    def documents(*_: Any) -> Iterator[Document]:
        yield Document("text", "", "d0")
        signal.raise_signal(number)
        yield pytest.fail("went on")

    with monkeypatch.context() as patch:
        patch.setattr(BeirFolder, "documents", documents)
        result = Result(*given(collection, tmp_path / "output"))
    assert result.code == code
    assert "the inputs were being read; what was judged before is kept" in result.err
    assert [file.name for file in (tmp_path / "output").iterdir()] == [".lock"]
    assert Result(*given(collection, tmp_path / "output")).code == 0


def test_without_judgments_it_says_that_nothing_is_measured(collection: Path, tmp_path: Path, model: Stub) -> None:
    (collection / "qrels.tsv").unlink()
    result = Result(*given(collection, tmp_path / "output"))
    assert (result.code, "nothing is measured" in result.err) == (0, True)


def test_a_subset_of_a_dataset_is_evaluated(tmp_path: Path, model: Stub) -> None:
    pytest.importorskip("datasets")
    parts: dict[str, tuple[str, list[dict[str, Any]]]] = {}
    for language in ("fas", "rus"):
        parts[f"corpus-{language}"] = ("corpus", [{"_id": f"d{n}", "text": f"{language} {n}"} for n in range(3)])
        parts[f"queries-{language}"] = ("queries", [{"_id": "q", "text": f"what in {language}?"}])
        parts[f"top_ranked-{language}"] = ("top_ranked", [{"query-id": "q", "corpus-ids": ["d0", "d1", "d2"]}])
    folder = write_repository(tmp_path / "hub", parts)
    assert Result("--corpus", folder, "--output", tmp_path / "output", "--subset", "rus").code == 0
    assert sorted(model.seen) == [("what in rus?", f"rus {n}") for n in range(3)]


def test_a_subset_and_a_split_of_mteb_s_predictions_are_evaluated(
    collection: Path, tmp_path: Path, model: Stub
) -> None:
    parts = {
        subset: {split: {query: {"d1": 1.0}} for split, query in splits}
        for subset, splits in (("fas", [("test", "q0"), ("dev", "q1")]), ("rus", [("test", "q2"), ("dev", "q3")]))
    }
    run = tmp_path / "NevIR_predictions.json"
    run.write_text(json.dumps({"mteb_model_meta": {"model_name": "m", "revision": "r"}} | parts))
    (collection / "qrels").mkdir()
    (collection / "qrels.tsv").rename(collection / "qrels" / "dev.tsv")
    options = ("--corpus", collection, "--run", run, "--output", tmp_path / "output")
    for more, said in (
        (("--split", "dev"), "--subset must be one of fas, rus"),
        (("--split", "dev", "--subset", "zho"), "--subset must be one of fas, rus"),
        (("--split", "train", "--subset", "rus"), "--split must be one of test, dev"),
    ):
        result = Result(*options, *more)
        assert (result.code, model.seen) == (2, [])
        assert said in result.err
    assert Result(*options, "--subset", "rus", "--split", "dev").code == 0
    assert model.seen == [("query 3", "T1 text 1 翼")]


def test_pairs_that_fail_are_told_and_listed(
    collection: Path, tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "judgment", lambda index, query, passage: Judgment.failed(index, "no memory"))
    result = Result(*given(collection, tmp_path / "output"))
    assert result.code == 1
    assert f"120 pairs could not be judged: {tmp_path / 'output' / 'errors.jsonl'} says why" in result.err
    assert len((tmp_path / "output" / "errors.jsonl").read_text().splitlines()) == 120


@pytest.mark.parametrize(
    ("n_failed", "n_problems", "said"),
    [
        (1, 0, ["1 pair could not be judged"]),
        (0, 1, ["1 query or document could not be read"]),
        (2, 3, ["2 pairs could not be judged", "3 queries and documents could not be read"]),
        (0, 0, []),
    ],
)
def test_problems_are_counted(n_failed: int, n_problems: int, said: list[str]) -> None:
    assert list(_problems(Outcome(9, 9 - n_failed, n_failed, n_problems, None))) == said


def test_several_processes_are_refused(
    collection: Path, tmp_path: Path, model: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    result = Result(*given(collection, tmp_path / "output"))
    assert (result.code, "works in one process" in result.err) == (2, True)


def test_an_output_that_cannot_be_written(collection: Path, tmp_path: Path, model: Stub) -> None:
    (tmp_path / "file").write_text("")
    result = Result(*given(collection, tmp_path / "file" / "output"))
    assert result.code == 4
    assert "cannot write to" in result.err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--run": "no.trec"}, "cannot read no.trec"),
        ({"--qrels": "no.tsv"}, "cannot read no.tsv"),
        ({"--corpus": "."}, "neither a corpus.jsonl"),
        ({"--measure": "nDCG@ten"}, "no measure"),
        ({"--measure": "P"}, "needs a cutoff"),
        ({"--measure": "AP@0"}, "at least 1"),
        ({"--measure": "nDCG(rel=2)@10"}, "has no 'rel'"),
        ({"--measure": "RR(judged_only=True)@10"}, "RR(judged_only=True)@10 cannot be computed"),
        ({"--measure": "alpha_nDCG@10"}, "alpha_nDCG@10 cannot be computed"),
        ({"--measure": "Accuracy@1"}, "Accuracy@1 cannot be computed"),
        ({"--run-format": "xml"}, "--run-format"),
        ({"--tag": "two words"}, "a run's tag is one word without white space"),
        ({"--prompt-template": "@no.txt"}, "cannot read no.txt"),
        ({"--task": "NoSuchTask"}, "no dataset prompt for NoSuchTask"),
        ({"--prompts": "some.json"}, "--prompts needs --task"),
        ({"--task": "ArguAna", "--prompts": "no.json"}, "cannot read no.json"),
        ({"--task": "ArguAna", "--prompt-template": "FILL_QUERY_HERE"}, "not both"),
        ({"--prompt-template": "no place"}, "FILL_QUERY_HERE"),
        ({"--dtype": "float17"}, "dtype must be one of"),
        ({"--device": "toaster"}, "'toaster' is not a device"),
        ({"--quantization": "2bit"}, "quantization must be one of"),
        ({"--subset": "fas"}, "has no subsets"),
        ({"--split": "dev"}, "qrels of no split, in qrels.tsv, and so no split 'dev'"),
        ({"--task": "ArguAnna"}, "did you mean 'ArguAna'?"),
    ],
)
def test_what_cannot_be_read_is_said_before_a_model_is_loaded(
    collection: Path, tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"--corpus": collection, "--run": collection / "run.trec", "--output": "output"} | change
    result = Result(*(part for option in options.items() for part in option))
    assert result.code == 2
    assert said in result.err
    assert not hasattr(model, "name")
    assert not Path("output").exists()


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("corpus", "corpus.jsonl, line 1: must be a string or an object with a string"),
        ("queries", "queries.jsonl, line 1: must be a string or an object with a string"),
        ("qrels", 'qrels.tsv, line 1: no "relevance"'),
    ],
)
def test_a_column_that_is_missing_is_said_before_a_model_is_loaded(
    collection: Path, tmp_path: Path, model: Any, part: str, said: str
) -> None:
    if part == "qrels":
        lines = (collection / "qrels.tsv").read_text().replace("score", "stars")
        (collection / "qrels.tsv").write_text(lines)
    else:
        row = '{"_id": "x", "body_text": "y"}\n'
        (collection / f"{part}.jsonl").write_text(row * 3)
    result = Result(*given(collection, tmp_path / "output"))
    assert (result.code, said in result.err) == (2, True)
    assert ("did you mean 'body_text'?" in result.err) is (part != "qrels")
    assert not hasattr(model, "name")
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("form", ["BEIR", "a run in TREC", "a run in JSON", "TREC"])
def test_qrels_given_as_the_run_are_refused_before_any_work(
    collection: Path, tmp_path: Path, model: Any, form: str
) -> None:
    qrels = read_qrels(collection / "qrels.tsv")
    run = collection / "qrels.tsv" if form == "BEIR" else collection / "mine"
    if form == "a run in TREC":
        write_run(run, {query: dict(grades) for query, grades in qrels.items()})
    elif form == "a run in JSON":
        run.write_text(json.dumps(qrels))
    elif form == "TREC":
        run.write_text("".join(f"{q} 0 {d} {grade}\n" for q, grades in qrels.items() for d, grade in grades.items()))
    result = Result("--corpus", collection, "--run", run, "--output", tmp_path / "output")
    said = "it has 4 columns, as relevance judgments" if form == "TREC" else "is no run but relevance judgments"
    assert (result.code, str(run) in result.err, said in result.err) == (2, True, True)
    assert not hasattr(model, "name")
    assert not (tmp_path / "output").exists()


def test_a_model_that_is_not_there(collection: Path, tmp_path: Path) -> None:
    result = Result(*given(collection, tmp_path / "output", "--model", tmp_path / "nothing"))
    assert result.code == 3
    assert "there is no folder" in result.err


def test_a_real_model_is_told_from_another(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    first, other = checkpoint("qwen2"), checkpoint("qwen2", seed=1)
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in first.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert identity.checkpoint_identity(str(copy)) == identity.checkpoint_identity(str(first))
    assert identity.checkpoint_identity(str(other)) != identity.checkpoint_identity(str(first))


def test_a_large_file_is_told_from_another_by_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_BLOCK", 4)
    monkeypatch.setattr(identity, "_BLOCKS", 8)
    file = tmp_path / "model.safetensors"

    def sample(content: bytes) -> bytes:
        file.write_bytes(content)
        return identity._sample(file)

    content = bytes(range(200))
    assert sample(content) == sample(content)
    assert sample(content + b"x") != sample(content)
    assert sample(bytes(255 - byte for byte in content)) != sample(content)


def test_a_model_judges_the_same_after_an_interrupt(
    checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collection = write_collection(tmp_path / "collection", n_queries=2)
    options = ("-m", checkpoint("qwen2"), "--max-new-tokens", 6, "--reproducible", "--batch-size", 4, "--top-k", 6)
    options = (*options, "--trace")
    assert Result(*given(collection, tmp_path / "undisturbed", *options)).code == 0
    judge = reranker.Rank1._judge

    def interrupted(self: Any, *arguments: Any) -> Iterator[Judgment]:
        judgments = judge(self, *arguments)
        for _ in range(5):
            yield next(judgments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reranker.Rank1, "_judge", interrupted)
        result = Result(*given(collection, tmp_path / "output", *options))
    assert (result.code, "5 of 12" in result.err) == (130, True)
    assert Result(*given(collection, tmp_path / "output", *options)).code == 0
    assert results(tmp_path / "output") == results(tmp_path / "undisturbed")
    records = [json.loads(line) for line in (tmp_path / "output" / "judgments.jsonl").read_text().splitlines()]
    assert [record["belief"][-1]["log_odds"] for record in records] == [
        pytest.approx(record["log_odds"], abs=1e-6) for record in records
    ]


def test_a_traced_job_is_another_job_than_one_that_is_not(collection: Path, tmp_path: Path, model: Stub) -> None:
    assert Result(*given(collection, tmp_path / "plain")).code == 0
    result = Result(*given(collection, tmp_path / "plain", "--trace"))
    assert (result.code, 'trace was null, now "sentences"' in result.err) == (2, True)
    assert Result(*given(collection, tmp_path / "traced", "--trace", "--cache", tmp_path / "cache")).code == 0
    again = Result("--like", tmp_path / "traced", "--output", tmp_path / "again")
    assert (again.code, "--cache keeps no belief curves" in again.err) == (0, True)
    assert '"trace": "sentences"' in (tmp_path / "again" / "journal.jsonl").read_text()
    assert Result("--like", tmp_path / "traced", "--output", tmp_path / "again", "--no-trace").code == 2


@pytest.mark.parametrize("counting_from", [0, 1])
def test_shards_merged_are_what_one_command_writes(
    collection: Path, tmp_path: Path, model: Stub, counting_from: int
) -> None:
    options = ("--top-k", 6, "--measure", "AP", "--run-format", "json")
    assert Result(*given(collection, tmp_path / "whole", *options)).code == 0
    folders = [tmp_path / str(number) for number in range(counting_from, counting_from + 3)]
    for folder in folders:
        result = Result(*given(collection, folder, "--shard", f"{folder.name}/3", "-q", *options))
        assert (result.code, result.err) == (0, "")
        assert result.out.startswith(f"shard {folder.name if folder.name != '0' else 3}/3 is finished")
    assert Result(*given(collection, folders[0], *options)).code == 2, "a shard's folder is no whole job's"
    merged = merge(*folders, "-o", tmp_path / "merged")
    assert merged.code == 0
    assert merged.out.split()[7] == "AP"
    assert results(tmp_path / "merged") == results(tmp_path / "whole")
    last = "2/3" if counting_from == 0 else "3/3"
    missing = merge(*folders[:2], "-o", tmp_path / "other")
    assert missing.code == 2
    assert f"shard {last} is missing; run evaluate with --shard {last}, or give its folder too" in missing.err
    assert json.loads(merge(*folders, "-o", tmp_path / "merged", "--json").out)["n_scored"] == 36


def merge(*arguments: object) -> Any:
    result = CliRunner(env={"COLUMNS": "400"}).invoke(cli.app, ["merge", *map(str, arguments)])
    return SimpleNamespace(code=result.exit_code, out=result.stdout, err=result.stderr)


@pytest.mark.parametrize("shard", ["", "4/3", "three/4", "1"])
def test_what_is_no_shard_is_said_before_anything_is_read(tmp_path: Path, model: Stub, shard: str) -> None:
    result = Result(*given(tmp_path / "missing", tmp_path / "output", "--shard", shard))
    assert (result.code, "--shard" in result.err) == (2, True)
    assert not (tmp_path / "output").exists()


def test_judgments_come_from_the_cache_and_the_files_are_the_same(
    collection: Path, tmp_path: Path, checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "scores.db"
    options = (
        "-m",
        checkpoint("qwen2"),
        "--device",
        "cpu",
        "--max-new-tokens",
        6,
        "--reproducible",
        "--top-k",
        2,
        "-q",
    )
    assert Result(*given(collection, tmp_path / "fresh", *options)).code == 0
    assert Result(*given(collection, tmp_path / "kept", *options, "--cache", cache)).code == 0
    monkeypatch.setattr(Decoder, "_forward", lambda *_: pytest.fail("decoded"))
    assert Result(*given(collection, tmp_path / "found", *options, "--cache", cache)).code == 0
    assert results(tmp_path / "found") == results(tmp_path / "kept") == results(tmp_path / "fresh")
    for name, hit in (("kept", False), ("found", True)):
        lines = (tmp_path / name / "journal.jsonl").read_text().splitlines()[1:]
        assert [json.loads(line)["cached"] for line in lines] == [hit] * 12


def test_a_file_that_is_no_cache_is_said_before_anything_is_read(tmp_path: Path, model: Any) -> None:
    (tmp_path / "scores.db").write_text("my notes")
    result = Result(*given(tmp_path / "missing", tmp_path / "output", "--cache", tmp_path / "scores.db"))
    assert (result.code, "no score cache" in result.err) == (2, True)
    assert (tmp_path / "scores.db").read_text() == "my notes"
    assert not hasattr(model, "name")
