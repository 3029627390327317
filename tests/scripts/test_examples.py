"""Every example of scripts/examples runs offline on the embedded model, and says what it is there to say."""

import importlib
import re
from pathlib import Path

import pytest

EXAMPLES = {
    "watch_a_chain": r"closed: relevant True, log_odds [\d.]+\s+where the model was least sure.*alternative_text",
    "belief_curve": r"\(before thinking\).*\(the verdict\).*\d+ points, for \d+ more tokens",
    "layer_lens": r"layer   0  log_odds.*the verdict  log_odds.*is head \d+ of layer \d+:\n +[01]\.\d+  '",
    "counterfactual_chain": r"as it was thought.*without thinking.*without: \w.*other passage.*from the first sentence",
    "stop_rule": r"closed .*stopped .*tokens  '\\nThe passage",
}


def test_all_examples_are_here():
    names = (
        {path.stem for path in Path("scripts/examples").glob("*.py")} if Path("scripts/examples").is_dir() else set()
    )
    assert not names or names == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example(name: str, capsys: pytest.CaptureFixture[str]):
    if name == "watch_a_chain":
        pytest.importorskip("pyarrow")
        pytest.importorskip("pandas")
    importlib.import_module(f"scripts.examples.{name}").main()
    output = capsys.readouterr().out
    assert re.search(EXAMPLES[name], output, re.DOTALL), output
