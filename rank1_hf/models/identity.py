"""The identity of a checkpoint and its dtype, which separate its judgments from another's, without loading it."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rank1_hf.models.cards import has_bfloat16
from rank1_hf.models.devices import possible_devices, resolve_device
from rank1_hf.models.dtypes import usable_dtype
from rank1_hf.models.loading import Checkpoint, CheckpointError, open_checkpoint

_BLOCK, _BLOCKS = 1 << 16, 1024  # bytes, and how many blocks of a file are read at most


def checkpoint_identity(
    name: str | Path | None,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    token: str | bool | None = None,
    allow_pickles: bool = False,
) -> str:
    """A hub checkpoint's name and commit, or a digest of a folder's files, wherever the folder is.

    Of a large file the digest sees its size and 1,024 blocks of 64 KiB, spread evenly: training changes every tensor,
    so one checkpoint is distinguished from the next in a second instead of minutes.

    Args:
        name: a hub name, a folder, or None: the model that ships.
        revision, subfolder, token, allow_pickles: as `open_checkpoint` takes them.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    checkpoint = open_checkpoint(name, revision=revision, subfolder=subfolder, token=token, allow_pickles=allow_pickles)
    folder = _folder(checkpoint)
    if folder is None:
        return f"{checkpoint.path}@{_commit(checkpoint)}"
    digest = hashlib.sha256()
    for file in _files(folder, checkpoint.pickles):
        digest.update(file.name.encode() + _sample(file))
    return f"sha256:{digest.hexdigest()}"


def substituted_dtype(
    name: str | Path | None,
    *,
    device: str | torch.device | None,
    is_spread: bool = False,
    **source: Any,  # noqa: ANN401
) -> torch.dtype | None:
    """The dtype that a checkpoint is loaded in here instead of its own, where none is asked for; None: its own.

    Args:
        name, source: as `open_checkpoint` takes them.
        device: as `load_model` takes it.
        is_spread: whether the layers are spread over all GPUs.

    Raises:
        CheckpointError: there is no such checkpoint.
        ValueError: there is no such device.
    """
    devices = possible_devices(resolve_device(device), is_spread=is_spread)
    if all(map(has_bfloat16, devices)):  # as nearly everywhere, and then the checkpoint need not be opened
        return None
    checkpoint = open_checkpoint(name, **source)
    return usable_dtype(None, checkpoint.path, checkpoint.source, checkpoint.config, devices)


def weights_fingerprint(source: Checkpoint | PreTrainedModel) -> str:
    """The same of every byte: a hub checkpoint's name and commit, a digest of a folder's files, or one of the tensors
    and modules of a model that was handed over. It reads all weights, a gigabyte or two a second; several files are
    read at once.

    Raises:
        CheckpointError: the checkpoint has no commit, or the model has tensors that are not in memory.
    """
    digest = hashlib.sha256()
    if isinstance(source, PreTrainedModel):
        digest.update(str(source).encode())  # its modules, with their classes
        for name, tensor in source.state_dict().items():
            digest.update(_described(name, tensor))
        return f"tensors:{digest.hexdigest()}"
    folder = _folder(source)
    if folder is None:
        if _commit(source) is None:
            raise CheckpointError(
                f"nothing says which commit of {source.path} this is; download it and give the folder"
            )
        return f"{source.path}@{_commit(source)} {source.source['subfolder']} {source.pickles}"
    files = list(_files(folder, source.pickles))
    with ThreadPoolExecutor() as pool:
        for file, found in zip(files, pool.map(_whole, files), strict=True):
            digest.update(file.name.encode() + found)
    return f"files:{digest.hexdigest()}"


def _folder(checkpoint: Checkpoint) -> Path | None:
    """Where its files are; None: on the hub."""
    folder = Path(checkpoint.path, checkpoint.source["subfolder"])
    return folder if folder.is_dir() else None


def _commit(checkpoint: Checkpoint) -> str | None:
    commit: str | None = getattr(checkpoint.config, "_commit_hash", None)
    return commit


def _files(folder: Path, pickles: bool) -> Iterator[Path]:
    for pattern in ("*.json", "*.safetensors", "*.model", "*.txt", *(["*.bin"] if pickles else [])):
        yield from sorted(folder.glob(pattern))


def _whole(file: Path) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()


def _described(name: str, tensor: object) -> bytes:
    if not isinstance(tensor, Tensor):
        return f"{name} {tensor!r}".encode()
    if tensor.is_meta:
        raise CheckpointError(f"{name} of the model is not in memory, so that nothing says which weights these are")
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode() + hashlib.sha256(content.data).digest()


def _sample(file: Path) -> bytes:
    size = file.stat().st_size
    step = max(_BLOCK, size // _BLOCKS)
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as stream:
        for start in range(0, size, step):
            stream.seek(start)
            digest.update(stream.read(_BLOCK))
    return digest.digest()
