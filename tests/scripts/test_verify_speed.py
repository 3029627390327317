"""`scripts/verify_speed.py`: it times both, and what it verifies agrees."""

import json
import sys

import pytest

from scripts.verify_speed import main


def test_both_are_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", ["verify_speed.py", "--pairs", "2", "--max-new-tokens", "64"])
    main()
    measured = json.loads(capsys.readouterr().out)
    assert (measured["pairs"], measured["agree"]) == (2, 2)
    assert measured["times_as_fast"] == pytest.approx(
        measured["decoding_seconds"] / measured["verifying_seconds"], rel=0.2
    )
