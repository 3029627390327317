"""Devices without bfloat16: what checkpoints are loaded in there, and how an overflow of float16 is named."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from rank1_hf import Rank1
from rank1_hf.models import dtypes, identity, loading
from rank1_hf.models import quantization as quantizing
from rank1_hf.models.loading import EMBEDDED_MODEL, CheckpointError, load_model, open_checkpoint

PAIR = ("what carries an aircraft", "The wing carries the aircraft.")


@pytest.fixture
def no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU be such a device."""
    for module in (dtypes, identity, loading, quantizing):
        monkeypatch.setattr(module, "has_bfloat16", lambda device: False)


@pytest.fixture
def bfloat16_checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "bfloat16"
    shutil.copytree(EMBEDDED_MODEL, folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: weight.bfloat16() for name, weight in weights.items()}, folder / "model.safetensors")
    set_config(folder, dtype="bfloat16")
    return folder


def set_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | changes
    config = {name: value for name, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize("says", ["config", "weights", "shards"])
@pytest.mark.usefixtures("no_bfloat16")
def test_a_bfloat16_checkpoint_is_loaded_as_float16_and_says_so(bfloat16_checkpoint: Path, says: str, caplog) -> None:
    folder = bfloat16_checkpoint
    if says != "config":
        set_config(folder, dtype=None, torch_dtype=None)
    if says == "shards":
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "model-00001-of-00001.safetensors")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    reranker = Rank1(folder, device="cpu", max_new_tokens=4)
    assert reranker.model.dtype == torch.float16
    assert caplog.text.count("loaded as float16") == 1
    assert reranker.judge([PAIR])[0].error is None


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.usefixtures("no_bfloat16")
def test_other_checkpoints_are_loaded_as_they_are(bfloat16_checkpoint: Path, dtype: str, caplog) -> None:
    folder = bfloat16_checkpoint
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: weight.to(getattr(torch, dtype)) for name, weight in weights.items()}, folder / "model.safetensors"
    )
    for says in (dtype, None):
        set_config(folder, dtype=says, torch_dtype=None)
        assert load_model(open_checkpoint(folder), device="cpu").dtype == getattr(torch, dtype)
    assert caplog.text == ""


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.usefixtures("no_bfloat16")
def test_a_dtype_that_is_asked_for_is_given(bfloat16_checkpoint: Path, dtype: str, caplog) -> None:
    assert load_model(open_checkpoint(bfloat16_checkpoint), device="cpu", dtype=dtype).dtype == getattr(torch, dtype)
    assert ("emulates it" in caplog.text) == (dtype == "bfloat16")


@pytest.mark.usefixtures("no_bfloat16")
def test_the_dtype_that_takes_the_place_of_bfloat16_is_known_before_loading(bfloat16_checkpoint: Path, caplog) -> None:
    assert identity.substituted_dtype(bfloat16_checkpoint, device="cpu") == torch.float16
    assert caplog.text == "", "it is said when the checkpoint is loaded"
    set_config(bfloat16_checkpoint, dtype="float32", torch_dtype=None)
    assert identity.substituted_dtype(bfloat16_checkpoint, device="cpu") is None


def test_devices_with_bfloat16_keep_it(bfloat16_checkpoint: Path, caplog) -> None:
    assert identity.substituted_dtype(bfloat16_checkpoint, device="cpu") is None
    assert load_model(open_checkpoint(bfloat16_checkpoint), device="cpu").dtype == torch.bfloat16
    assert caplog.text == ""


@pytest.mark.parametrize("given", ["4bit", "config", "checkpoint"])
@pytest.mark.usefixtures("no_bfloat16")
def test_4_bit_products_are_float16_too(bfloat16_checkpoint: Path, given: str, tmp_path: Path, monkeypatch) -> None:
    """Also where a config, of the user or of a quantized checkpoint, says bfloat16."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    folder = bfloat16_checkpoint
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16, llm_int8_skip_modules=["lm_head"]
    )
    if given == "checkpoint":
        quantized = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, dtype=torch.bfloat16)
        quantized.save_pretrained(tmp_path / "quantized")
        for file in folder.glob("tokenizer*"):
            shutil.copy(file, tmp_path / "quantized")
        folder = tmp_path / "quantized"
    multiplied: set[torch.dtype] = set()
    multiply = bitsandbytes.matmul_4bit

    def spy(states: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        multiplied.add(states.dtype)
        return multiply(states, *arguments, **options)

    monkeypatch.setattr(bitsandbytes, "matmul_4bit", spy)
    quantization = {"4bit": "4bit", "config": config, "checkpoint": None}[given]
    reranker = Rank1(folder, device="cpu", quantization=quantization, max_new_tokens=4)
    assert reranker.judge([PAIR])[0].error is None
    assert multiplied == {torch.float16}


def test_weights_beyond_float16_are_named(bfloat16_checkpoint: Path) -> None:
    weights = load_file(bfloat16_checkpoint / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"][3, 4] = 1e5
    save_file(weights, bfloat16_checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.layers\.2\.mlp\.up_proj\.weight.*float16.*dtype='float32'"):
        load_model(open_checkpoint(bfloat16_checkpoint), device="cpu", dtype="float16")


@pytest.mark.parametrize("given", ["8bit", "4bit", BitsAndBytesConfig(load_in_4bit=True), None])
def test_an_old_bitsandbytes_is_refused(bfloat16_checkpoint: Path, given: object, monkeypatch) -> None:
    monkeypatch.setattr(quantizing, "version", lambda name: "0.49.2")
    if given is None:
        set_config(bfloat16_checkpoint, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(ValueError, match=r"bitsandbytes 0\.50 or newer, and 0\.49\.2 is installed"):
        Rank1(bfloat16_checkpoint, device="cpu", quantization=given)


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_a_float16_overflow_is_named_with_its_layer(layer: int) -> None:
    """Each layer's output is added to what it got: this one's is beyond 65,504."""
    reranker = Rank1(device="cpu", dtype="float16", max_new_tokens=4)
    down = reranker.model.model.layers[layer].mlp.down_proj
    down.register_forward_hook(lambda module, inputs, output: output + 1e6)
    (judgment,) = reranker.judge([PAIR])
    assert f"float16, which ends at 65,504, overflowed in layer {layer} " in judgment.error
    assert "'float32'" in judgment.error


def test_what_is_not_finite_in_another_dtype_is_no_overflow() -> None:
    reranker = Rank1(device="cpu", dtype="float32", max_new_tokens=4)
    reranker.model.model.layers[1].mlp.down_proj.register_forward_hook(
        lambda module, inputs, output: output * torch.nan
    )
    (judgment,) = reranker.judge([PAIR])
    assert "not finite" in judgment.error
    assert "overflow" not in judgment.error
