"""Every example of scripts/examples runs offline on the embedded model, and says what it is there to say."""

import importlib
import re
from pathlib import Path

import pytest

EXAMPLES = {
    "ten_minutes": r"BM25 0\.\d+  reranked 0\.\d+.*-> .*Query words:.*after   0 tokens.*the verdict.*ten_minutes\.html",
    "watch_a_chain": r"closed: relevant True, log_odds [\d.]+\s+where the model was least sure.*alternative_text",
    "belief_curve": r"\(before thinking\).*\(the verdict\).*\d+ points, for \d+ more tokens",
    "layer_lens": r"layer   0  log_odds.*the verdict  log_odds.*is head \d+ of layer \d+:\n +[01]\.\d+  '",
    "counterfactual_chain": r"as it was thought.*without thinking.*without: \w.*other passage.*from the first sentence",
    "stop_rule": r"closed .*stopped .*tokens  '\\nThe passage",
    "sample_chains": r"greedy [01]\.\d+\n1[0-6] different chains of 16: [01]\.\d+ \+- 0\.\d+",
    "compare_quantizations": r"8bit\n.*-> .*: The wing.*4bit\n.*-> .*4bit\.html, 4bit\.svg",
    "plot_calibration": r"60 passages: the model says \d+% are relevant, the qrels say \d+%; see calibration\.svg",
}
WRITES = {
    "ten_minutes": ["ten_minutes.html"],
    "compare_quantizations": ["8bit.html", "8bit.svg", "4bit.html", "4bit.svg"],
    "plot_calibration": ["calibration.svg"],
}
NEEDS = {
    "ten_minutes": ["ir_measures"],
    "watch_a_chain": ["pyarrow", "pandas"],
    "compare_quantizations": ["bitsandbytes", "matplotlib"],
    "plot_calibration": ["matplotlib"],
}


def test_all_examples_are_here():
    folder = Path(__file__).parents[2] / "scripts" / "examples"
    assert {path.stem for path in folder.glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for module in NEEDS.get(name, []):
        pytest.importorskip(module)
    example = importlib.import_module(f"scripts.examples.{name}")
    monkeypatch.chdir(tmp_path)
    example.main()
    output = capsys.readouterr().out
    assert re.search(EXAMPLES[name], output, re.DOTALL), output
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(WRITES.get(name, []))
    assert all(path.read_text(encoding="utf-8") for path in tmp_path.iterdir())
