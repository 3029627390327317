"""Checkpoints: what loads, and what is said about one that does not."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from transformers import BitsAndBytesConfig, BloomConfig, CLIPConfig, Phi3Config, PreTrainedModel, T5Config

from rank1_hf import Rank1
from rank1_hf.models import loading
from rank1_hf.models.devices import n_bytes, resolve_device, resolve_dtype
from rank1_hf.models.loading import (
    Checkpoint,
    CheckpointError,
    context_length,
    eos_ids,
    load_model,
    open_checkpoint,
)
from rank1_hf.prompts.prompt import PromptEncoder
from rank1_hf.reranking import model_source
from tests import tiny_models


@pytest.fixture
def folder(checkpoint, tmp_path) -> Path:
    """A good checkpoint, free to be spoilt."""
    return Path(shutil.copytree(checkpoint("qwen2"), tmp_path / "model"))


@dataclass
class Loaded:
    checkpoint: Checkpoint
    model: PreTrainedModel

    @property
    def eos(self) -> frozenset[int]:
        return eos_ids(self.model, self.checkpoint.tokenizer)


def load(path: Path | str, **options: object) -> Loaded:
    checkpoint = open_checkpoint(path)
    return Loaded(checkpoint, load_model(checkpoint, **options))


def edit_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | changes), encoding="utf-8")


class TestGood:
    @pytest.mark.parametrize("kind", tiny_models.TOKENIZERS)
    def test_every_family(self, checkpoint, kind):
        loaded = load(checkpoint(kind), device="cpu")
        assert type(loaded.model).__name__.lower().startswith(loaded.model.config.model_type)
        assert not loaded.model.training
        assert context_length(loaded.checkpoint.config) == 2048
        assert loaded.eos == {loaded.checkpoint.tokenizer.eos_token_id}
        assert PromptEncoder(loaded.checkpoint.tokenizer).encode("wings", "air").ids

    def test_a_folder_named_by_a_string(self, folder):
        assert load(str(folder), device="cpu").model.config.model_type == "qwen2"

    def test_dtype_is_the_checkpoints_own_unless_given(self, checkpoint, tmp_path):
        fast = tiny_models.build_tokenizer("qwen2")
        fast.save_pretrained(tmp_path)
        tiny_models.build_model("qwen2", fast).to(torch.bfloat16).save_pretrained(tmp_path)
        assert load(tmp_path, device="cpu").model.dtype == torch.bfloat16
        assert load(tmp_path, device="cpu", dtype="float32").model.dtype == torch.float32
        assert load(checkpoint("qwen2"), device="cpu").model.dtype == torch.float32
        assert load(checkpoint("qwen2"), device="cpu", dtype=torch.float16).model.dtype == torch.float16

    def test_eos_of_tokenizer_and_generation_config(self, folder):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [601, 602]}))
        loaded = load(folder, device="cpu")
        assert loaded.eos == {loaded.checkpoint.tokenizer.eos_token_id, 601, 602}
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 601}))
        assert load(folder, device="cpu").eos == {loaded.checkpoint.tokenizer.eos_token_id, 601}

    def test_the_context_of_longrope_is_where_its_frequencies_change(self):
        rope = {"rope_type": "longrope", "short_factor": [1.0] * 48, "long_factor": [4.0] * 48, "rope_theta": 1e4}
        config = Phi3Config(max_position_embeddings=131072, original_max_position_embeddings=4096, rope_parameters=rope)
        assert context_length(config) == 4096

    def test_context_is_unknown_where_the_config_does_not_say(self):
        assert context_length(T5Config()) is None


class TestBad:
    def test_no_such_folder(self, tmp_path):
        with pytest.raises(
            CheckpointError, match=r"there is no folder .*nowhere; give an existing folder or a hub name"
        ):
            load(tmp_path / "nowhere")
        with pytest.raises(CheckpointError, match="there is no folder nowhere;"):
            load("./nowhere")

    def test_a_hub_name_that_cannot_be_fetched(self):
        with pytest.raises(CheckpointError, match="cannot load the config of no-such-user/no-such-model"):
            load("no-such-user/no-such-model")

    def test_a_file(self, folder):
        with pytest.raises(CheckpointError, match=r"config\.json is a file; give the checkpoint's folder"):
            load(folder / "config.json")

    def test_no_config(self, folder):
        (folder / "config.json").unlink()
        with pytest.raises(CheckpointError, match=r"has no config\.json"):
            load(folder)

    @pytest.mark.parametrize("content", ["{", "", b"\xff\xfe\x00"])
    def test_broken_config(self, folder, content):
        (folder / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(CheckpointError, match=r"config\.json is not valid JSON"):
            load(folder)

    @pytest.mark.parametrize("content", ["[]", "{}", '"qwen2"', '{"model_type": "no-such-architecture"}'])
    def test_config_of_nothing(self, folder, content):
        (folder / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"cannot load the config of .*model"):
            load(folder)

    def test_pickled_weights(self, folder):
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        with pytest.raises(
            CheckpointError, match=r"no safetensors weights \(found pytorch_model\.bin.*save_pretrained"
        ):
            load(folder)

    def test_pickled_weights_beside_other_safetensors(self, folder):
        (folder / "model.safetensors").rename(folder / "adapter.safetensors")
        torch.save(
            tiny_models.build_model("qwen2", open_checkpoint(folder).tokenizer).state_dict(),
            folder / "pytorch_model.bin",
        )
        with pytest.raises(CheckpointError, match="cannot load the weights of"):
            load(folder)

    def test_pickled_weights_are_read_where_that_is_asked_for(self, folder):
        expected = load(folder, device="cpu").model.state_dict()
        (folder / "model.safetensors").unlink()
        torch.save(expected, folder / "pytorch_model.bin")
        with pytest.raises(CheckpointError, match="or give allow_pickles=True"):
            Rank1(folder)
        loaded = Rank1(folder, device="cpu", dtype="float32", allow_pickles=True).model
        embedding = loaded.get_input_embeddings().weight
        assert torch.equal(embedding, expected["model.embed_tokens.weight"])

    def test_no_weights(self, folder):
        (folder / "model.safetensors").unlink()
        with pytest.raises(CheckpointError, match=r"no safetensors weights; save it again"):
            load(folder)

    def test_truncated_weights(self, folder):
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(CheckpointError, match="cannot load the weights of"):
            load(folder)

    def test_weights_of_another_shape(self, folder):
        edit_json(folder / "config.json", intermediate_size=96)
        with pytest.raises(CheckpointError, match="cannot load the weights of"):
            load(folder)

    def test_weights_that_lack_a_layer(self, folder):
        """Layers that are missing from the file would be filled with random numbers."""
        layers = json.loads((folder / "config.json").read_text())["layer_types"]
        edit_json(folder / "config.json", num_hidden_layers=3, layer_types=[*layers, layers[-1]])
        with pytest.raises(CheckpointError, match=r"model\.layers\.2\."):
            load(folder)

    def test_no_tokenizer(self, folder):
        for file in folder.glob("tokenizer*"):
            file.unlink()
        with pytest.raises(CheckpointError, match=r"has no tokenizer .*tokenizer\.save_pretrained"):
            load(folder)

    def test_broken_tokenizer(self, folder):
        (folder / "tokenizer.json").write_text("{")
        with pytest.raises(CheckpointError, match="cannot load the tokenizer of"):
            open_checkpoint(folder)

    @pytest.mark.parametrize("config", [T5Config(), CLIPConfig()], ids=["t5", "clip"])
    def test_not_a_causal_lm(self, folder, config):
        config.save_pretrained(folder)
        with pytest.raises(CheckpointError, match=f"{config.model_type}.* not a causal language model.*rank1-7b"):
            load(folder)

    def test_a_causal_lm_with_attention_of_its_own(self, folder):
        BloomConfig().save_pretrained(folder)
        with pytest.raises(CheckpointError, match="BloomForCausalLM does not use Transformers' attention interface"):
            open_checkpoint(folder)


def test_the_hub_s_bars_are_left_to_a_download_where_they_are_wanted():
    """`--quiet` and huggingface_hub's own switch turn them off."""
    try:
        for is_off in (True, False):
            (disable_progress_bars if is_off else enable_progress_bars)()
            with loading._only_errors(shows_bars=True):
                assert are_progress_bars_disabled() == is_off
            with loading._only_errors():
                assert are_progress_bars_disabled()
            assert are_progress_bars_disabled() == is_off
    finally:
        enable_progress_bars()


