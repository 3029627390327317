"""TREC runs and qrels."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank1_hf.files.inputs import InputError
from rank1_hf.files.trec import Qrels, Run, check_tag, read_qrels, read_run, write_run

HEADER = "query-id\tcorpus-id\tscore\n"


def test_a_run_is_read_best_first(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_text("q1 Q0 d1 1 0.5 tag\nq1\tQ0\td2\t2\t9e0\ttag\n\nq2  Q0 \t d1 1 -1 tag\r\n")
    run = read_run(path)
    assert run == {"q1": {"d2": 9.0, "d1": 0.5}, "q2": {"d1": -1.0}}
    assert list(run["q1"]) == ["d2", "d1"]


def test_documents_of_equal_score_stay_in_order_and_queries_may_be_mixed(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_text("q1 Q0 z 1 1 t\nq2 Q0 x 1 1 t\nq1 Q0 a 2 1 t\nq1 Q0 m 3 1.0 t\n")
    run = read_run(path)
    assert list(run) == ["q1", "q2"]
    assert list(run["q1"]) == ["z", "a", "m"]


def test_a_run_is_written_best_first_with_ranks(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    write_run(path, {"q1": {"d1": 0.25, "d2": 3.0}}, tag="mine")
    assert path.read_text() == "q1 Q0 d2 1 3.0 mine\nq1 Q0 d1 2 0.25 mine\n"


# An id is anything but what divides columns and lines; with tabs between the columns, even a space within it.
names = st.text(st.characters(exclude_characters="\t\r\n ", exclude_categories=["Cs"]), min_size=1)
spaced = st.lists(names, min_size=1, max_size=3).map(" ".join)
scores = st.floats(allow_nan=False)


@given(run=st.dictionaries(spaced, st.dictionaries(spaced, scores, min_size=1)))
def test_a_written_run_is_read_back_to_the_last_bit(tmp_path_factory: pytest.TempPathFactory, run: Run) -> None:
    path = tmp_path_factory.getbasetemp() / "run.trec"
    write_run(path, run)
    assert read_run(path) == run


@pytest.mark.parametrize(
    "run",
    [
        {"q1": {"d1": math.nan}},
        {"q1": {"d1": 1.0, "d\n2": 1.0}},
        {"q\t1": {"d1": 1.0}},
        {"q1": {"": 1.0}},
        {"q1": {"d1": None}},
    ],
    ids=str,
)
def test_a_run_that_could_not_be_read_back_is_not_written(tmp_path: Path, run: Run) -> None:
    with pytest.raises(InputError):
        write_run(tmp_path / "run.trec", run)
    assert list(tmp_path.iterdir()) == []


def test_numpys_scores_are_written_as_numbers(tmp_path: Path) -> None:
    write_run(tmp_path / "run.trec", {"q1": {"d1": np.float32(0.5)}})
    assert read_run(tmp_path / "run.trec") == {"q1": {"d1": 0.5}}


@pytest.mark.parametrize("line", ["q1 Q0 d1 1 0.5", "q1 Q0 d1 1 high tag", "q1 Q0 d1 1 nan tag", "q1 Q0 d1 1 1 t more"])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "run.trec"
    path.write_text(f"q1 Q0 d0 1 1.0 tag\n{line}\n")
    with pytest.raises(InputError, match=r"run\.trec, line 2"):
        read_run(path)


def test_a_document_twice_for_one_query_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_text("q1 Q0 d1 1 2 t\nq2 Q0 d1 1 2 t\nq1 Q0 d1 2 1 t\n")
    with pytest.raises(InputError, match=r"line 3: document d1 for the second time under query q1"):
        read_run(path)


@pytest.mark.parametrize(
    "content",
    [
        f"{HEADER}q1\td1\t2\nq1\td2\t-1\n",
        "q1\td1\t2\r\nq1\td2\t-1\r\n",
        "q1 0 d1 2\n\nq1 0  d2 -1\n",
        "q1\t0\td1\t2\nq1\tQ0\td2\t-1\n",
        "query-id corpus-id score\nq1 d1 2\nq1 d2 -1\n",
    ],
)
def test_qrels_are_read_in_every_form(tmp_path: Path, content: str) -> None:
    path = tmp_path / "qrels"
    path.write_text(content, newline="")
    assert read_qrels(path) == {"q1": {"d1": 2, "d2": -1}}


@given(qrels=st.dictionaries(spaced, st.dictionaries(spaced, st.integers(-(10**6), 10**6), min_size=1)))
def test_qrels_divided_by_tabs_are_read_whatever_the_ids_are(
    tmp_path_factory: pytest.TempPathFactory, qrels: Qrels
) -> None:
    path = tmp_path_factory.getbasetemp() / "qrels.tsv"
    lines = [f"{query}\t{document}\t{grade}\n" for query, grades in qrels.items() for document, grade in grades.items()]
    path.write_text(HEADER + "".join(lines), encoding="utf-8", newline="")
    assert read_qrels(path) == qrels


@pytest.mark.parametrize("line", ["q1\td1\thigh", "q1\td1", "q1 0 d1 1 more", "q1 0 d1 1.5"])
def test_a_bad_judgment_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "qrels.tsv"
    path.write_text(f"{HEADER}{line}\n")
    with pytest.raises(InputError, match=r"qrels\.tsv, line 2"):
        read_qrels(path)


@pytest.mark.parametrize("tag", ["", " ", "two words", "a\tb", "a\nb", "a\u00a0b", "a\u2003b", "\x1b[1m"])
def test_a_tag_is_one_word(tag: str) -> None:
    with pytest.raises(InputError, match="a run's tag is one word"):
        check_tag(tag)
    assert check_tag("bm25+rank1-7b_top100") == "bm25+rank1-7b_top100"
