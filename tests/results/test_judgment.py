"""Judgments, and the order they are ranked in."""

import json
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank1_hf.results.judgment import Judgment, ranking_key, sigmoid
from rank1_hf.viewing.judgments import Judgments


def judgment(index: int, log_odds: float) -> Judgment:
    return Judgment(
        index=index,
        score=sigmoid(log_odds),
        log_odds=log_odds,
        label=log_odds > 0,
        chain="It names wings.",
        n_prompt_tokens=40,
        n_chain_tokens=5,
        ended="closed",
        truncated=False,
    )


def test_sigmoid():
    assert sigmoid(0.0) == 0.5
    assert sigmoid(math.log(3)) == pytest.approx(0.75)
    assert sigmoid(-math.log(3)) == pytest.approx(0.25)


@given(st.floats(allow_nan=False))
def test_sigmoid_never_overflows(log_odds):
    assert 0 <= sigmoid(log_odds) <= 1
    assert sigmoid(log_odds) + sigmoid(-log_odds) == pytest.approx(1)


def test_ranking_is_by_log_odds_where_scores_round_to_one():
    judgments = [judgment(0, 50.0), judgment(1, 70.0), judgment(2, 60.0)]
    assert len({each.score for each in judgments}) == 1
    assert [each.index for each in sorted(judgments, key=ranking_key)] == [1, 2, 0]


def test_ranking_breaks_ties_by_position_and_puts_failures_last():
    judgments = [
        Judgment.failed(0, "no"),
        judgment(3, 1.0),
        judgment(1, 1.0),
        judgment(2, -90.0),
        Judgment.failed(4, "no"),
    ]
    assert [each.index for each in sorted(judgments, key=ranking_key)] == [1, 3, 2, 0, 4]


def test_a_failed_judgment_has_no_verdict():
    failed = Judgment.failed(7, "the query is blank")
    assert math.isnan(failed.score)
    assert math.isnan(failed.log_odds)
    assert (failed.index, failed.label, failed.ended, failed.error) == (7, None, None, "the query is blank")


def test_the_same_judgment_at_another_place():
    first = judgment(0, 2.0)
    again = first.at(9)
    assert again.index == 9
    assert again.at(0) == first


def test_to_dict_is_json():
    good = judgment(0, 2.0).to_dict()
    assert json.loads(json.dumps(good, allow_nan=False)) == good
    assert good["score"] == sigmoid(2.0)
    failed = Judgment.failed(1, "no").to_dict()
    assert json.loads(json.dumps(failed, allow_nan=False)) == failed
    assert failed["score"] is None
    assert failed["log_odds"] is None
    assert failed.keys() == good.keys()


def test_judgments_are_a_list_that_remembers_its_pairs():
    judgments = Judgments([judgment(0, 2.0)], pairs=[("q", "p")])
    assert judgments == [judgment(0, 2.0)]
    again = pickle.loads(pickle.dumps(judgments))
    assert (again, again.pairs) == (judgments, [("q", "p")])
