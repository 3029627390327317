"""Hostile checkpoint folders: an error that names the trouble, at once, and no code of theirs is run."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rank1_hf.models.loading import EMBEDDED_MODEL, CheckpointError, load_model, open_checkpoint

CODE = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\nclass Evil:\n    pass\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a good checkpoint."""
    return shutil.copytree(EMBEDDED_MODEL, tmp_path / "checkpoint")


def edit(file: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")


def load(folder: Path) -> None:
    load_model(open_checkpoint(folder), device="cpu")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("model_type", ["qwen2", "unheard-of"])
def test_code_of_its_own_is_refused_and_never_run(folder: Path, file: str, model_type: str) -> None:
    (folder / "evil.py").write_text(CODE)
    classes = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")
    auto_map = {name: ["evil.Evil", "evil.Evil"] if name == "AutoTokenizer" else "evil.Evil" for name in classes}
    edit(folder / file, lambda content: content.update(auto_map=auto_map))
    edit(folder / "config.json", lambda content: content.update(model_type=model_type))
    with pytest.raises(CheckpointError, match=rf"asks for code of its own \(auto_map in {file}\), .* never runs"):
        load(folder)
    assert not (folder / "ran").exists()


def test_a_tokenizer_class_that_transformers_lacks_is_refused(folder: Path) -> None:
    (folder / "evil.py").write_text(CODE)
    edit(folder / "tokenizer_config.json", lambda content: content.update(tokenizer_class="Evil"))
    with pytest.raises(
        CheckpointError, match=r"tokenizer_config\.json names the class 'Evil', which Transformers does"
    ):
        load(folder)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("known", ["Qwen2Tokenizer", "Qwen2TokenizerFast", "PreTrainedTokenizerFast", None])
def test_the_classes_of_transformers_are_taken(folder: Path, known: str | None) -> None:
    edit(folder / "tokenizer_config.json", lambda content: content.update(tokenizer_class=known))
    assert open_checkpoint(folder).tokenizer.is_fast


class Touch:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("allow_pickles", [False, True])
def test_a_pickle_runs_no_code(folder: Path, allow_pickles: bool) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Touch(folder / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="holds more than tensors" if allow_pickles else "found pytorch_model"):
        load_model(open_checkpoint(folder, allow_pickles=allow_pickles), device="cpu")
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/outside.safetensors", "sub/x.safetensors", "x.bin", ".."]
)
def test_an_index_names_files_of_its_folder_only(folder: Path, name: str) -> None:
    shutil.copy(folder / "model.safetensors", folder.parent / "outside.safetensors")
    (folder / "model.safetensors").rename(folder / "shard.safetensors")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="not a safetensors file of its own folder"):
        load(folder)


@pytest.mark.parametrize("index", ["{}", "[]", "no json", '{"weight_map": ["a"]}'])
def test_a_broken_index_is_named(folder: Path, index: str) -> None:
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"index\.json is not an index"):
        load(folder)


def test_a_shard_that_is_missing_is_named(folder: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"lacks model-00001-of-00002\.safetensors"):
        load(folder)


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def endless_header(content: bytes) -> bytes:
    return struct.pack("<Q", 2**62) + content[8:]


def lying_offsets(content: bytes) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    tensor = next(name for name in header if name != "__metadata__")
    header[tensor]["data_offsets"] = [0, 2**40]
    lying = json.dumps(header).encode()
    return struct.pack("<Q", len(lying)) + lying + content[8 + length :]


@pytest.mark.parametrize("damage", [truncated, endless_header, lying_offsets, lambda content: b""])
def test_damaged_weights_are_an_error_and_not_a_crash(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CheckpointError, match="cannot load the weights"):
        load(folder)
