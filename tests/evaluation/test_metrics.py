"""nDCG, and the extra it needs."""

import importlib
import math
import sys

import pytest

from rank1_hf.evaluation.metrics import Comparison, compare, measure, ndcg, p_mrr, pairwise_accuracy
from rank1_hf.files.inputs import InputError

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


def test_measures_are_those_of_ir_measures_for_every_judged_query() -> None:
    qrels = {"q1": {"good": 1, "bad": 0}, "q2": {"good": 1}}
    values = measure(qrels, {"q1": {"bad": 2.0, "good": 1.0}, "unjudged": {"good": 1.0}}, ["RR@10", "R@1"])
    assert values == {"RR@10": {"q1": 0.5, "q2": 0.0}, "R@1": {"q1": 0.0, "q2": 0.0}}


@pytest.mark.parametrize("names", [("MRR@10", "RR@10"), ("MAP", "AP"), ("Recall@5", "R@5"), ("NDCG", "nDCG", "nDCG")])
def test_two_names_of_a_measure_are_as_good_as_one(names: tuple[str, ...]) -> None:
    values = measure(QRELS, {"q1": {"bad": 2.0, "good": 1.0}}, names)
    assert values == {name: measure(QRELS, {"q1": {"bad": 2.0, "good": 1.0}}, [name])[name] for name in set(names)}


@pytest.mark.parametrize("order", [("good", "bad", "unseen"), ("bad", "good"), ("unseen", "bad", "good")])
def test_documents_of_one_score_are_measured_in_the_order_that_they_have(order: tuple[str, ...]) -> None:
    names = ["P@1", "RR", "RR@10", "AP", "nDCG@2", "ERR@10", "Judged@1", "Compat", "Accuracy"]
    falling = {document: -float(rank) for rank, document in enumerate(order)}
    assert measure(QRELS, {"q1": dict.fromkeys(order, 7.0)}, names) == measure(QRELS, {"q1": falling}, names)


def test_only_the_measure_that_fails_is_left_out() -> None:
    problems: list[InputError] = []
    qrels = {"q1": {"good": 1, "bad": 0}}  # Accuracy@1 divides by zero where the first is relevant
    values = measure(qrels, {"q1": {"good": 1.0}}, ["AP", "Accuracy@1", "P@1"], problems.append)
    assert values == {"AP": {"q1": 1.0}, "P@1": {"q1": 1.0}}
    assert [str(problem).split(":")[0] for problem in problems] == ["Accuracy@1 cannot be computed"]
    with pytest.raises(InputError, match="Accuracy@1 cannot be computed"):
        measure(qrels, {"q1": {"good": 1.0}}, ["AP", "Accuracy@1"])


def test_grades_above_those_of_gdeval_are_named() -> None:
    with pytest.raises(InputError, match="gdeval takes grades up to 4, and the highest is 5"):
        measure({"q1": {"good": 5}}, {"q1": {"good": 1.0}}, ["ERR@10"])


def test_perl_says_nothing_of_a_locale_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PERL_BADLANG", raising=False)
    monkeypatch.setenv("LC_ALL", "xx_XX")
    assert measure(QRELS, {"q1": {"good": 1.0}}, ["ERR@10"]) == {"ERR@10": {"q1": 0.0625}}
    assert capfd.readouterr().err == ""


def test_a_query_without_a_value_is_left_out() -> None:
    qrels = {"q1": {"good": 1, "bad": 0}, "q2": {"good": 1}}
    values = measure(qrels, {"q1": {"good": 2.0, "bad": 1.0}, "q2": {"bad": 1.0}}, ["Accuracy"])
    assert values == {"Accuracy": {"q1": 1.0}}
    (found,) = compare(values, {"Accuracy": {"q1": 0.5, "q2": 1.0}})
    assert found == Comparison("Accuracy", 1.0, 0.5, None, 1)


