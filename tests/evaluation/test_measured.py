"""Finished runs, measured: against pytrec_eval, whose convention about queries is trec_eval's."""

from contextlib import nullcontext
from statistics import fmean

import pytest
import pytrec_eval

from rank1_hf.evaluation.compare import compare
from rank1_hf.evaluation.measured import measure_runs
from rank1_hf.evaluation.metrics import coverage, ndcg, of_run
from rank1_hf.files.beir import SAMPLE
from rank1_hf.files.inputs import InputError
from rank1_hf.files.trec import Qrels, Run, read_qrels, read_run

TREC_EVAL = {"nDCG@10": "ndcg_cut_10", "AP": "map", "R@10": "recall_10", "P@5": "P_5"}


@pytest.fixture(scope="module")
def qrels() -> Qrels:
    return read_qrels(SAMPLE / "qrels.tsv")


@pytest.fixture(scope="module")
def whole() -> Run:
    """Without ties, which pytrec_eval breaks in its own way."""
    run = read_run(SAMPLE / "bm25.trec")
    return {query: {document: -float(place) for place, document in enumerate(scores)} for query, scores in run.items()}


@pytest.fixture(scope="module")
def part(whole: Run) -> Run:
    """Two thirds of the queries, one of them without a document, and one that nobody has judged."""
    kept = dict(list(whole.items())[::3] + list(whole.items())[1::3])
    return {**kept, next(iter(kept)): {}, "unjudged": {"d": 1.0}}


def by_trec_eval(qrels: Qrels, run: Run) -> dict[str, dict[str, float]]:
    """Measure -> query -> value, for the queries that trec_eval has in its output."""
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, set(TREC_EVAL.values()))
    found = evaluator.evaluate({query: scores for query, scores in run.items() if scores})
    return {name: {query: values[theirs] for query, values in found.items()} for name, theirs in TREC_EVAL.items()}


def test_runs_are_measured_as_trec_eval_does_with_c_and_without(qrels: Qrels, whole: Run, part: Run) -> None:
    runs = [("whole", whole), ("part", part)]
    complete = measure_runs(runs, qrels, list(TREC_EVAL))
    only = measure_runs(runs, qrels, list(TREC_EVAL), only_run_queries=True)
    for place, (_, run) in enumerate(runs):
        for name, values in by_trec_eval(qrels, run).items():
            assert only.runs[place].values[name] == pytest.approx(values)
            assert only.runs[place].of_all_queries()[name] == pytest.approx(fmean(values.values()))
            assert complete.runs[place].of_all_queries()[name] == pytest.approx(sum(values.values()) / len(qrels))
    assert complete.runs[0] == only.runs[0]
    assert 0 < len(only.runs[1].values["AP"]) < len(complete.runs[1].values["AP"]) == len(qrels)


def test_what_is_counted_of_the_judgments_does_not_depend_on_the_run(qrels: Qrels, part: Run) -> None:
    """As in trec_eval, whose num_q and num_rel with -c are of all judged queries."""
    n_relevant = {query: sum(grade > 0 for grade in grades.values()) for query, grades in qrels.items()}
    counts = ["NumQ", "NumRel"]
    assert measure_runs([("part", part)], qrels, counts).runs[0].values == {
        "NumQ": dict.fromkeys(qrels, 1.0),
        "NumRel": n_relevant,
    }
    judged = of_run(qrels, part)
    found = measure_runs([("part", part)], qrels, counts, only_run_queries=True).runs[0].of_all_queries()
    assert found == {"NumQ": len(judged), "NumRel": sum(n_relevant[query] for query in judged)}


@pytest.mark.parametrize(
    "name", ["ERR@10", "nDCG(dcg='exp-log2')@10", "Judged@10", "Compat", "Bpref", "NumRet", "SetF"]
)
def test_whichever_library_computes_it_a_query_that_the_run_lacks_counts_as_0(
    qrels: Qrels, part: Run, name: str
) -> None:
    values = measure_runs([("part", part)], qrels, [name]).runs[0].values[name]
    assert values.keys() == qrels.keys()
    assert {values[query] for query in qrels.keys() - of_run(qrels, part).keys()} == {0.0}


