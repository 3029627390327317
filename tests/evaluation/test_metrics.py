"""nDCG, and the extra it needs."""

import importlib
import math
import sys

import pytest

from rank1_hf.evaluation.metrics import ndcg

QRELS = {"q1": {"good": 1, "bad": 0, "unseen": 1}}


def test_ndcg_is_the_discounted_gain_over_the_best_possible() -> None:
    ideal = 1 + 1 / math.log2(3)
    assert ndcg(QRELS, {"q1": {"good": 2.0, "bad": 1.0}}) == pytest.approx(1 / ideal)
    assert ndcg(QRELS, {"q1": {"good": 1.0, "bad": 2.0}}) == pytest.approx(1 / math.log2(3) / ideal)


def test_nothing_below_the_cutoff_counts() -> None:
    assert ndcg(QRELS, {"q1": {"good": 1.0, "bad": 2.0}}, cutoff=1) == 0


def test_a_judged_query_that_the_run_lacks_counts_as_nothing_found() -> None:
    qrels = {"q1": {"good": 1}, "q2": {"good": 1}}
    assert ndcg(qrels, {"q1": {"good": 1.0}}) == 0.5


def test_without_ir_measures_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    monkeypatch.delitem(sys.modules, "rank1_hf.evaluation.metrics")
    with pytest.raises(ImportError, match=r"rank1-hf\[eval\]"):
        importlib.import_module("rank1_hf.evaluation.metrics")
