"""Runs and qrels in every form that they are published in."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rank1_hf.files.beir import SAMPLE
from rank1_hf.files.entries import has_subsets
from rank1_hf.files.inputs import InputError
from rank1_hf.files.trec import read_qrels, read_run

RUN = {"q1": {"d1": 0.5, "d2": 9.0}, "q 2": {"d1": -1.0}}
QRELS = {"q1": {"d1": 2, "d2": -1}}


def lines(*rows: Any) -> str:
    return "\n".join(json.dumps(row) for row in rows)


def rows(query: str, document: str, score: str) -> list[dict[str, Any]]:
    return [{query: q, document: d, score: s} for q, found in RUN.items() for d, s in found.items()]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        json.dumps(RUN),
        json.dumps(RUN | {"q3": {}}, indent=1),
        json.dumps({"mteb_model_meta": {"model_name": "m", "revision": None}, "default": {"test": RUN}}),
        lines(*rows("query_id", "docid", "score")),
        lines(*rows("qid", "docno", "score")),
        lines(*rows("query", "document", "score")),
        json.dumps(rows("query-id", "corpus-id", "score"), indent=2),
        'qid,docno,rank,score,query\nq1,d1,2,0.5,"a, b"\nq1,d2,1,9,x\nq 2,d1,1,-1,x\n',
        f'score,query,"qid", docno\n0.5,"a\nb",q1, d1\n9,{"x" * 200_000},q1, d2\n\n-1,,"q 2", d1\n',
        "q1\tQ0\td1\t2\t0.5\tt\nq1\tQ0\td2\t1\t9\tt\nq 2\tQ0\td1\t1\t-1\tt\n",
    ],
)
def test_a_run_is_read_in_every_form(tmp_path: Path, content: str, packed: bool) -> None:
    path = tmp_path / "run"
    path.write_bytes(gzip.compress(content.encode()) if packed else content.encode())
    run = read_run(path)
    assert run == RUN
    assert list(run["q1"]) == ["d2", "d1"]


@pytest.mark.parametrize(
    "content",
    [
        lines({"_id": "q1", "text": "what?"}),
        lines({"_id": "d1", "title": "", "text": "one", "metadata": {}}),
        lines({"query_id": "q1", "query": "what?"}),
        json.dumps([{"docid": "d1", "contents": "one"}], indent=2),
        "_id\ttitle\ttext\nd1\tT\tone two three\n",
        "id,text\n1,one\n",
        'qid,query\nq1,"a, b"\n',
    ],
)
@pytest.mark.parametrize(("read", "what"), [(read_run, "a run"), (read_qrels, "relevance judgments (qrels)")])
def test_queries_and_documents_in_its_place_are_named(
    tmp_path: Path, content: str, read: Callable[[Path], Any], what: str
) -> None:
    path = tmp_path / "file"
    path.write_text(content)
    with pytest.raises(InputError) as refused:
        read(path)
    assert "1: these look like queries or documents (" in str(refused.value)
    assert str(refused.value).endswith(f"), not {what}")


def test_a_row_about_a_pair_may_have_its_text(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(lines(*(row | {"id": 7, "text": "one"} for row in rows("qid", "docno", "score"))))
    assert read_run(path) == RUN
    path.write_text(lines({"qid": "q1", "query": "what?", "document_no": "d1", "score": 1}))
    with pytest.raises(InputError, match='no "corpus-id"'):
        read_run(path)


def test_mteb_s_own_file_is_read(tmp_path: Path) -> None:
    """What `mteb.evaluate(..., prediction_folder=)` writes, by its own code."""
    mteb = pytest.importorskip("mteb")
    task = mteb.get_task("NevIR")
    model = type("Model", (), {"mteb_model_meta": type("Meta", (), {"name": "m", "revision": "r"})})()
    for subset, run in (("fas", RUN), ("rus", {"q9": {"d9": 1.0}})):
        task._save_task_predictions(run, model, tmp_path, "test", subset)
    path = tmp_path / "NevIR_predictions.json"
    assert has_subsets(path)
    assert read_run(path, "test", "fas") == RUN
    assert read_run(path, "test", "rus") == {"q9": {"d9": 1.0}}
    for subset in (None, "zho"):
        with pytest.raises(InputError, match=r"predictions\.json: --subset must be one of fas, rus"):
            read_run(path, "test", subset)


def test_the_split_of_predictions_is_chosen(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"default": {"dev": RUN, "test": {"q9": {"d9": 1}}}}))
    assert read_run(path, "dev") == RUN
    assert read_run(path) == {"q9": {"d9": 1.0}}
    with pytest.raises(InputError, match="--split must be one of dev, test"):
        read_run(path, "train")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"q1": {"d1": null}}', "query q1, document d1: a score must be a number"),
        ('{"q1": {"d1": "high"}}', "query q1, document d1: a score must be a number"),
        ('{"q1": {"d1": 1, "d1": 2}}', "'d1' stands twice"),
        ('{"q1": {"d1": 1}, "q2": ["d1"]}', "query q2: must be an object"),
        ('{"q1": null}', "query q1: must be an object"),
        ('{\n"q1": {"d1": 1},\n"q2": ["d1"]}', "query q2: must be an object"),
        ('{"q1": {"d1": 1}', "not valid JSON .*; is the file whole"),
        ('{"q1": {"d1": 1}}\n{"q2": {"d1": 1}}', "not valid JSON .* line 2, column 1"),
        ("qid,docno,score\rq1,d1,1\r", "carriage returns alone divide its lines"),
        ('qid,docno,score\nq1,d1,1\n"q2,d1,1\n', "line 3: not valid CSV"),
        ("q1 Q0 d1 1 2 t\rq1 Q0 d2 2 1 t\r", "line 1: must be: query Q0"),
        (
            '{"query_id": "q1", "doc": "d1", "score": 1}',
            r"""line 1: no "corpus-id" \(.*\); there is 'query_id', 'doc'""",
        ),
        ('{"query_id": "q1", "docid": null, "score": 1}', "line 1: an id is missing"),
        ('["q1"]', "row 1: must be an object"),
        ('{"a\\nb": {"d": 1}}', "no run can hold"),
        ('{"": {"d": 1}}', "an id is missing"),
        ("qid\tdocno\trank\nq1\td1\t1\n", r"""line 1: no "score" .*there is 'qid', 'docno', 'rank'"""),
        ("qid\tdocno\tscore\nq1\td1\n", "line 2: must be: 3 columns, as its first line; it has 2"),
    ],
)
def test_what_is_wrong_with_a_run_is_named(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=said):
        read_run(tmp_path / "run.json")


@pytest.mark.parametrize(
    "content",
    [
        "query_id\tdoc_id\trelevance\nq1\td1\t2.0\nq1\td2\t-1.0\n",
        "docno,qid,label\nd1,q1,2\nd2,q1,-1\n",
        "qid iteration docno rel\nq1 0 d1 2\nq1 0 d2 -1\n",
        "q1 0 d1 2\nq1 0 d2 -1\nq1 0 d1 2.0\n",
        json.dumps(QRELS),
        lines(*({"query-id": "q1", "corpus-id": d, "score": float(g)} for d, g in QRELS["q1"].items())),
    ],
)
def test_qrels_are_read_in_every_form(tmp_path: Path, content: str) -> None:
    for encoding in ("utf-8", "utf-16"):
        (tmp_path / "qrels").write_bytes(content.encode(encoding))
        assert read_qrels(tmp_path / "qrels") == QRELS


@pytest.mark.parametrize("second", ["q1 0 d1 0", "q1 0 d1 0.9", "q1 0 d1", "q1 0 d1 x"])
def test_a_wrong_or_a_second_grade_is_refused_with_its_line(tmp_path: Path, second: str) -> None:
    (tmp_path / "qrels").write_text(f"q1 0 d1 1\n{second}\n")
    with pytest.raises(InputError, match="qrels, line 2"):
        read_qrels(tmp_path / "qrels")


def test_the_sample_s_run_as_json_is_the_same_run(tmp_path: Path) -> None:
    expected = read_run(SAMPLE / "bm25.trec")
    path = tmp_path / "score.json.gz"
    path.write_bytes(gzip.compress(json.dumps(expected).encode()))
    run = read_run(path)
    assert [(query, list(scores.items())) for query, scores in run.items()] == [
        (query, list(scores.items())) for query, scores in expected.items()
    ]
