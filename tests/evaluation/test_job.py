"""A job, from its inputs to its files, through everything that may end it on the way."""

import gc
import json
import multiprocessing
import os
import random
import resource
import signal
import time
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rank1_hf.chains.beliefs import CurvePoint
from rank1_hf.evaluation.candidates import Inputs
from rank1_hf.evaluation.job import run_job
from rank1_hf.evaluation.journal import JournalError, lock
from rank1_hf.evaluation.outputs import write_json
from rank1_hf.files.inputs import InputError
from rank1_hf.files.sources import BeirFolder
from rank1_hf.files.trec import Qrels, Run, read_qrels, read_run
from rank1_hf.results.belief_curve import mean_entropy
from rank1_hf.results.judgment import Judgment
from rank1_hf.tracing import TraceOptions
from rank1_hf.viewing.saved import read_judgments
from tests.evaluation.stub import (
    SETTINGS,
    Stub,
    Traced,
    inputs,
    killed_when,
    log_odds_of,
    results,
    run,
    run_slowly,
    write_collection,
)
from tests.evaluation.tiny import run_tiny

N_PAIRS = 6 * 15

FORKS = multiprocessing.get_context("forkserver")
"""Processes that can be killed, forked from one that has imported everything."""
FORKS.set_forkserver_preload(["tests.evaluation.tiny"])


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("collection"))


