"""`scripts/bench.py` counts the same work for both. Nothing here depends on speed."""

import re
import runpy
import sys

import pytest

import rank1_hf
from tests.pages import ROOT


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """`bench(*arguments)`, as the script is run; what it prints: (label, tokens, chains) a line."""

    def run(*arguments: object) -> list[tuple[str, int, int]]:
        monkeypatch.setattr(sys, "argv", ["bench.py", *map(str, arguments)])
        runpy.run_path(str(ROOT / "scripts" / "bench.py"))
        pattern = r"(\S+) +\d+ tokens/s \((\d+) in (\d+) chains\)"
        lines = [re.fullmatch(pattern, line).groups() for line in capsys.readouterr().out.splitlines()]
        return [(label, int(n_tokens), int(n_chains)) for label, n_tokens, n_chains in lines]

    return run


@pytest.mark.parametrize("kind", ["qwen2", "pieces"])
def test_both_decode_the_same_chains(checkpoint, bench, kind: str):
    """In float32, as the small models are; one of them writes `</think>` in several tokens."""
    lines = bench(checkpoint(kind), 3, 12)
    assert [label for label, _, _ in lines] == ["rank1_hf", "generate()"] * 2
    ((n_tokens, n_chains),) = {(n_tokens, n_chains) for _, n_tokens, n_chains in lines}
    assert n_tokens > 0
    assert n_chains == 3


def test_it_runs_on_the_embedded_model_by_default(bench, monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(rank1_hf, "Rank1", lambda name, **options: asked.append((name, options)) or sys.exit())
    with pytest.raises(SystemExit):
        bench()
    assert asked == [(str(rank1_hf.EMBEDDED_MODEL), {"max_new_tokens": 256})]


def test_the_embedded_model(bench):
    assert {(n_tokens, n_chains) for _, n_tokens, n_chains in bench(rank1_hf.EMBEDDED_MODEL, 2, 8)} == {(16, 2)}


def test_it_says_how_it_is_run(bench):
    with pytest.raises(SystemExit, match=r"bench\.py \[MODEL \[PAIRS TOKENS\]\]"):
        bench("--help")


def test_it_fits_on_one_screen():
    assert len((ROOT / "scripts" / "bench.py").read_text(encoding="utf-8").splitlines()) <= 34
