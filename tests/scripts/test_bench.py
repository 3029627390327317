"""`scripts/bench.py` counts the same work for both. Nothing here depends on speed."""

import re

import pytest

from scripts import bench


@pytest.mark.parametrize("kind", ["qwen2", "pieces"])
def test_both_decode_the_same_chains(checkpoint, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch):
    """In float32, as the small models are; one of them writes `</think>` in several tokens."""
    monkeypatch.setattr(bench, "N_PAIRS", 3)
    monkeypatch.setattr(bench, "MAX_NEW_TOKENS", 12)
    bench.main(str(checkpoint(kind)))
    ours, theirs = capsys.readouterr().out.splitlines()
    pattern = r"(\S+) +\d+ tokens/s \((\d+) tokens in 3 chains\)"
    (name, n_ours), (peer, n_theirs) = (re.fullmatch(pattern, line).groups() for line in (ours, theirs))
    assert (name, peer) == ("rank1_hf", "generate()")
    assert n_ours == n_theirs != "0"


def test_it_runs_on_the_embedded_model_by_default(capsys: pytest.CaptureFixture[str], monkeypatch):
    monkeypatch.setattr(bench, "N_PAIRS", 2)
    monkeypatch.setattr(bench, "MAX_NEW_TOKENS", 8)
    bench.main()
    assert capsys.readouterr().out.count("(16 tokens in 2 chains)") == 2