@pytest.fixture(scope="module")
def undisturbed(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("undisturbed")
    assert run(collection, output).stopped is None
    return results(output)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def n_lines(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


# ---- what is written -------------------------------------------------------------------------------------------------


def test_the_run_has_the_judged_ones_first_by_their_log_odds_and_the_others_below_in_their_order(
    collection: Path, tmp_path: Path
) -> None:
    outcome = run(collection, tmp_path)
    assert (outcome.n_pairs, outcome.n_scored, outcome.n_failed, outcome.stopped) == (N_PAIRS, N_PAIRS, 0, None)
    before, after = read_run(collection / "run.trec"), read_run(tmp_path / "run.trec")
    assert list(after) == list(before)
    for query, scores in before.items():
        given = list(scores)
        odds = [log_odds_of(f"query {query[1:]}", f"T{d[1:]} text {d[1:]} 翼") for d in given[:15]]
        best_first = sorted(range(15), key=lambda place: (-odds[place], place))
        assert list(after[query]) == [given[place] for place in best_first] + given[15:]
        for place in best_first:  # the scores are the log-odds, up to what parts those that tie
            assert after[query][given[place]] == pytest.approx(odds[place], abs=1e-4)


def test_every_judgment_is_written_with_its_chain_and_its_rank(collection: Path, tmp_path: Path) -> None:
    run(collection, tmp_path)
    judgments = lines(tmp_path / "judgments.jsonl")
    after = read_run(tmp_path / "run.trec")
    assert len(judgments) == N_PAIRS
    for judgment in judgments:
        assert list(after[judgment["query"]])[judgment["rank"] - 1] == judgment["document"]
        passage = f"T{judgment['document'][1:]} text {judgment['document'][1:]} 翼"
        assert judgment["chain"] == f"\nIt says: {passage}\n"
        assert judgment["log_odds"] == log_odds_of(f"query {judgment['query'][1:]}", passage)
        assert judgment["error"] is None
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_table(tmp_path / "judgments.parquet").to_pylist() == judgments


def test_a_traced_job_keeps_the_belief_curve_in_the_place_of_the_trace(collection: Path, tmp_path: Path) -> None:
    stub = Traced()
    run_job(inputs(collection), tmp_path / "whole", SETTINGS, lambda: stub, trace=True, show_progress=False)
    assert stub.asked == TraceOptions(belief="sentences")
    for interrupted in (Traced(before_each=partial(_interrupt, at)) for at in (20, 40)):
        load = partial(lambda stub: stub, interrupted)
        run_job(inputs(collection), tmp_path / "output", SETTINGS, load, trace=True, show_progress=False)
    run_job(inputs(collection), tmp_path / "output", SETTINGS, Traced, trace=True, show_progress=False)
    assert results(tmp_path / "output") == results(tmp_path / "whole")
    assert not any("trace" in record for record in lines(tmp_path / "output" / "journal.jsonl")[1:])
    records = lines(tmp_path / "output" / "judgments.jsonl")
    for record in records:
        curve = [CurvePoint.from_dict(point) for point in record["belief"]]
        assert (record["entropy"], bool(curve)) == (mean_entropy(curve), record["error"] is None)
    assert pq.read_table(tmp_path / "output" / "judgments.parquet").to_pylist() == records
    for name in ("judgments.jsonl", "judgments.parquet", "journal.jsonl"):
        found = read_judgments(tmp_path / "output" / name, {})
        assert {each.chain: each.belief for each in found if each.belief} == {
            record["chain"]: tuple(map(CurvePoint.from_dict, record["belief"]))
            for record in records
            if record["belief"]
        }


def _interrupt(at: int, n_seen: int) -> None:
    if n_seen == at:
        raise KeyboardInterrupt


def test_the_metrics_are_those_of_trec_eval_over_the_written_run(collection: Path, tmp_path: Path) -> None:
    import pytrec_eval

    outcome = run(collection, tmp_path)
    names = {"nDCG@10": "ndcg_cut_10", "AP": "map", "R@10": "recall_10", "R@100": "recall_100"}
    evaluator = pytrec_eval.RelevanceEvaluator(
        read_qrels(collection / "qrels.tsv"), {"ndcg_cut.10", "map", "recall.10,100"}
    )
    per_query = [line.split("\t") for line in (tmp_path / "per_query.tsv").read_text().splitlines()[1:]]
    for file, column in ((collection / "run.trec", 2), (tmp_path / "run.trec", 3)):
        expected = evaluator.evaluate(read_run(file))
        for measure, name in names.items():
            found = {row[1]: float(row[column]) for row in per_query if row[0] == measure}
            assert found == {query: values[name] for query, values in expected.items()}
    written = {row["measure"]: row for row in json.loads((tmp_path / "metrics.json").read_text())}
    assert [row.measure for row in outcome.metrics] == list(written)
    mean = sum(values["ndcg_cut_10"] for values in expected.values()) / len(expected)
    assert written["nDCG@10"]["after"] == pytest.approx(mean, abs=1e-12)


ORDER_MEASURES = ("P@1", "RR", "RR@10", "AP", "nDCG@3", "R@2", "Judged@1", "Compat")


@pytest.mark.parametrize("score", ["1", "0.25", "-3"])
def test_a_job_that_changes_nothing_shows_no_difference_however_the_run_s_scores_tie(
    tmp_path: Path, score: str
) -> None:
    """Ids do not rise or fall along the run, so a measure that broke ties by them would see another ranking."""

    class Undecided(Stub):
        def judgment(self, index: int, query: str, passage: str) -> Judgment:
            return Judgment(index, 0.5, 0.0, False, "", 30, 5, "closed", False)

    folder = write_collection(tmp_path / "collection")
    rows = [line.split() for line in (folder / "run.trec").read_text().splitlines()]
    (folder / "run.trec").write_text("".join(f"{q} Q0 {d} {rank} {score} bm25\n" for q, _, d, rank, *_ in rows))
    found = inputs(folder)
    outcome = run_job(found, tmp_path / "output", {}, Undecided, measures=ORDER_MEASURES, show_progress=False)
    assert [(row.measure, row.p_value) for row in outcome.metrics] == [(name, None) for name in ORDER_MEASURES]
    assert all(row.before == row.after for row in outcome.metrics)
    assert found.qrels is not None
    first = {query: next(iter(scores)) for query, scores in found.run.items()}
    n_right = sum(found.qrels[query][document] > 0 for query, document in first.items())
    assert outcome.metrics[0].before == pytest.approx(n_right / len(first))


def test_the_run_is_written_as_json_on_request(collection: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    run_job(inputs(collection), tmp_path, SETTINGS, Stub, run_json=True, show_progress=False)
    written = json.loads((tmp_path / "run.json").read_text())
    expected = read_run(tmp_path / "run.trec")
    assert written == expected
    assert [list(scores) for scores in written.values()] == [list(scores) for scores in expected.values()]
    assert {name: content for name, content in results(tmp_path).items() if name != "run.json"} == undisturbed
    assert run(collection, tmp_path, top_k=18).stopped is None  # without asking again
    assert json.loads((tmp_path / "run.json").read_text()) == read_run(tmp_path / "run.trec") != written


def test_ids_in_json_are_the_ids_as_they_are(tmp_path: Path) -> None:
    ids = ["7-og", 'a "quoted" one', "doc with spaces", "文書", "back\\slash", "\ud800"]
    given = {query: {document: float(n) for n, document in enumerate(ids)} for query in ids}
    write_json(tmp_path / "run.json", given)
    assert json.loads((tmp_path / "run.json").read_bytes()) == given


def test_a_measure_that_fails_at_the_end_costs_a_sentence_and_no_other(tmp_path: Path) -> None:
    """Accuracy@2 divides by zero where both are relevant: at first they are not."""
    folder = write_collection(tmp_path / "collection")
    found = inputs(folder)
    assert found.qrels is not None
    for query, scores in found.run.items():
        ranked = list(scores)
        by_odds = sorted(ranked[:15], key=lambda d: -log_odds_of(f"query {query[1:]}", f"T{d[1:]} text {d[1:]} 翼"))
        found.qrels[query] = {document: int(document in (*by_odds[:2], ranked[1])) for document in ranked}
        found.qrels[query][ranked[0]] = int(query == "nobody")
    measures = ["P@1", "Accuracy@2", "AP"]
    outcome = run_job(found, tmp_path / "output", {}, Stub, measures=measures, show_progress=False)
    assert outcome.stopped is None
    assert [row.measure for row in outcome.metrics] == ["P@1", "AP"]
    assert len(outcome.unmeasured) == 1
    assert outcome.unmeasured[0].startswith("Accuracy@2 cannot be computed: ZeroDivisionError")
    written = json.loads((tmp_path / "output" / "metrics.json").read_text())
    assert [row["measure"] for row in written] == ["P@1", "AP"]


@pytest.mark.parametrize(("name", "grade"), [("ERR@10", 5), ("P(rel=0)@5", 1), ("nDCG(gains={1:0.5})@10", 1)])
def test_a_measure_that_these_judgments_do_not_allow_is_refused_before_anything_is_read(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, grade: int
) -> None:
    found = inputs(collection)
    assert found.qrels is not None
    found.qrels["q0"]["d0"] = grade
    monkeypatch.setattr(BeirFolder, "documents", lambda *_: pytest.fail("read"))
    with pytest.raises(InputError, match="cannot be computed"):
        run_job(found, tmp_path / "output", {}, lambda: pytest.fail("loaded"), measures=["AP", name])
    assert not (tmp_path / "output").exists()


def test_without_qrels_nothing_is_measured(collection: Path, tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "collection")
    (folder / "qrels.tsv").unlink()
    assert not run(folder, tmp_path / "output").metrics
    assert not (tmp_path / "output" / "metrics.json").exists()


# ---- what ends a job -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_was_judged_and_the_same_call_goes_on(
    collection: Path, tmp_path: Path, undisturbed: dict[str, bytes], number: signal.Signals
) -> None:
    handlers = signal.getsignal(signal.SIGTERM)

    def interrupt(n_judged: int) -> None:
        if n_judged == 50:
            os.kill(os.getpid(), number)

    outcome = run(collection, tmp_path, Stub(before_each=interrupt))
    assert outcome.stopped is number
    assert 0 < outcome.n_scored <= 50
    assert signal.getsignal(signal.SIGTERM) is handlers
    assert results(tmp_path) == {}
    rest = Stub()
    assert run(collection, tmp_path, rest).stopped is None
    assert len(rest.seen) == N_PAIRS - outcome.n_scored
    assert results(tmp_path) == undisturbed


def test_a_finished_job_is_not_judged_again(collection: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    run(collection, tmp_path)
    again = Stub()
    assert run(collection, tmp_path, again).n_scored == N_PAIRS
    assert again.seen == []
    assert results(tmp_path) == undisturbed


def test_a_full_disk_keeps_what_was_judged(collection: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(n_judged: int) -> None:
        if n_judged == 40:
            size = (tmp_path / "journal.jsonl").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, limits[1]))

    try:
        outcome = run(collection, tmp_path, Stub(before_each=fill))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert isinstance(outcome.stopped, OSError)
    assert outcome.n_scored == 40
    assert run(collection, tmp_path).stopped is None
    assert results(tmp_path) == undisturbed


def test_twenty_kills_lose_nothing_repeat_nothing_and_change_nothing(tmp_path: Path) -> None:
    """Each process is killed once its journal has grown by a random number of lines; one that was writing the files,
    too."""
    collection = write_collection(tmp_path / "collection", n_queries=100, n_documents=200, depth=20)
    output, journal = tmp_path / "killed", tmp_path / "killed" / "journal.jsonl"
    start = partial(FORKS.Process, target=run_slowly, args=(collection, output))
    rng = random.Random(5)
    n_kills = 0

    for _ in range(20):
        target = n_lines(journal) + rng.randrange(60)
        n_kills += killed_when(start(), lambda target=target: n_lines(journal) >= target)
    n_kills += killed_when(start(), (output / "run.trec.new").exists)
    assert n_kills >= 20
    last = start()
    last.start()
    last.join()
    assert last.exitcode == 0
    judged = [json.loads(line)["index"] for line in journal.read_bytes().splitlines()[1:]]
    assert sorted(judged) == [20 * query + place for query in range(100) for place in range(15)]
    run(collection, tmp_path / "undisturbed")
    assert results(output) == results(tmp_path / "undisturbed")


def test_kills_of_a_real_model_change_no_byte(tmp_path: Path) -> None:
    """rank1-tiny, in the reproducible mode; six kills, and twenty with RANK1_SLOW=1."""
    n_queries, n_planned = (10, 20) if "RANK1_SLOW" in os.environ else (4, 6)
    collection = write_collection(tmp_path / "collection", n_queries=n_queries)
    output, journal = tmp_path / "killed", tmp_path / "killed" / "journal.jsonl"
    rng = random.Random(7)
    n_kills = 0
    while n_kills < n_planned:
        target = n_lines(journal) + rng.randrange(5)
        process = FORKS.Process(target=run_tiny, args=(collection, output))
        process.start()
        while process.is_alive() and n_lines(journal) < target:
            time.sleep(0.001)
        n_kills += process.is_alive()
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert run_tiny(collection, output).stopped is None
    judged = [json.loads(line)["index"] for line in journal.read_bytes().splitlines()[1:]]
    assert sorted(judged) == [20 * query + place for query in range(n_queries) for place in range(15)]
    assert run_tiny(collection, tmp_path / "undisturbed").stopped is None
    assert results(output) == results(tmp_path / "undisturbed")


# ---- what goes on, and what does not ---------------------------------------------------------------------------------


def test_a_job_goes_on_with_more_candidates(collection: Path, tmp_path: Path) -> None:
    run(collection, tmp_path, top_k=5)
    more = Stub()
    assert run(collection, tmp_path, more, top_k=12).n_scored == 6 * 12
    assert len(more.seen) == 6 * 7
    run(collection, tmp_path / "at once", top_k=12)
    assert read_run(tmp_path / "run.trec") == read_run(tmp_path / "at once" / "run.trec")


@pytest.mark.parametrize("part", ["run.trec", "queries.jsonl", "corpus.jsonl"])
def test_another_input_is_refused(tmp_path: Path, part: str) -> None:
    folder = write_collection(tmp_path / "collection")
    run(folder, tmp_path / "output")
    file = folder / part
    file.write_text(file.read_text().replace("d3", "d4x").replace("query 3", "query three").replace("text 3", "other"))
    with pytest.raises(JournalError, match=part.split(".")[0].replace("corpus", "documents")):
        run(folder, tmp_path / "output")


def test_other_settings_are_refused(collection: Path, tmp_path: Path) -> None:
    run(collection, tmp_path)
    with pytest.raises(JournalError, match="max_new_tokens was 256, now 512"):
        run(collection, tmp_path, max_new_tokens=512)


def test_other_settings_are_refused_before_the_corpus_is_read(
    collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(collection, tmp_path)
    monkeypatch.setattr(BeirFolder, "documents", lambda *_: pytest.fail("read"))
    with pytest.raises(JournalError, match="max_new_tokens was 256, now 512"):
        run(collection, tmp_path, max_new_tokens=512)


def test_a_folder_in_use_is_refused(collection: Path, tmp_path: Path) -> None:
    with lock(tmp_path), pytest.raises(JournalError, match="in use by another process"):
        run(collection, tmp_path)


# ---- what is wrong with the inputs -----------------------------------------------------------------------------------


def test_what_cannot_be_read_is_listed_and_the_rest_is_finished(tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "collection")
    corpus = (folder / "corpus.jsonl").read_bytes().splitlines()
    corpus[3] = b'{"_id": "d3", "text": '
    corpus[10] = corpus[10].replace(b"text 10", b"caf\xe9")
    (folder / "corpus.jsonl").write_bytes(b"\n".join(corpus))
    queries = (folder / "queries.jsonl").read_text().splitlines()
    (folder / "queries.jsonl").write_text("\n".join([*queries[:5], "nonsense"]))
    outcome = run(folder, tmp_path / "output")
    judged = {(row["query"], row["document"]): row for row in lines(tmp_path / "output" / "judgments.jsonl")}
    errors = lines(tmp_path / "output" / "errors.jsonl")
    lost = {pair for pair in judged if pair[0] == "q5" or pair[1] in ("d3", "d10")}
    assert len(judged) == N_PAIRS
    assert {pair for pair, row in judged.items() if row["error"] is not None} == lost
    assert (outcome.n_problems, outcome.n_failed, outcome.n_scored) == (4, len(lost), N_PAIRS - len(lost))
    listed = {pair for pair in lost if pair[0] != "q5"}  # whose query is listed once
    assert [(row["query"], row["document"]) for row in errors[4:]] == [pair for pair in judged if pair in listed]
    assert errors[1]["query"] == "q5"
    assert [row["error"].split(":")[0].split("/")[-1] for row in errors[:4]] == [
        "queries.jsonl, line 6",
        "the collection has no query q5 that can be read",
        "corpus.jsonl, line 4",
        "corpus.jsonl, line 11",
    ]
    after = read_run(tmp_path / "output" / "run.trec")
    assert set(list(after["q5"])[:15]) == {document for query, document in lost if query == "q5"}
    for query, scores in after.items():  # those without a score come behind those with one, and before the others
        failed = [(query, document) in lost for document in list(scores)[:15]]
        assert failed == sorted(failed)


def test_what_is_not_judged_or_not_measured_is_said_before_the_first_pair(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_collection(tmp_path / "collection")
    for name, first in (("queries.jsonl", '{"_id": "q5"'), ("qrels.tsv", "q0\t")):
        kept = [line for line in (folder / name).read_text().splitlines() if not line.startswith(first)]
        (folder / name).write_text("\n".join(kept))
    said: list[int] = []
    with caplog.at_level("INFO", "rank1_hf"):
        run(folder, tmp_path / "output", Stub(before_each=lambda n: said.append(len(caplog.messages))))
    assert set(said) == {3}
    assert caplog.messages[:3] == [
        "queries of the run that the collection lacks: 1; their pairs cannot be judged",
        "1 query of the run has no relevance judgments (qrels)",
        "pairs of queries without relevance judgments: 15; --only-judged-queries leaves them out",
    ]


def test_a_pair_that_failed_is_tried_again(collection: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    class Failing(Stub):
        def judgment(self, index: int, query: str, passage: str) -> Judgment:
            return (
                Judgment.failed(index, "no memory") if "text 7" in passage else super().judgment(index, query, passage)
            )

    first = run(collection, tmp_path, Failing())
    assert first.n_failed > 0
    assert first.n_scored == N_PAIRS - first.n_failed
    again = Stub()
    assert run(collection, tmp_path, again).n_failed == 0
    assert len(again.seen) == first.n_failed
    assert results(tmp_path) == undisturbed  # without an errors.jsonl, too


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("queries.jsonl", "none of the run's queries is in the collection; the first is 'q0'"),
        ("corpus.jsonl", "none of the run's documents is in the collection; the first is 'd0'"),
        ("qrels.tsv", "the qrels judge none of the run's queries; their first is 'xq0', the run's is 'q0'"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, part: str, said: str) -> None:
    folder = write_collection(tmp_path / "collection")
    text = (folder / part).read_text()
    (folder / part).write_text(text.replace('"_id": "', '"_id": "x').replace("\nq", "\nxq"))
    with pytest.raises(InputError, match=said):
        run(folder, tmp_path / "output", Stub(before_each=lambda n: pytest.fail("judged")))


@pytest.mark.parametrize(
    ("query", "run", "qrels"),
    [
        ("7", {"7.0": {"2": 1.0}}, None),
        ("7.0", {"7": {"2": 1.0}}, None),
        ("7", {"7": {"2": 1.0}}, {"7.0": {"2": 1}}),
        ("7.0", {"7.0": {"2": 1.0}}, {"7": {"2": 1}}),
        ("7", {"7": {"2.0": 1.0}}, {"7": {"2": 1}}),
        ("7", {"7": {"2": 1.0}}, {"7": {"2.0": 1}}),
    ],
)
def test_ids_that_pandas_made_floats_in_one_of_the_files_are_told(
    collection: Path, query: str, run: Run, qrels: Qrels | None
) -> None:
    with pytest.raises(InputError, match=r"has the id [27]\.0, .* has [27]: pandas made it a float"):
        Inputs(BeirFolder(collection, "test"), {query: "what?"}, run, qrels, 10).check()


def test_a_whole_id_and_a_float_in_both_files_are_two(collection: Path) -> None:
    run = {"7": {"2": 2.0, "2.0": 1.0}, "7.0": {"2": 1.0}}
    qrels = {"7": {"2": 1, "2.0": 0}, "7.0": {"2": 1}}
    Inputs(BeirFolder(collection, "test"), {"7": "a", "7.0": "b"}, run, qrels, 10).check()


def test_a_corpus_that_is_gone_ends_the_job_before_it_begins(tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "collection")
    found = inputs(folder)
    (folder / "corpus.jsonl").unlink()
    with pytest.raises(InputError, match=r"corpus\.jsonl"):
        run_job(found, tmp_path / "output", {}, lambda: pytest.fail("no model is needed"))


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_what_was_judged(tmp_path: Path) -> None:
    """3,000 chains of 4 KiB; kept, they would be 12 MiB."""
    collection = write_collection(tmp_path / "collection", n_queries=200, n_documents=300, depth=15)
    used: dict[int, int] = {}

    class Wordy(Stub):
        def judgment(self, index: int, query: str, passage: str) -> Judgment:
            self.seen.clear()
            if index in (300, 2990):
                gc.collect()  # what is garbage and not collected yet is not kept
                used[index] = tracemalloc.get_traced_memory()[0]
            chain = f"{passage} " * (4096 // (len(passage) + 1))
            return Judgment(index, 0.5, 0.0, False, chain, 30, 1000, "closed", False)

    tracemalloc.start()
    try:
        assert run(collection, tmp_path / "output", Wordy()).n_scored == 3000
    finally:
        tracemalloc.stop()
    assert used[2990] - used[300] < 2**18