def test_queries_that_only_one_has_are_told(qrels: Qrels, whole: Run, part: Run) -> None:
    n = len(qrels) - sum(bool(part.get(query)) for query in qrels)
    assert list(coverage(qrels, whole)) == []
    unjudged = "1 query of the run has no relevance judgments (qrels)"
    assert list(coverage(qrels, part)) == [f"{n} judged queries are not in the run and count as 0", unjudged]
    assert list(coverage(qrels, part, only_run_queries=True)) == [
        f"{n} judged queries are not in the run and are left out",
        unjudged,
    ]
    two = {"q1": {"d": 1}, "q2": {"d": 1}}
    assert list(coverage(two, {"q1": {"d": 1.0}, "x": {}, "y": {}}, "mine")) == [
        "1 judged query is not in mine and counts as 0",
        "2 queries of mine have no relevance judgments (qrels)",
    ]
    several = measure_runs([("a", whole), ("b", part)], qrels, ["AP"])
    assert several.notes == [
        f"{n} judged queries are not in b and count as 0",
        "1 query of b has no relevance judgments (qrels)",
    ]


def test_comparing_has_the_same_two_conventions(qrels: Qrels, whole: Run, part: Run) -> None:
    judged = of_run(qrels, part)
    (row,) = compare(whole, part, qrels=qrels, measures=["nDCG@10"]).measures
    assert (row.n, row.b) == (len(qrels), pytest.approx(ndcg(qrels, part)))
    report = compare(whole, part, qrels=qrels, measures=["nDCG@10"], only_run_queries=True)
    (row,) = report.measures
    assert (row.n, row.a, row.b) == (len(judged), pytest.approx(ndcg(judged, whole)), pytest.approx(ndcg(judged, part)))
    assert "are not in B and are left out" in report.notes[0]
    with pytest.raises(InputError, match="needs qrels"):
        compare(whole, part, only_run_queries=True)


def test_the_table_has_a_line_for_each_run_and_one_for_each_query_of_each(qrels: Qrels, whole: Run, part: Run) -> None:
    found = measure_runs([("whole", whole), ("part", part)], qrels, ["AP", "NumRet"])
    (table,) = found.tables()
    assert (table.columns, len(table.rows)) == (("run", "AP", "NumRet", "queries"), 2)
    values = found.runs[1].values
    assert table.rows[1] == (
        "part",
        f"{fmean(values['AP'].values()):.4f}",
        f"{sum(map(len, part.values())) - 1:.4f}",  # of judged queries; what counts is summed
        str(len(qrels)),
    )
    _, queries = found.tables(per_query=True)
    assert queries.columns == ("query", "run", "AP", "NumRet")
    assert [row[:2] for row in queries.rows[:4]] == [
        (query, name) for query in list(qrels)[:2] for name in ("whole", "part")
    ]
    assert len(queries.rows) == 2 * len(qrels)


def test_json_has_every_figure(qrels: Qrels, part: Run) -> None:
    found = measure_runs([("part", part)], qrels, ["AP"])
    (run,) = found.to_dict()["runs"]
    assert run == {
        "run": "part",
        "measures": [{"measure": "AP", "value": found.runs[0].of_all_queries()["AP"], "n": len(qrels)}],
    }
    (run,) = found.to_dict(per_query=True)["runs"]
    assert run["queries"] == found.runs[0].values


@pytest.mark.parametrize(
    ("run", "said"),
    [
        ({"x": {"d": 1.0}}, r"the qrels judge none of mine's queries; their first is .*, mine's is 'x'"),
        ({"1.0": {"d": 1.0}}, "mine has the id 1.0, the qrels has 1: pandas made it a float"),
    ],
)
def test_judgments_of_other_queries_are_refused(run: Run, said: str) -> None:
    with pytest.raises(InputError, match=said):
        measure_runs([("mine", run)], {"1": {"d": 1}})


@pytest.mark.parametrize(
    ("run", "is_refused"),
    [
        ({"q1": {"d1": 2.0, "d2": 0.0}, "q2": {"d1": 1.0}}, True),
        ({"q2": {"d1": 1.0}}, True),  # a part of the qrels
        ({"q1": {"d1": 1.0, "d2": 0.0}, "q2": {"d1": 1.0}}, False),  # an oracle's: the order alone agrees
        ({"q1": {"d1": 2.0, "d2": 0.0, "d3": 0.0}}, False),  # a candidate that nobody has judged
        ({"q2": {"d1": 1.0}, "q3": {"d1": 1.0}}, False),  # a query that nobody has judged
        ({"q1": {}, "q2": {"d1": 0.5}}, False),
    ],
)
def test_qrels_in_the_place_of_a_run_are_refused(run: Run, is_refused: bool) -> None:
    qrels = {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": 1}}
    other = {query: {"d1": 0.5} for query in run}
    said = "{} is no run but relevance judgments: each score is the grade that the qrels have"
    for name, measured in (
        ("mine", lambda: measure_runs([("mine", run)], qrels, ["RR"])),
        (r"B \(given in Python\)", lambda: compare(other, run, qrels=qrels, measures=["RR"])),
    ):
        with pytest.raises(InputError, match=said.format(name)) if is_refused else nullcontext():
            measured()
