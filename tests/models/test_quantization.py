"""Quantized loading: what is quantized, how much memory it saves, how far it agrees, and what is refused."""

import gc
import importlib.util
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from bitsandbytes import functional
from torch import nn
from transformers import BitsAndBytesConfig

from rank1_hf import Rank1
from rank1_hf.decoding.packed import PackedLinear
from rank1_hf.files.beir import SAMPLE, read_beir
from rank1_hf.files.trec import read_run
from rank1_hf.models.loading import EMBEDDED_MODEL, load_model, open_checkpoint
from rank1_hf.models.quantization import quantization_config
from scripts.quantization_agreement import linear_bytes, measure, read_pairs, table

N_PAIRS = 16


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, object]]:
    """Real pairs, of several queries."""
    sample, run = read_beir(SAMPLE), read_run(SAMPLE / "bm25.trec")
    pairs = [(sample.queries[q], sample.corpus[d].passage) for q, candidates in run.items() for d in candidates]
    return pairs[:: len(pairs) // N_PAIRS][:N_PAIRS]


@pytest.fixture(scope="module")
def unquantized(pairs):
    return Rank1(device="cpu", dtype="bfloat16", max_new_tokens=64).judge(pairs)


@pytest.mark.parametrize(("quantization", "most"), [("8bit", 0.55), ("4bit", 0.32)])
def test_linear_layers_shrink_and_judgments_stay(pairs, unquantized, capfd, quantization: str, most: float) -> None:
    plain = load_model(open_checkpoint(), dtype="bfloat16", device="cpu")
    reranker = Rank1(device="cpu", dtype="bfloat16", max_new_tokens=64, quantization=quantization)
    assert linear_bytes(reranker.model) <= most * linear_bytes(plain)
    assert f"dtype='bfloat16', quantization={quantization!r}, " in repr(reranker)
    embedding, output = reranker.model.get_input_embeddings(), reranker.model.get_output_embeddings()
    assert embedding.weight.dtype == torch.bfloat16
    assert isinstance(output, nn.Linear | PackedLinear)
    assert next(output.parameters()).dtype == torch.bfloat16
    judgments = reranker.judge(pairs)
    assert all(judgment.error is None for judgment in judgments)
    agreement = sum(ours.label == theirs.label for ours, theirs in zip(judgments, unquantized, strict=True))
    assert agreement >= 0.8 * len(pairs)
    ours, theirs = (torch.tensor([j.log_odds for j in found]) for found in (judgments, unquantized))
    assert torch.corrcoef(torch.stack([ours.argsort().argsort(), theirs.argsort().argsort()]).float())[0, 1] > 0.8
    assert capfd.readouterr().err == "", "loading and judging say nothing"


@pytest.mark.parametrize(
    ("device", "capability", "expected"),
    [
        ("cpu", None, "bfloat16"),
        ("cuda", (9, 0), "bfloat16"),
        ("cuda", (8, 0), "bfloat16"),
        ("cuda", (7, 5), "float16"),
    ],
)
def test_products_are_computed_in_a_dtype_that_the_device_has(
    device: str, capability: tuple[int, int] | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    found = quantization_config("4bit", open_checkpoint().config, torch.device(device))
    assert isinstance(found, BitsAndBytesConfig)
    assert found.bnb_4bit_compute_dtype == getattr(torch, expected)
    assert (found.bnb_4bit_quant_type, found.bnb_4bit_use_double_quant) == ("nf4", True)


def full_precision_layers() -> list[torch.Tensor]:
    """The matrices of linear layers in bfloat16 that are alive; not the embedding, which stays as it is."""
    tensors = [one for one in gc.get_objects() if type(one) in (torch.Tensor, nn.Parameter)]
    return [one for one in tensors if one.dtype == torch.bfloat16 and one.dim() == 2 and one.shape[0] < 10_000]


@pytest.mark.parametrize(("quantization", "function"), [("4bit", "quantize_4bit"), ("8bit", "int8_vectorwise_quant")])
def test_loading_never_holds_the_unquantized_model(quantization: str, function: str, monkeypatch) -> None:
    before = {id(one) for one in full_precision_layers()}
    quantize, found = getattr(functional, function), []

    def spy(*arguments: object, **options: object) -> object:
        found.append(sum(not one.is_meta and id(one) not in before for one in full_precision_layers()))
        return quantize(*arguments, **options)

    monkeypatch.setattr(functional, function, spy)
    load_model(open_checkpoint(), dtype="bfloat16", device="cpu", quantization=quantization)
    assert len(found) == 4 * 7, "each layer's projections are quantized one by one"
    assert 1 <= max(found) <= 3, "of 28 there is one at a time, and views of it"


@pytest.mark.skipif("RANK1_SMOL" not in os.environ, reason="needs the checkpoint named by RANK1_SMOL")
def test_rank1_smol_shrinks_and_its_agreement_is_told(shared: Path) -> None:
    """All 96 reference pairs; about ten minutes on 2 cores."""
    workload, model = read_pairs(shared / "reference" / "official_fp32.jsonl"), os.environ["RANK1_SMOL"]
    forms = {"bfloat16": None, "8bit": "8bit", "4bit": "4bit"}
    measured = {
        name: measure(workload, model=model, dtype="bfloat16", quantization=kind) for name, kind in forms.items()
    }
    print(table(measured, "bfloat16"))
    plain = measured["bfloat16"]
    assert measured["8bit"].linear_bytes <= 0.55 * plain.linear_bytes
    assert measured["4bit"].linear_bytes <= 0.32 * plain.linear_bytes
    assert all(len(one.judgments) == 96 and all(j.error is None for j in one.judgments) for one in measured.values())


def test_a_config_of_transformers_is_taken_as_it_is() -> None:
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="fp4")
    model = load_model(open_checkpoint(), device="cpu", quantization=config)
    assert model.model.layers[0].mlp.up_proj.weight.quant_state.quant_type == "fp4"


@pytest.mark.parametrize("quantization", ["5bit", "", 4])
def test_an_unknown_kind_is_refused(quantization: object) -> None:
    with pytest.raises(ValueError, match="quantization must be '8bit', '4bit', a quantization config"):
        Rank1(quantization=quantization)


def test_without_bitsandbytes_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install 'bitsandbytes"):
        Rank1(quantization="4bit")


def test_a_quantized_checkpoint_is_not_quantized_again(tmp_path) -> None:
    folder = shutil.copytree(EMBEDDED_MODEL, tmp_path / "awq")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": "awq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match="quantized already"):
        Rank1(folder, quantization="4bit")