class TestArguments:
    @pytest.mark.parametrize("dtype", ["int8", "float64", torch.float64, "fp8", 16])
    def test_no_such_dtype(self, dtype):
        with pytest.raises(ValueError, match="dtype must be one of float32, float16, bfloat16 or None"):
            resolve_dtype(dtype)

    @pytest.mark.parametrize("dtype", ["bfloat16", "torch.bfloat16", torch.bfloat16])
    def test_dtype_names(self, dtype):
        assert resolve_dtype(dtype) == torch.bfloat16
        assert resolve_dtype(None) is None
        assert resolve_dtype("auto") is None

    def test_no_such_device(self):
        with pytest.raises(ValueError, match="'gpu' is not a device; use 'cuda'"):
            resolve_device("gpu")

    def test_a_device_that_is_not_here(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        for device in ("cuda", "cuda:1", "mps", torch.device("mps")):
            with pytest.raises(ValueError, match="is not available on this machine; leave device out"):
                resolve_device(device)

    def test_a_device_is_chosen(self, monkeypatch):
        for cuda, mps, chosen in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
            monkeypatch.setattr(torch.cuda, "is_available", lambda here=cuda: here)
            monkeypatch.setattr(torch.backends.mps, "is_available", lambda here=mps: here)
            assert resolve_device(None).type == chosen

    def test_bad_arguments_are_named_before_anything_is_loaded(self, tmp_path):
        with pytest.raises(ValueError, match="dtype must be one of"):
            Rank1(tmp_path / "nowhere", dtype="int8")

    def test_what_is_wrong_with_the_rest_is_said_before_weights_are_read(self, folder, monkeypatch):
        monkeypatch.setattr(model_source, "load_model", lambda *args, **options: pytest.fail("weights were read"))
        with pytest.raises(ValueError, match="FILL_QUERY_HERE"):
            Rank1(folder, prompt_template="no place for the query")
        with pytest.raises(ValueError, match="max_new_tokens=5000 does not fit"):
            Rank1(folder, max_new_tokens=5000)


class TestDevices:
    @pytest.mark.parametrize("arguments", [{"device_map": {"": 99}}, {"max_memory": {99: "1GiB", "cpu": "1GiB"}}])
    def test_a_gpu_that_is_not_here(self, checkpoint, arguments):
        with pytest.raises(ValueError, match="there is no GPU 99 for device_map or max_memory: this machine has"):
            Rank1(checkpoint("qwen2"), **arguments)

    def test_memory_is_bytes_however_its_unit_is_written(self):
        """accelerate takes "20mb" for 20 million bits."""
        for size in (
            20 * 10**6,
            np.int64(20 * 10**6),
            20e6,
            "20MB",
            "20mb",
            "20 Mb",
            "0.02gb",
            "20000KB",
            "20000000 B",
        ):
            assert n_bytes(size) == 20 * 10**6
        for size in (3 * 2**29, "1.5GiB", "1.5gib", " 1536 MIB "):
            assert n_bytes(size) == 3 * 2**29
        for size in ("20", "GiB", "ten GB", "-1GB", "1e9", "", "20ib", -1, 0.5, float("nan"), True, None, [1]):
            with pytest.raises(ValueError, match="is not a size of memory: give a whole number of bytes"):
                n_bytes(size)

    @pytest.mark.parametrize("unit", ["kb", "KB", "Kb"])
    def test_layers_are_placed_by_bytes_and_what_was_given_stays_as_it_is(self, checkpoint, unit):
        opened = open_checkpoint(checkpoint("qwen2"))
        n_there = sum(weight.nbytes for weight in load_model(opened, device="cpu").parameters())
        limits = {"cpu": f"{n_there * 0.7 / 1000:.0f}{unit}"}
        given = dict(limits)
        of_bytes = load_model(opened, max_memory={"cpu": int(n_there * 0.7 / 1000) * 1000})
        assert load_model(opened, max_memory=given).hf_device_map == of_bytes.hf_device_map
        assert "disk" in of_bytes.hf_device_map.values()
        assert "cpu" in of_bytes.hf_device_map.values()
        assert given == limits

    def test_a_device_map_and_a_quantization_config_stay_as_they_are(self, checkpoint):
        given, config = {"": "cpu"}, BitsAndBytesConfig(load_in_4bit=True)
        before = config.to_dict()
        load_model(open_checkpoint(checkpoint("qwen2")), device_map=given, quantization=config)
        assert given == {"": "cpu"}
        assert config.to_dict() == before

    @pytest.mark.parametrize("limits", [{"cpu": "20"}, {"cpu": None}, "20GiB", ["1GiB"]])
    def test_memory_that_is_none_is_said_before_weights_are_read(self, checkpoint, limits, monkeypatch):
        read = "rank1_hf.models.loading.AutoModelForCausalLM.from_pretrained"
        monkeypatch.setattr(read, lambda *args, **options: pytest.fail("weights were read"))
        with pytest.raises(ValueError, match=r"max_memory (of .cpu.: .* is not a size|must say how much)"):
            Rank1(checkpoint("qwen2"), max_memory=limits)

    def test_a_device_that_is_none(self, checkpoint):
        with pytest.raises(ValueError, match="'gpu' is not a device"):
            Rank1(checkpoint("qwen2"), device_map={"": "gpu"})


def test_a_checkpoint_in_a_subfolder_is_loaded(checkpoint, tmp_path):
    shutil.copytree(checkpoint("qwen2"), tmp_path / "inner" / "model")
    opened = open_checkpoint(tmp_path, subfolder="inner/model")
    model, expected = load_model(opened, device="cpu"), load_model(open_checkpoint(checkpoint("qwen2")), device="cpu")
    assert torch.equal(model.get_output_embeddings().weight, expected.get_output_embeddings().weight)
    with pytest.raises(CheckpointError, match="no folder"):
        open_checkpoint(tmp_path, subfolder="other")


def test_sharded_weights_are_loaded(checkpoint, tmp_path):
    whole = load_model(open_checkpoint(checkpoint("llama")), device="cpu")
    shutil.copytree(checkpoint("llama"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").unlink()
    whole.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    sharded = load_model(open_checkpoint(tmp_path), device="cpu")
    for name, weight in whole.state_dict().items():
        assert torch.equal(sharded.state_dict()[name], weight)
