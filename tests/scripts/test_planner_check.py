"""The planner against what models take while they judge: weights, KV cache and the largest step."""

import json
from pathlib import Path

import pytest
import torch

from scripts.planner_check import SHAPES, Checked, check, main, peak_bytes, table
from tests import tiny_models


def test_peak_is_of_what_was_alive_together():
    def work() -> None:
        for _ in range(3):
            one = torch.ones(1000)
            two = one.view(10, 100) + 1
            two += 1
            del one, two
        torch.ones(10)

    there_before = torch.ones(5000)
    assert peak_bytes(torch.device("cpu"), work) == 8000
    assert peak_bytes(torch.device("cpu"), lambda: there_before.add_(1).view(-1)[:3]) == 0


@pytest.mark.parametrize(
    ("kind", "dtype"), [("qwen2", torch.float32), ("llama", torch.bfloat16), ("mistral", torch.float32)]
)
def test_what_is_planned_is_within_a_tenth_of_what_is_taken(kind: str, dtype: torch.dtype):
    tokenizer = tiny_models.build_tokenizer(kind)
    sizes = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 8}
    model = tiny_models.build_model(kind, tokenizer, **sizes, max_position_embeddings=8192).to(dtype)
    checked = check(kind, model, tokenizer, n_pairs=6, kv_cache_tokens=3_200, chain_tokens=4)
    assert checked.planned_weights == checked.measured_weights
    assert abs(checked.error) < 0.1


def test_the_embedded_model_is_checked_and_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    sizes = ["--device", "cpu", "--pairs", "10", "--chain-tokens", "8", "--kv-cache-tokens", "1280"]
    monkeypatch.setattr("sys.argv", ["", "--output", str(tmp_path / "report"), *sizes])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    (row,) = json.loads((tmp_path / "report" / "planner.json").read_text())
    assert abs(row["error"]) < 0.1
    assert (tmp_path / "report" / "planner.md").read_text().strip().endswith(capsys.readouterr().out.strip())


def test_the_table():
    *_, row = table([Checked("big", 2**30, 2**30, 3 * 2**29, 2**31)]).splitlines()
    assert row == "| big | 1.000 | 1.000 | 1.500 | 2.000 | -25.0% |"
    assert {"qwen2.5-7b", "qwen2.5-14b"} <= set(SHAPES)
