"""Two results compared, against SciPy and ir_measures called directly, and counts made by hand."""

import json
import math
import os
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import ir_measures
import pytest
from scipy import stats

from rank1_hf.commands.compare import compare as command
from rank1_hf.evaluation.agreement import Difference
from rank1_hf.evaluation.compare import compare, paired_measures
from rank1_hf.evaluation.comparison import NO_T_TEST
from rank1_hf.evaluation.significance import SEED, holm
from rank1_hf.files.inputs import InputError
from rank1_hf.files.sources import open_source
from rank1_hf.files.trec import read_qrels, read_run, write_run
from rank1_hf.results.judgment import Judgment
from rank1_hf.viewing.judgments import Judgments
from tests.evaluation.stub import Stub, log_odds_of, run, write_collection
from tests.viewing.made import HOSTILE, judgment, traced
from tests.viewing.test_report import Page


class Other(Stub):
    """Another model: its verdicts are others, and a third of its chains go another way."""

    def judgment(self, index: int, query: str, passage: str) -> Judgment:
        found = judgment(index, log_odds_of(query, passage[::-1]), f"\nIt says: {passage}\n")
        return found if index % 3 else replace(found, chain=f"\nIt says: {passage[:4]} or so.")


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("collection"), n_queries=12)


@pytest.fixture(scope="module")
def folders(collection: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("outputs")
    run(collection, folder / "a", Stub())
    run(collection, folder / "b", Other())
    return folder / "a", folder / "b"


def write(path: Path, judged: dict[tuple[str, str], Judgment]) -> Path:
    records = [
        {"query": query, "document": document, "rank": 1, **each.to_dict()}
        for (query, document), each in judged.items()
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


# ---- measures --------------------------------------------------------------------------------------------------------


def test_runs_are_measured_as_ir_measures_does_and_tested_as_scipy_does(
    folders: tuple[Path, Path], collection: Path
) -> None:
    names = ["nDCG@10", "AP", "P@5", "RR@10"]
    files = [folder / "run.trec" for folder in folders]
    report = compare(*files, qrels=collection / "qrels.tsv", measures=names)
    assert [row.measure for row in report.measures] == names
    qrels, p_values = read_qrels(collection / "qrels.tsv"), []
    for row in report.measures:
        parsed = ir_measures.parse_measure(row.measure)
        a, b = (
            {one.query_id: one.value for one in ir_measures.iter_calc([parsed], qrels, read_run(file))}
            for file in files
        )
        assert report.values[row.measure] == {query: pytest.approx((a[query], b[query]), abs=1e-12) for query in qrels}
        first, second = [a[query] for query in qrels], [b[query] for query in qrels]
        assert (row.a, row.b, row.n) == (pytest.approx(sum(first) / 12), pytest.approx(sum(second) / 12), 12)
        assert row.wins == sum(y - x > 1e-9 for x, y in zip(first, second, strict=True))
        assert row.losses == sum(x - y > 1e-9 for x, y in zip(first, second, strict=True))
        assert row.wins + row.ties + row.losses == 12
        p_values.append(stats.ttest_rel(second, first).pvalue)
        assert row.t_test == pytest.approx(p_values[-1], rel=1e-9)
        exact = stats.permutation_test(
            (second, first),
            lambda x, y, axis: x.mean(axis) - y.mean(axis),
            permutation_type="samples",
            n_resamples=math.inf,
            vectorized=True,
        )
        assert row.permutation_test == pytest.approx(exact.pvalue, abs=1e-12)  # 4096 sign patterns: all are tried
    assert [row.t_test_holm for row in report.measures] == pytest.approx(holm(p_values))
    assert [row.permutation_test_holm for row in report.measures] == holm(
        [row.permutation_test for row in report.measures]
    )


def test_the_tests_are_named_apart_and_a_table_says_their_seed_and_why_one_is_blank(folders: tuple[Path, Path]) -> None:
    run = {"q": {"d1": 9.0, "d2": 8.0}, "r": {"d1": 9.0, "d2": 8.0}}
    equal, *_ = compare(run, run, qrels={"q": {"d1": 1}, "r": {"d2": 1}}, measures=["AP"]).tables()
    assert len(set(equal.columns)) == len(equal.columns)
    assert equal.rows[0][4:] == ("", "", "1.0000", "1.0000")
    assert NO_T_TEST in equal.note
    assert f"from seed {SEED}" in equal.note
    assert f"seed {SEED}" in str(command.__doc__)
    assert NO_T_TEST not in compare(*folders, measures=["AP"]).tables()[0].note


def test_two_folders_have_their_own_measures(folders: tuple[Path, Path]) -> None:
    report = compare(*folders)
    for folder, side in zip(folders, ("a", "b"), strict=True):
        written = {row["measure"]: row["after"] for row in json.loads((folder / "metrics.json").read_text())}
        assert {row.measure: getattr(row, side) for row in report.measures} == written
    assert [row.measure for row in compare(*folders, measures=["AP", "R@10"]).measures] == ["AP", "R@10"]
    assert report.notes == []


def test_a_folder_a_run_and_judgments_are_compared_with_each_other(
    folders: tuple[Path, Path], collection: Path, tmp_path: Path
) -> None:
    expected = compare(*folders).measures[0]
    write_run(tmp_path / "b.trec", read_run(folders[1] / "run.trec"))
    for b in (tmp_path / "b.trec", read_run(tmp_path / "b.trec")):
        report = compare(folders[0], b, qrels=collection / "qrels.tsv")
        assert (report.measures[0], report.agreement) == (expected, None)
    report = compare(folders[0] / "judgments.jsonl", folders[1] / "judgments.parquet", qrels=collection / "qrels.tsv")
    found = report.agreement
    assert found is not None
    assert found == compare(*folders).agreement
    assert found.n_both == 180
    reranked = {
        query: {
            document: log_odds_of(f"query {query[1:]}", f"T{document[1:]} text {document[1:]} 翼")
            for document in scores
        }
        for query, scores in ((query, list(scores)[:15]) for query, scores in read_run(collection / "run.trec").items())
    }
    (value,) = ir_measures.calc_aggregate([ir_measures.P @ 5], read_qrels(collection / "qrels.tsv"), reranked).values()
    report = compare(folders[0] / "judgments.jsonl", folders[1], qrels=collection / "qrels.tsv", measures=["P@5"])
    assert report.measures[0].a == pytest.approx(value, abs=0.05)  # ties of log-odds stand in another order


def test_what_counts_is_summed_and_equal_columns_are_ties() -> None:
    (row,) = paired_measures({"NumRet": {"q1": 3, "q2": 4}}, {"NumRet": {"q1": 3, "q2": 4}})
    assert (row.a, row.b, row.wins, row.ties, row.losses) == (7, 7, 0, 2, 0)
    assert (row.t_test, row.permutation_test, row.t_test_holm, row.permutation_test_holm) == (None, 1.0, None, 1.0)


def test_queries_that_a_side_lacks_count_as_0_and_are_told(tmp_path: Path) -> None:
    qrels = {f"q{n}": {"d": 1} for n in range(4)}
    both = {f"q{n}": {"d": 1.0, "e": 0.5} for n in range(4)}
    report = compare({"q0": both["q0"]}, both, qrels=qrels, measures=["RR"], names=("first", "second"))
    assert (report.measures[0].a, report.measures[0].b, report.measures[0].wins) == (0.25, 1.0, 3)
    assert report.notes == ["3 judged queries are not in first and count as 0"]


# ---- agreement -------------------------------------------------------------------------------------------------------


def test_agreement_is_counted(tmp_path: Path) -> None:
    a = {
        ("q", "same"): judgment(0, 1.0),
        ("q", "chain"): judgment(1, 2.0, "\nIt names wings and lift."),
        ("q", "decision"): judgment(2, 0.5),
        ("r", "failed"): judgment(3, 0.5),
        ("r", "alone"): judgment(4, 0.5),
    }
    b = {
        ("q", "same"): judgment(0, 1.0),
        ("q", "chain"): judgment(1, 2.5, "\nIt names bread."),
        ("q", "decision"): judgment(2, -0.5),
        ("r", "failed"): Judgment.failed(3, "no memory"),
    }
    report = compare(write(tmp_path / "a", a), write(tmp_path / "b", b))
    found = report.agreement
    assert found is not None
    assert (found.n_both, found.n_only, found.n_unscored, found.n_scored) == (4, (1, 0), (0, 1), 3)
    assert (found.n_same_decision, found.n_same_score, found.n_same_chain) == (2, 1, 2)
    assert found.log_odds is not None
    assert (found.log_odds.mean, found.log_odds.largest) == pytest.approx((0.5, 1.0))
    (parting,) = report.partings
    assert (parting.query, parting.document, parting.character) == ("q", "chain", len("\nIt names "))
    assert (parting.token, parting.rest) == (None, ("wings and lift.", "bread."))
    assert report.notes == ["nothing is measured; give qrels (--qrels)"]


def tau_b(x: list[float], y: list[float]) -> float:
    """By its definition, over pairs."""
    signs = [((x[i] > x[j]) - (x[i] < x[j]), (y[i] > y[j]) - (y[i] < y[j])) for i, j in combinations(range(len(x)), 2)]
    return sum(s * t for s, t in signs) / math.sqrt(sum(s * s for s, _ in signs) * sum(t * t for _, t in signs))


def test_kendall_s_tau_is_that_of_the_documents_in_common() -> None:
    a = {
        "q": {"d1": 5.0, "d2": 4.0, "d3": 4.0, "d4": 1.0, "only": 9.0},
        "tied": {"d1": 1.0, "d2": 1.0},
        "one": {"d": 1.0},
    }
    b = {
        "q": {"d1": 1.0, "d2": 4.0, "d3": 3.0, "d4": 3.0, "other": 9.0},
        "tied": {"d1": 1.0, "d2": 2.0},
        "one": {"d": 1.0},
    }
    assert compare(a, b).kendall_tau == {"q": pytest.approx(tau_b([5, 4, 4, 1], [1, 4, 3, 3]))}
    for n in range(2, 40):  # exactly, whatever a division rounds to
        ties = {"q": {f"d{i}": float(i // 2) for i in range(n + 1)}}
        assert compare(ties, ties).kendall_tau == {"q": 1.0}


def test_rankings_of_judged_documents_are_compared_without_those_below_them(folders: tuple[Path, Path]) -> None:
    report = compare(*folders)
    first = [json.loads(line) for line in (folders[0] / "judgments.jsonl").read_text().splitlines()]
    second = {
        (record["query"], record["document"]): record["log_odds"]
        for record in map(json.loads, (folders[1] / "judgments.jsonl").read_text().splitlines())
    }
    for query in ("q0", "q7"):
        x = [record["log_odds"] for record in first if record["query"] == query]
        y = [second[query, record["document"]] for record in first if record["query"] == query]
        assert len(x) == 15
        assert report.kendall_tau[query] == pytest.approx(tau_b(x, y))


def test_chains_part_at_a_token_where_tokens_are_known(tmp_path: Path) -> None:
    a, b = traced(0, 1.0, "\nIt names wings."), traced(0, 3.0, "\nIt names bread, not wings.")
    (parting,) = compare([a], [b]).partings
    assert (parting.token, parting.character) == (2, len("\nIt names "))
    files = write(tmp_path / "a", {("q", "d"): a}), write(tmp_path / "b", {("q", "d"): b})
    (parting,) = compare(*files, tokenize=lambda chain: [ord(character) // 4 for character in chain]).partings
    assert parting.token is not None
    assert (parting.character, parting.token >= parting.character) == (len("\nIt names "), True)
    assert compare([a], [a]).partings == []


def test_a_chain_that_goes_on_where_the_other_ends_parts_there() -> None:
    (parting,) = compare([judgment(0, 1.0, "\nIt is")], [judgment(0, 1.0, "\nIt is so.")]).partings
    assert (parting.character, parting.rest) == (6, ("", " so."))


def test_those_whose_scores_are_furthest_apart_come_first() -> None:
    a = [judgment(n, odds, f"\nIt {n}") for n, odds in enumerate((0.0, 3.0, -1.0))]
    b = [judgment(n, odds, f"\nNo {n}") for n, odds in enumerate((0.1, -3.0, 1.0))]
    assert [parting.index for parting in compare(a, b).partings] == [1, 2, 0]


def test_judgments_of_calls_are_matched_by_their_texts() -> None:
    a = Judgments([judgment(0, 1.0), judgment(1, -1.0)], [("wings", "A wing."), ("wings", {"title": "T", "text": "x"})])
    b = Judgments([judgment(0, -2.0), judgment(1, 1.0)], [("wings", "T x"), ("wings", "A wing.")])
    found = compare(a, b).agreement
    assert found is not None
    assert (found.n_both, found.n_same_decision, found.n_same_score) == (2, 2, 1)


# ---- what others write -----------------------------------------------------------------------------------------------


def test_records_of_others_are_compared_with_ours(tmp_path: Path) -> None:
    ours = {("q1", "d1"): judgment(0, 2.0, "\nIt is.\n"), ("q1", "d2"): judgment(1, -1.0, "\nNo.")}
    records = [
        {"query_id": "q1", "doc_id": "d1", "query": "what", "completion": "\nIt is.\n</think> true", "score": 0.9},
        {"qid": "q1", "docid": "d2", "output": "<think>\nNo, it", "score": 0.5, "finish_reason": "length"},
    ]
    report = compare(write(tmp_path / "a", ours), lines(tmp_path / "b.jsonl", records))
    found = report.agreement
    assert found is not None
    assert (found.n_both, found.n_same_decision, found.n_same_chain) == (2, 2, 1)
    assert found.score is not None
    assert found.score.largest == pytest.approx(0.5 - 1 / (1 + math.e))
    assert report.partings[0].rest == (".", ", it")
    assert [each.ended for each in report.judgments[1]] == ["closed", "budget"]


def test_texts_stand_for_ids_and_a_collection_tells_which_is_which(
    collection: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    records = [
        {"query": f"query {record['query'][1:]}", "passage": "T{0} text {0} 翼".format(record["document"][1:]), **part}
        for record in map(json.loads, (folders[0] / "judgments.jsonl").read_text().splitlines())
        for part in [{"chain": record["chain"], "score": record["score"]}]
    ]
    theirs = lines(tmp_path / "theirs.jsonl", records)
    with pytest.raises(InputError, match=r"no query in common.*'q0' in A, 'query 0' in B"):
        compare(folders[0], theirs)
    found = compare(folders[0], theirs, corpus=open_source(str(collection))).agreement
    assert found is not None
    assert (found.n_both, found.n_only, found.n_same_score, found.n_same_chain) == (180, (0, 0), 180, 180)
    assert compare(theirs, theirs).agreement == replace(found, log_odds=Difference(0.0, 0.0))


def test_scores_of_0_and_1_are_compared_all_the_same(tmp_path: Path) -> None:
    records = [
        {"qid": "q", "docid": f"d{n}", "completion": "\nIt.", "score": score} for n, score in enumerate((0, 1, 0.5))
    ]
    failed = [*records[:2], {**records[2], "score": None}]
    report = compare(lines(tmp_path / "a.jsonl", records), lines(tmp_path / "b.jsonl", failed))
    found = report.agreement
    assert found is not None
    assert (found.n_scored, found.n_unscored, found.n_same_score, found.log_odds) == (2, (0, 1), 2, None)
    assert report.kendall_tau == {"q": 1.0}
    report.to_html(tmp_path / "page.html")
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"qid": "q", "docid": "d", "chain": "x", "score": 1.5}, "line 2: the score of a judgment is a probability"),
        ({"qid": "q", "docid": "d", "chain": "x", "score": "high"}, "line 2: a score must be a number"),
        ({"qid": "q", "docid": "d", "chain": 3, "score": 0.5}, 'line 2: "completion" must be a string, not 3'),
        ({"qid": "q", "docid": ["d"], "chain": "x", "score": 0.5}, "line 2: an id must be a string"),
        ({"qid": "q", "docid": "d", "score": 0.5}, "line 2: no judgment"),
        ({"docid": "d", "chain": "x", "score": 0.5}, "line 2: no judgment"),
        (
            {"qid": "q", "docid": "d0", "chain": "y", "score": 0.5},
            "line 2: another judgment of query q and document d0",
        ),
        ([1], "line 2: no judgment"),
    ],
)
def test_a_record_that_is_no_judgment_is_an_error_with_its_line(tmp_path: Path, record: Any, said: str) -> None:
    good = {"qid": "q", "docid": "d0", "chain": "x", "score": 0.5}
    with pytest.raises(InputError, match=said):
        compare(lines(tmp_path / "a.jsonl", [good, record]), lines(tmp_path / "b.jsonl", [good]))


# ---- what cannot be compared -----------------------------------------------------------------------------------------


def test_a_job_that_was_stopped_is_compared_and_told(folders: tuple[Path, Path], tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    journal = (folders[1] / "journal.jsonl").read_text().splitlines(keepends=True)
    (stopped / "journal.jsonl").write_text("".join(journal[:31]))
    report = compare(folders[0], stopped)
    assert report.agreement is not None
    assert (report.agreement.n_both, report.agreement.n_only) == (30, (150, 0))
    assert "B is a job that was stopped; compared so far: 30 judgments" in report.notes


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    """It would be read in part to learn what it holds, and the rest would be compared."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is no file but a pipe"):
        compare(tmp_path / "pipe", {"q": {"d": 1.0}})


def test_what_has_nothing_in_common_or_cannot_be_read(folders: tuple[Path, Path], tmp_path: Path) -> None:
    one, other = {"q1": {"d": 1.0}}, {"q2": {"d": 1.0}}
    (tmp_path / "empty").write_text("")
    (tmp_path / "folder").mkdir()
    for arguments, options, said in (
        ((one, other), {}, "no query in common: the first is 'q1' in A, 'q2' in B"),
        ((one, one), {"qrels": {"q3": {"d": 1}}}, "the qrels judge none of A's queries"),
        ((one, one), {"qrels": {"q1": {"d": 1}}}, r"A \(given in Python\) is no run but relevance judgments"),
        ((one, one), {"measures": ["AP"]}, r"need qrels \(--qrels\)"),
        ((one, one), {"measures": ["nDCG@ten"]}, "no measure"),
        (folders, {"measures": ["P@7"]}, "A has no P@7"),
        ((tmp_path / "empty", one), {}, "is empty"),
        ((tmp_path / "missing", one), {}, "cannot read"),
        ((tmp_path / "folder", one), {}, "neither a judgments.jsonl nor a journal.jsonl"),
        ((one, []), {}, "no judgments"),
        ((one, one), {"qrels": tmp_path / "missing"}, "cannot read"),
    ):
        with pytest.raises(InputError, match=said):
            compare(*arguments, **options)


@pytest.mark.parametrize(
    "text", ["measure\tquery\tbefore\tafter\nAP\tq\n", "measure\tquery\tbefore\tafter\nAP\tq\t1\tx\n"]
)
def test_measures_that_cannot_be_read(folders: tuple[Path, Path], tmp_path: Path, text: str) -> None:
    for name in ("judgments.jsonl", "run.trec"):
        (tmp_path / name).write_bytes((folders[0] / name).read_bytes())
    (tmp_path / "per_query.tsv").write_text(text)
    with pytest.raises(InputError, match=r"per_query.tsv, line 2"):
        compare(tmp_path, folders[1])


def test_measures_by_different_qrels_are_told(folders: tuple[Path, Path], collection: Path, tmp_path: Path) -> None:
    for number, folder in enumerate(folders):
        new = tmp_path / str(number)
        new.mkdir()
        for name in ("judgments.jsonl", "run.trec", "per_query.tsv"):
            (new / name).write_bytes((folder / name).read_bytes())
        facts = {"environment": 1, "options": {"dtype": f"float{number}"}, "versions": {}, "inputs": {}}
        (new / "environment.json").write_text(json.dumps(facts | {"content": {"qrels": f"digest {number}"}}))
    report = compare(tmp_path / "0", tmp_path / "1")
    assert report.notes == ["A and B were measured by different qrels; give qrels (--qrels) to measure both alike"]
    assert report.environment == [("--dtype", "float0", "float1")]
    assert compare(tmp_path / "0", tmp_path / "1", qrels=collection / "qrels.tsv").notes == []
    for number in range(2):  # other queries of one file
        path = tmp_path / str(number) / "environment.json"
        facts = json.loads(path.read_text()) | {"inputs": {"qrels": {"qrels.tsv": "digest"}}}
        path.write_text(json.dumps(facts))
    assert compare(tmp_path / "0", tmp_path / "1").notes == []


def test_a_measure_that_one_side_lacks_is_said(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("judgments.jsonl", "run.trec"):
        (tmp_path / name).write_bytes((folders[0] / name).read_bytes())
    values = (folders[0] / "per_query.tsv").read_text()
    (tmp_path / "per_query.tsv").write_text(values.replace("AP\t", "MAP\t"))
    report = compare(tmp_path, folders[1])
    assert report.notes[:2] == ["A alone has MAP, which is left out", "B alone has AP, which is left out"]
    assert "AP" not in [row.measure for row in report.measures]


# ---- forms -----------------------------------------------------------------------------------------------------------


def test_json_has_every_query_and_every_chain(folders: tuple[Path, Path]) -> None:
    report = compare(*folders)
    found = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert found["sources"] == [str(folder) for folder in folders]
    assert found["measures"][0]["measure"] == "nDCG@10"
    assert found["measures"][0]["t_test"] == report.measures[0].t_test
    assert found["queries"]["AP"]["q3"] == list(report.values["AP"]["q3"])
    assert found["kendall_tau"] == report.kendall_tau
    assert len(found["partings"]) == len(report.partings) == 60
    assert found["agreement"]["n_same_chain"] == report.agreement.n_same_chain == 120  # type: ignore[union-attr]


def test_the_page_has_the_tables_and_both_sides(folders: tuple[Path, Path], collection: Path, tmp_path: Path) -> None:
    report = compare(*folders, names=("bf16", "4bit"))
    report.to_html(tmp_path / "page.html", open_source(str(collection)))
    data: Any = Page((tmp_path / "page.html").read_text()).data
    assert data["names"] == ["bf16", "4bit"]
    assert [table["title"] for table in data["tables"]] == [table.title for table in report.all_tables()]
    assert "query 0" in data["queries"]
    assert sum(row["diverges"] is not None for row in data["rows"]) == 60


def test_texts_stay_texts_in_every_form(tmp_path: Path) -> None:
    a = Judgments([judgment(0, 1.0, f"\n{HOSTILE} a")], [(HOSTILE, HOSTILE)])
    b = Judgments([judgment(0, 2.0, f"\n{HOSTILE} b")], [(HOSTILE, HOSTILE)])
    report = compare(a, b, names=("</script>", "\\input{x}"))
    report.to_html(tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert len(page.all("script")) == 2
    assert page.all("img") == []
    assert "<script" not in report.to_markdown()
    comments, tables = report.to_latex().split("\\begin{table}", 1)
    assert all(line.startswith("% ") for line in comments.splitlines())
    assert "\\input" not in tables
    assert HOSTILE.split()[0] not in tables
