"""TREC runs."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank1_hf.evaluation.trec import Run, read_run, write_run
from rank1_hf.inputs import InputError


def test_a_run_is_read_best_first(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    path.write_text("q1 Q0 d1 1 0.5 tag\nq1\tQ0\td2\t2\t9e0\ttag\n\nq2 Q0 d1 1 -1 tag\n")
    run = read_run(path)
    assert run == {"q1": {"d2": 9.0, "d1": 0.5}, "q2": {"d1": -1.0}}
    assert list(run["q1"]) == ["d2", "d1"]


def test_a_run_is_written_best_first_with_ranks(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    write_run(path, {"q1": {"d1": 0.25, "d2": 3.0}}, tag="mine")
    assert path.read_text() == "q1 Q0 d2 1 3.0 mine\nq1 Q0 d1 2 0.25 mine\n"


names = st.text(st.characters(categories=["L", "N", "P"]), min_size=1)
scores = st.floats(allow_nan=False, allow_infinity=False)


@given(run=st.dictionaries(names, st.dictionaries(names, scores, min_size=1)))
def test_a_written_run_is_read_back_to_the_last_bit(tmp_path_factory: pytest.TempPathFactory, run: Run) -> None:
    path = tmp_path_factory.mktemp("run") / "run.trec"
    write_run(path, run)
    assert read_run(path) == run


@pytest.mark.parametrize("line", ["q1 Q0 d1 1 0.5", "q1 Q0 d1 1 high tag", "q1 Q0 d1 1 0.5 tag more"])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "run.trec"
    path.write_text(f"q1 Q0 d0 1 1.0 tag\n{line}\n")
    with pytest.raises(InputError, match=r"run\.trec, line 2"):
        read_run(path)
