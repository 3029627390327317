"""The files of a finished job."""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank1_hf.evaluation import outputs
from rank1_hf.evaluation.outputs import with_scores
from rank1_hf.evaluation.writing import replacing

log_odds = st.one_of(st.floats(-60, 60), st.sampled_from([0.0, -0.0, 1.5, 1.5 + 1e-12, 50.0]))


@given(judged=st.lists(log_odds), n_failed=st.integers(0, 3), n_below=st.integers(0, 5))
def test_scores_say_the_order_to_whoever_reads_them_as_float32(
    judged: list[float], n_failed: int, n_below: int
) -> None:
    ranked = [(str(n), {"log_odds": odds}) for n, odds in enumerate(sorted(judged, reverse=True))]
    ranked += [(f"failed {n}", {"log_odds": None}) for n in range(n_failed)]
    below = [(f"below {n}", None) for n in range(n_below)]
    found = with_scores([*ranked, *below])
    assert [place.document for place in found] == [document for document, _ in [*ranked, *below]]
    written = [np.float32(f"{place.score:.9g}") for place in found]
    assert written == [place.score for place in found]
    assert all(after < before for before, after in pairwise(written))
    for place in found[: len(judged)]:
        assert place.judgment is not None
        assert place.score == pytest.approx(place.judgment["log_odds"], rel=1e-5, abs=1e-5)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "run.trec"
    with replacing(path) as file:
        file.write(b"first")
        assert not path.exists()

    def interrupted() -> None:
        with replacing(path) as file:
            file.write(b"half of the sec")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"first"]


def test_the_page_names_the_columns_of_a_judgment() -> None:
    page = Path(outputs.__file__).with_name("README.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^A line of `judgments.jsonl` has .*?\.\n", page, re.MULTILINE | re.DOTALL)
    assert re.findall(r"`(\w+)`", line) == [*outputs._COLUMNS, *outputs._TRACED]
