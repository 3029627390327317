"""Every example of scripts/examples runs offline on the embedded model, and says what it is there to say."""

import importlib
import os
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "scripts" / "examples"
EXAMPLES = {
    "ten_minutes": r"BM25 0\.\d+  reranked 0\.\d+.*-> .*Query words:.*after   0 tokens.*the verdict.*ten_minutes\.html",
    "watch_a_chain": r"closed: relevant True, log_odds [\d.]+\s+where the model was least sure.*alternative_text",
    "belief_curve": r"\(before thinking\).*\(the verdict\).*\d+ points, for \d+ more tokens",
    "layer_lens": r"layer   0  log_odds.*the verdict  log_odds.*is head \d+ of layer \d+:\n +[01]\.\d+  '",
    "counterfactual_chain": r"as it was thought.*without thinking.*without: \w.*other passage.*from the first sentence",
    "stop_rule": r"closed .*stopped .*tokens  '\\nThe passage",
    "sample_chains": r"greedy [01]\.\d+\n([2-9]|1[0-6]) different chains of 16: [01]\.\d+ \+- 0\.\d+",
    "hidden_states": r"layer 2: \d\d states; the largest turns.*\n +-?[01]\.\d+  '",
    "true_false_logits": r"(true +\S+  false +\S+  log-odds +\S+  '.+'\n){20}.* log-odds +6\.\d+  '\(the verdict\)'\n"
    r".* 0\.998 true ",
    "logits_processor": r"as it is .*\nforbidden .*\nno repeats .*\nthe first one is as it was: True",
    "minimal_thinking": r"no thinking .* 0 tokens, 0 times Wait.*at least 40 +\S+ +[4-9]\d tokens, [1-9] times Wait",
    "replay_chain": r"-0\.\d+ a token  'Query.*-1\d\.\d+ a token.*would have said .* in the place of .*closed by force",
    "steer_a_layer": r"-0\.5( +-?[\d.]+){2}\n0\.0( +-?[\d.]+){2}\n0\.5( +-?[\d.]+){2}\n",
    "forced_close": r"official .*budget: '.*as it is .*budget: '.*with words .*budget: '",
    "draw_plots": r"to look at: lengths\.svg beliefs\.svg agreement\.svg",
    "compare_quantizations": r"8bit\n.*-> .*: The wing.*4bit\n.*-> .*4bit\.html, 4bit\.svg",
    "plot_calibration": r"\d\d passages: the model says \d+% are relevant, the qrels say \d+%; see calibration\.svg",
}
WRITES = {
    "ten_minutes": ["ten_minutes.html"],
    "compare_quantizations": ["8bit.html", "8bit.svg", "4bit.html", "4bit.svg"],
    "plot_calibration": ["calibration.svg"],
    "draw_plots": ["lengths.svg", "beliefs.svg", "agreement.svg"],
}
NEEDS = {
    "ten_minutes": ["ir_measures"],
    "watch_a_chain": ["pyarrow", "pandas"],
    "compare_quantizations": ["bitsandbytes", "matplotlib"],
    "plot_calibration": ["matplotlib"],
    "draw_plots": ["matplotlib"],
}


def test_all_examples_are_here():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short_and_the_readme_has_a_line_for_it(name: str):
    assert len((FOLDER / f"{name}.py").read_text(encoding="utf-8").splitlines()) < 40
    readme = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    assert len(re.findall(rf"^\| \[{name}\.py\]\(examples/{name}\.py\) \| .+ \|$", readme, re.MULTILINE)) == 1


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for module in NEEDS.get(name, []):
        pytest.importorskip(module)
    example = importlib.import_module(f"scripts.examples.{name}")
    if name == "plot_calibration" and "RANK1_SLOW" not in os.environ:
        monkeypatch.setattr(example, "PER_QUERY", 1)
    monkeypatch.chdir(tmp_path)
    example.main()
    output = capsys.readouterr().out
    assert re.search(EXAMPLES[name], output, re.DOTALL), output
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(WRITES.get(name, []))
    assert all(path.read_text(encoding="utf-8") for path in tmp_path.iterdir())
    if name == "steer_a_layer":  # all verdicts move to where they are steered
        strengths_and_verdicts = zip(*(map(float, line.split()) for line in output.splitlines()), strict=True)
        assert all(list(column) == sorted(set(column)) for column in strengths_and_verdicts)
