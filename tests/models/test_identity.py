"""Which checkpoint it is: by its files' content, wherever in a folder they are."""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from rank1_hf.models.identity import checkpoint_identity
from rank1_hf.models.loading import load_model, open_checkpoint


def test_a_folder_is_known_by_its_content(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = checkpoint("qwen2")
    shutil.copytree(folder, tmp_path / "inner" / "model")
    copied = checkpoint_identity(tmp_path, subfolder="inner/model")
    assert copied == checkpoint_identity(folder) == checkpoint_identity(str(folder))
    (tmp_path / "inner" / "model" / "generation_config.json").write_text('{"eos_token_id": 5}')
    assert checkpoint_identity(tmp_path, subfolder="inner/model") != copied
    assert checkpoint_identity(checkpoint("llama")) != copied


def test_pickled_weights_count_where_they_are_read(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint("qwen2"), tmp_path / "model"))
    weights = load_model(open_checkpoint(folder), device="cpu").state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    first = checkpoint_identity(folder, allow_pickles=True)
    weights["model.norm.weight"] += 1
    torch.save(weights, folder / "pytorch_model.bin")
    assert checkpoint_identity(folder, allow_pickles=True) != first
