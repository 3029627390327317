"""`scripts/early_exit.py`: what it computes from curves is what the rule does, and the table it writes."""

import sys
from pathlib import Path

import pytest

from rank1_hf import EarlyExit, Rank1, TraceOptions
from scripts.early_exit import leave, main, trade_off

QUERY = "what carries an aircraft"
PASSAGES = ["The wing carries the aircraft.", "Bread is made of flour.", "An aircraft has wings, and ships have none."]


@pytest.mark.parametrize("rule", [EarlyExit(1e-6, 1), EarlyExit(2.0, 1), EarlyExit(1.0, 2), EarlyExit(1e6, 1)])
def test_the_curves_tell_what_the_rule_would_do(rule: EarlyExit):
    reranker = Rank1(device="cpu", dtype="float32", max_new_tokens=96)
    pairs = [(QUERY, passage) for passage in PASSAGES]
    exits = reranker.judge(pairs, rule=rule)
    for early, judgment in zip(exits, reranker.judge(pairs, trace=TraceOptions(belief="sentences")), strict=True):
        n_tokens, log_odds = leave(judgment, rule)
        assert n_tokens == early.n_chain_tokens
        assert log_odds == pytest.approx(early.log_odds, abs=1e-4)


def test_the_trade_off():
    reranker = Rank1(device="cpu", dtype="float32", max_new_tokens=96)
    judgments = reranker.judge([(QUERY, passage) for passage in PASSAGES], trace=TraceOptions(belief="sentences"))
    places = [("q", str(i)) for i in range(3)]
    plain, *others = trade_off(judgments, places, {"q": {"0": 1, "1": 0, "2": 0}})
    assert (plain.log_odds, plain.tokens, plain.changed) == (None, 1.0, 0.0)
    assert all(0 < outcome.tokens <= 1 for outcome in others)
    for n in (1, 2, 3):
        tokens = [outcome.tokens for outcome in others if outcome.sentences == n]
        assert tokens == sorted(tokens), "a higher threshold saves less"


def test_the_files_it_writes(tmp_path: Path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    output = tmp_path / "found"
    options = ["--queries", "1", "--top-k", "3", "--device", "cpu", "--max-new-tokens", "64", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["early_exit.py", *options])
    main()
    text = output.with_suffix(".md").read_text(encoding="utf-8")
    assert text == capsys.readouterr().out
    assert "| no early exit |  | 100.0% | 0.0% |" in text
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