def test_what_counts_is_summed() -> None:
    qrels = {"q1": {"good": 1}, "q2": {"good": 1, "better": 2}}
    run = {"q1": {"good": 1.0, "bad": 0.0}, "q2": {"better": 1.0}}
    values = measure(qrels, run, ["NumRet", "NumRel", "NumQ", "P@1"])
    assert [row.after for row in compare(values, values)] == [3, 3, 2, 1]


def test_a_pair_of_nevir_is_right_only_if_both_queries_are() -> None:
    qrels = {f"{pair}_q{n}": {f"doc{n}": 1} for pair in ("1", "2", "3") for n in (1, 2)}
    first_doc, second_doc = {"doc1": 2.0, "doc2": 1.0}, {"doc1": 1.0, "doc2": 2.0}
    run = {"1_q1": first_doc, "1_q2": second_doc, "2_q1": first_doc, "2_q2": first_doc, "3_q1": first_doc}
    assert pairwise_accuracy(qrels, run) == {"1": 1.0, "2": 0.0, "3": 0.0}
    assert measure(qrels, run, ["R@1"])["pairwise accuracy"] == {"1": 1.0, "2": 0.0, "3": 0.0}


def test_p_mrr_says_how_far_documents_fall_that_became_irrelevant() -> None:
    qrels = {"7-og": {"a": 1, "b": 1, "c": 1, "d": 0}, "7-changed": {"a": 0, "c": 1, "d": 0}, "8-og": {"a": 1}}
    original = {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}  # a at rank 1, b at rank 2
    changed = {"c": 4.0, "b": 3.0, "d": 2.0, "a": 1.0}  # a falls to rank 4, b stays
    assert p_mrr(qrels, {"7-og": original, "7-changed": changed}) == {"7": pytest.approx(((1 - 1 / 4) + 0) / 2)}
    assert p_mrr(qrels, {"7-og": changed, "7-changed": original}) == {"7": pytest.approx(((1 / 4 - 1) + 0) / 2)}
    absent = {"c": 4.0, "b": 3.0, "d": 2.0}  # behind the end, at rank 4
    assert p_mrr(qrels, {"7-og": original, "7-changed": absent}) == {"7": pytest.approx((1 - 1 / 4) / 2)}


def test_ordinary_queries_have_ordinary_measures_only() -> None:
    assert list(measure(QRELS, {"q1": {"good": 1.0}}, ["AP"])) == ["AP"]


def test_a_difference_is_tested_over_the_queries() -> None:
    before, after = {"a": 0.1, "b": 0.4, "c": 0.2}, {"a": 0.3, "b": 0.5, "c": 0.6}
    differences = [0.2, 0.1, 0.4]
    mean = sum(differences) / 3
    t = mean / (math.sqrt(sum((d - mean) ** 2 for d in differences) / 2) / math.sqrt(3))
    p = 1 - t / math.sqrt(2 + t * t)  # of Student's t with two degrees of freedom, both sides
    (found,) = compare({"AP": before}, {"AP": after})
    assert found == Comparison("AP", pytest.approx(0.7 / 3), pytest.approx(1.4 / 3), pytest.approx(p), 3)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([0.5, 0.1], [0.5, 0.1]),
        ([0.5], [0.1]),
        ([0.5, 0.0], [1.0, 0.5]),
        ([0.3, 0.1, 0.7], [0.5, 0.3, 0.9]),  # 0.2 each time, but for rounding
        ([300.0, 100.0], [301.0, 101.0]),
        ([0.0, 0.0], [0.0, 0.0]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_where_the_differences_do_not_vary_there_is_nothing_to_test(before: list[float], after: list[float]) -> None:
    def values(of: list[float]) -> dict[str, dict[str, float]]:
        return {"AP": {str(n): value for n, value in enumerate(of)}}

    assert compare(values(before), values(after))[0].p_value is None


def test_without_ir_measures_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_measures", None)
    monkeypatch.delitem(sys.modules, "rank1_hf.evaluation.metrics")
    with pytest.raises(ImportError, match="pip install ir-measures"):
        importlib.import_module("rank1_hf.evaluation.metrics")
