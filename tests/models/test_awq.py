"""AWQ checkpoints: what they become, what they say, and what is said where their kernels are missing."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from rank1_hf import CheckpointError, Rank1
from rank1_hf.commands.cli import app
from rank1_hf.decoding.packed import PackedLinear
from rank1_hf.files.beir import SAMPLE, read_beir
from rank1_hf.files.trec import read_run
from rank1_hf.models.loading import EMBEDDED_MODEL, load_model, open_checkpoint
from tests import tiny_models

needs_kernels = pytest.mark.skipif(importlib.util.find_spec("gptqmodel") is None, reason="needs rank1-hf[awq]")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """rank1-tiny as an AWQ checkpoint, and with the same weights written out."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_models.save_awq_checkpoint(EMBEDDED_MODEL, folder / "awq", folder / "plain")
    return folder / "awq", folder / "plain"


class TestWithoutTheKernels:
    @pytest.fixture(autouse=True)
    def _no_kernels(self, monkeypatch: pytest.MonkeyPatch):
        find, read = importlib.util.find_spec, "rank1_hf.models.loading.AutoModelForCausalLM.from_pretrained"
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gptqmodel" else find(name))
        monkeypatch.setattr(read, lambda *args, **options: pytest.fail("weights were read"))

    def test_the_extra_is_named_before_weights_are_read(self, tiny):
        with pytest.raises(CheckpointError, match=r"awq has AWQ weights.* pip install 'rank1-hf\[awq\]'"):
            Rank1(tiny[0], device="cpu")
        result = CliRunner().invoke(app, ["rerank", "wings", "air", "--model", str(tiny[0])])
        assert result.exit_code == 3
        assert "rank1-hf[awq]" in result.stderr

    def test_a_checkpoint_can_be_looked_at(self, tiny):
        result = CliRunner().invoke(app, ["info", str(tiny[0])])
        assert result.exit_code == 0
        assert "awq" in result.stdout

    def test_it_is_not_quantized_again(self, tiny):
        with pytest.raises(ValueError, match="quantized already"):
            Rank1(tiny[0], quantization="4bit")


@needs_kernels
@pytest.mark.parametrize("dtype", [None, "bfloat16", "float32"])
def test_it_judges_as_the_weights_that_it_stands_for(tiny, dtype: str | None, capfd):
    sample, run = read_beir(SAMPLE), read_run(SAMPLE / "bm25.trec")
    pairs = [(sample.queries[q], sample.corpus[d].passage) for q, found in run.items() for d in list(found)[:2]]
    ours, theirs = (Rank1(folder, device="cpu", dtype=dtype, max_new_tokens=96) for folder in tiny)
    judgments = ours.judge(pairs)
    assert capfd.readouterr() == ("", ""), "loading and judging say nothing"
    assert ours.model.dtype == (torch.float16 if dtype is None else getattr(torch, dtype))
    both = list(zip(judgments, theirs.judge(pairs), strict=True))
    assert sum(one.label == other.label for one, other in both) >= 0.9 * len(pairs)
    # On a CPU the kernels compute in bfloat16, whatever the dtype.
    assert sum(one.chain == other.chain for one, other in both) >= 0.7 * len(pairs)


@needs_kernels
@pytest.mark.parametrize("kind", ["qwen2", "llama", "mistral"])
def test_the_layers_between_are_quantized_and_no_others(checkpoint: Callable[..., Path], tmp_path: Path, kind: str):
    awq, plain = tmp_path / "awq", tmp_path / "plain"
    tiny_models.save_awq_checkpoint(checkpoint(kind), awq, plain)
    reranker = Rank1(awq, device="cpu", dtype="float32", max_new_tokens=8)
    model, whole = reranker.model, load_model(open_checkpoint(plain), device="cpu", dtype="float32")
    assert isinstance(model.get_output_embeddings(), nn.Linear | PackedLinear)
    assert torch.equal(model.get_input_embeddings().weight, whole.get_input_embeddings().weight)
    for name in ("mlp.up_proj", "mlp.gate_proj", "self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj"):
        for ours, theirs in zip(model.model.layers, whole.model.layers, strict=True):
            layer, expected = ours.get_submodule(name), theirs.get_submodule(name)
            assert not isinstance(layer, nn.Linear | PackedLinear)
            states = torch.randn(5, expected.in_features)
            products = expected(states).detach()
            largest = products.abs().max().item()
            torch.testing.assert_close(layer(states).float(), products, rtol=0.02, atol=0.02 * largest)
    assert all(judgment.error is None for judgment in reranker.judge([("wings", "air"), ("wings", "bread")]))
