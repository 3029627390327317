"""`scripts/early_exit.py`: what it computes from curves is what the rule does, and the table it writes."""

import sys
from pathlib import Path

import pytest

from rank1_hf import EarlyExit, Judgment, Rank1, TopKExit, TraceOptions
from rank1_hf.chains.beliefs import BeliefPoint
from rank1_hf.tracing.top_k_exit import TopKExitRule
from scripts.early_exit import compete, leave, main, top_k_trade_off, trade_off
from tests.viewing.made import judgment, trace_of

QUERY = "what carries an aircraft"
PASSAGES = ["The wing carries the aircraft.", "Bread is made of flour.", "An aircraft has wings, and ships have none."]
PAIRS = [(QUERY, passage) for passage in PASSAGES]


@pytest.fixture(scope="module")
def reranker() -> Rank1:
    return Rank1(device="cpu", dtype="float32", max_new_tokens=96)


@pytest.fixture(scope="module")
def curves(reranker: Rank1) -> list[Judgment]:
    """What the model makes of the pairs, with its belief behind each sentence."""
    return list(reranker.judge(PAIRS, trace=TraceOptions(belief="sentences")))


@pytest.mark.parametrize("rule", [EarlyExit(1e-6, 1), EarlyExit(2.0, 1), EarlyExit(1.0, 2), EarlyExit(1e6, 1)])
def test_the_curves_tell_what_the_rule_would_do(rule: EarlyExit, reranker: Rank1, curves: list[Judgment]):
    exits = reranker.judge(PAIRS, rule=rule)
    for early, plain in zip(exits, curves, strict=True):
        n_tokens, log_odds = leave(plain, rule)
        assert n_tokens == early.n_chain_tokens
        assert log_odds == pytest.approx(early.log_odds, abs=1e-4)


def test_the_trade_off(curves: list[Judgment]):
    places = [("q", str(i)) for i in range(3)]
    plain, *others = trade_off(curves, places, {"q": {"0": 1, "1": 0, "2": 0}})
    assert (plain.log_odds, plain.tokens, plain.changed) == (None, 1.0, 0.0)
    assert all(0 < outcome.tokens <= 1 for outcome in others)
    for n in (1, 2, 3):
        tokens = [outcome.tokens for outcome in others if outcome.sentences == n]
        assert tokens == sorted(tokens), "a higher threshold saves less"


@pytest.mark.parametrize("thresholds", [TopKExit(0.5, 1), TopKExit(2.0, 1), TopKExit(0.0, 2), TopKExit(1e6, 1)])
def test_the_curves_predict_what_the_rule_does(thresholds: TopKExit, reranker: Rank1, curves: list[Judgment]):
    exit_rule = TopKExitRule(1, thresholds)
    early = reranker.judge(PAIRS, rule=exit_rule, observers=[exit_rule])
    computed = compete(curves, 1, thresholds)
    assert [n_tokens for n_tokens, _ in computed] == [judgment.n_chain_tokens for judgment in early]
    assert [log_odds for _, log_odds in computed] == pytest.approx([each.log_odds for each in early], abs=1e-4)


def test_the_trade_off_of_a_ranking():
    def judged(index: int, log_odds: float, *beliefs: float) -> Judgment:
        points = [BeliefPoint(10 * place, value) for place, value in enumerate(beliefs)]
        return judgment(index, log_odds, n_chain_tokens=10 * len(beliefs), trace=trace_of(index, ["a"], belief=points))

    # The last is given up behind its first sentence, when the first leads it by 6; the second would have won.
    judgments = [judged(0, 3.0, 0.0, 3.0, 3.0), judged(1, 9.0, 0.0, 2.5, 9.0), judged(2, -3.0, 0.0, -3.0, -3.0)]
    places = [("q", str(index)) for index in range(3)]
    plain, *others = top_k_trade_off(judgments, places, {"q": {"0": 1, "1": 0, "2": 0}}, 1)
    assert (plain.thresholds, plain.tokens, plain.given_up, plain.recall) == (None, 1.0, 0.0, 1.0)
    found = {(each.thresholds.lead, each.thresholds.beliefs): each for each in others}
    assert (found[4.0, 1].tokens, found[4.0, 1].given_up, found[4.0, 1].recall) == (71 / 90, 1 / 3, 1.0)
    assert (found[0.0, 1].tokens, found[0.0, 1].given_up, found[0.0, 1].recall) == (52 / 90, 2 / 3, 0.0)


def test_the_files_it_writes(tmp_path: Path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    output = tmp_path / "found"
    options = ["--queries", "1", "--top-k", "3", "--device", "cpu", "--max-new-tokens", "64", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["early_exit.py", *options])
    main()
    text = output.with_suffix(".md").read_text(encoding="utf-8")
    assert text == capsys.readouterr().out
    assert "| no early exit |  | 100.0% | 0.0% |" in text
    assert "| no early exit |  | 100.0% | 0.0% | 100.0% |" in text
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
