"""`scripts/watching_cost.py`: what it takes out is what watches, and the table it prints. Nothing depends on speed."""

import re
import sys

import pytest

from rank1_hf import Rank1, TraceOptions
from scripts.watching_cost import WAYS, main, sample_pairs, table, taken_out


def test_the_loop_thinks_the_same_with_what_watches_taken_out():
    reranker = Rank1(device="cpu", dtype="float32", max_new_tokens=64)
    pairs = sample_pairs(3)
    plain = reranker.judge(pairs)
    with taken_out():
        assert reranker.judge(pairs) == plain
        blind = reranker.judge(pairs, trace=TraceOptions(belief="sentences"))
    assert not any(judgment.trace.belief for judgment in blind)
    assert all(judgment.trace.belief for judgment in reranker.judge(pairs, trace=TraceOptions(belief="sentences")))


def test_shares_are_of_the_plain_run_in_the_same_turn():
    text = table({"plain": [1.0, 2.0, 4.0], "other": [1.5, 2.0, 8.0]})
    assert "| plain | 1.000 (1.000-1.000) | 2.00 |" in text
    assert "| other | 1.500 (1.000-2.000) | 2.00 |" in text


def test_the_table_it_prints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    options = ["--pairs", "2", "--repeats", "1", "--device", "cpu", "--max-new-tokens", "32", "--cpu-time"]
    monkeypatch.setattr(sys, "argv", ["watching_cost.py", *options])
    main()
    printed = capsys.readouterr().out
    assert re.findall(r"^\| (\S.*?) \| \d", printed, re.MULTILINE) == list(WAYS)
    assert "2 pairs, 1 turns" in printed
