"""The belief curve that is kept with a judgment, against its definition."""

import json
import math
from dataclasses import asdict, replace
from itertools import pairwise

import pytest

from rank1_hf import Rank1, TraceOptions
from rank1_hf.chains.beliefs import BeliefPoint, CurvePoint
from rank1_hf.results.belief_curve import MOST_POINTS, belief_curve, mean_entropy, with_curve
from rank1_hf.results.judgment import Judgment, sigmoid
from tests.viewing.made import judgment, trace_of

TEXTS = ["\nIt", " is", ".", " So", "!", " Yes"]


def made(**fields: object) -> Judgment:
    belief = [BeliefPoint(0, -1.0), BeliefPoint(3, 0.5), BeliefPoint(5, 1.0)]
    entropies = [0.5, 1.0, 1.5, math.nan, 2.0, 4.0]
    trace = trace_of(0, TEXTS, **({"belief": belief, "entropies": entropies} | fields))
    return judgment(0, 2.0, "".join(TEXTS), trace=trace, n_chain_tokens=6)


def test_a_curve_has_each_belief_the_text_before_it_and_the_entropy_since_the_one_before():
    curve = belief_curve(made())
    assert [(point.n_tokens, point.log_odds, point.entropy) for point in curve] == [
        (0, -1.0, None),
        (3, 0.5, 1.0),
        (5, 1.0, 2.0),
        (6, 2.0, 4.0),
    ]
    assert ["".join(TEXTS)[: point.n_characters] for point in curve] == ["", "\nIt is.", "\nIt is. So!", "".join(TEXTS)]
    assert [point.score for point in curve] == pytest.approx([sigmoid(point.log_odds) for point in curve], abs=1e-6)
    assert mean_entropy(curve) == pytest.approx((3 * 1.0 + 2 * 2.0 + 4.0) / 6)


def test_what_was_not_read_is_not_there():
    assert belief_curve(judgment(0)) == belief_curve(made(belief=[])) == belief_curve(Judgment.failed(0, "no")) == ()
    assert mean_entropy(()) is None
    unknown = made(entropies=[math.nan] * 6, belief=[BeliefPoint(0, 1.0), BeliefPoint(3, math.nan)])
    assert [point.n_tokens for point in belief_curve(unknown)] == [0, 6]
    assert mean_entropy(belief_curve(unknown)) is None


def test_a_curve_in_the_place_of_a_trace_is_the_same_and_survives_json():
    kept = with_curve(made())
    assert (kept.trace, belief_curve(kept)) == (None, belief_curve(made()))
    assert with_curve(kept) == kept
    fields = json.loads(json.dumps(kept.to_dict(), allow_nan=False))["belief"]
    assert tuple(map(CurvePoint.from_dict, fields)) == kept.belief
    assert "belief" not in with_curve(judgment(0)).to_dict()


@pytest.mark.parametrize("n", [MOST_POINTS - 2, MOST_POINTS - 1, 5000])
def test_however_long_the_chain_a_curve_is_short_and_spans_it(n: int):
    texts = [" word."] * n
    trace = trace_of(0, texts, belief=[BeliefPoint(place, place / n) for place in range(n)], entropies=[0.25] * n)
    curve = belief_curve(judgment(0, 2.0, "".join(texts), trace=trace, n_chain_tokens=n))
    places = [point.n_tokens for point in curve]
    assert len(curve) == min(n + 1, MOST_POINTS)
    assert (places[0], places[-1], curve[-1].log_odds) == (0, n, 2.0)
    gaps = [after - before for before, after in pairwise(places)]
    assert max(gaps) - min(gaps) <= 1
    assert mean_entropy(curve) == 0.25
    assert len(json.dumps([asdict(point) for point in curve])) < 7000


def test_of_a_real_model_each_point_is_the_score_of_the_chain_up_to_there():
    tiny = Rank1(max_new_tokens=48)
    query, passage = "what carries an aircraft in flight", "The wing carries the aircraft. Heat flows through it."
    (judged,) = tiny.judge([(query, passage)], trace=TraceOptions(belief="sentences"), show_progress_bar=False)
    kept = replace(with_curve(judged), index=7)
    for point in kept.belief[:-1]:
        there = tiny.score_chain(query, passage, kept.chain[: point.n_characters], close="forced")
        assert point.score == pytest.approx(there.score, abs=1e-4)
    assert (kept.belief[-1].score, kept.belief[-1].n_characters) == (round(judged.score, 6), len(judged.chain))
    assert len(kept.belief) > 2
