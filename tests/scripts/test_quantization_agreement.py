"""`scripts/quantization_agreement.py`: what it reads, what it counts, and the table it prints."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rank1_hf import Judgment
from scripts.quantization_agreement import Measured, main, read_pairs, sample_pairs, table


def judgments(*log_odds: float) -> list[Judgment]:
    return [
        Judgment(index, 0.5, value, value > 0, f"chain {value}", 30, 5, "closed", False)
        for index, value in enumerate(log_odds)
    ]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_everything_is_counted_against_the_baseline():
    ours = judgments(1.0, -2.0, -3.0, 4.0)
    ours[3] = replace(ours[3], error="no verdict", label=None)
    others = {"bfloat16": Measured(judgments(1.0, 2.0, -3.0, 4.0), 1000), "4bit": Measured(ours, 270)}
    _, _, row = table(others, "bfloat16").splitlines()
    # Of the three pairs that both judged: ranks 1 2 3 there against 1 3 2 here; one of three neighbours is swapped.
    assert cells(row) == ["4bit", "0.270x", "2 of 3", "2 of 3", "0.500", "0.333"]


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_pairs_are_read_with_what_they_are_judged_with(tmp_path: Path, pack: Callable[[bytes], bytes]):
    lines = [
        {"query": "q", "passage": "p", "max_output_tokens": 8, "dataset_prompt": "is FILL_QUERY_HERE"},
        {"query": "q", "passage": "o", "max_output_tokens": 8, "dataset_prompt": None},
        {"query": "r", "passage": "p\u2028"},
        {"query": "s", "passage": "p", "max_output_tokens": 8, "dataset_prompt": "is FILL_QUERY_HERE"},
    ]
    text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (tmp_path / "pairs.jsonl").write_bytes(pack(text.encode()))
    assert read_pairs(tmp_path / "pairs.jsonl") == {
        (8, "is FILL_QUERY_HERE"): [("q", "p"), ("s", "p")],
        (8, None): [("q", "o")],
        (None, None): [("r", "p\u2028")],
    }
    assert len(sample_pairs(9)[9, None]) == 240


def test_it_prints_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    passages = ["The wing carries the aircraft.", "Bread is flour.", "A ship.", "An aircraft."]
    lines = [
        {"query": "what carries an aircraft", "passage": passage, "max_output_tokens": 24 + index % 2}
        for index, passage in enumerate(passages)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["", "--pairs", str(tmp_path / "pairs.jsonl"), "--device", "cpu"])
    main()
    header, _, *rows = capsys.readouterr().out.splitlines()
    assert cells(header)[0] == "against bfloat16"
    found = {cells(row)[0]: cells(row)[1:] for row in rows}
    assert list(found) == ["float32", "8bit", "4bit"]
    assert found["float32"][0] == "2.000x"
    assert 0.5 < float(found["8bit"][0].rstrip("x")) < 0.55
    assert 0.25 < float(found["4bit"][0].rstrip("x")) < 0.32
    for row in found.values():
        assert row[1] in ("3 of 4", "4 of 4"), "the embedded model is sure of such pairs"
