"""The identity of a checkpoint, which separates its judgments from another's, without loading it."""

import hashlib
from pathlib import Path

from rank1_hf.models.loading import open_checkpoint

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
    folder = Path(checkpoint.path, subfolder or "")
    if not folder.is_dir():
        return f"{checkpoint.path}@{getattr(checkpoint.config, '_commit_hash', None)}"
    digest = hashlib.sha256()
    pickles = ["*.bin"] if allow_pickles else []
    for pattern in ("*.json", "*.safetensors", "*.model", "*.txt", *pickles):
        for file in sorted(folder.glob(pattern)):
            digest.update(file.name.encode() + _sample(file))
    return f"sha256:{digest.hexdigest()}"


def _sample(file: Path) -> bytes:
    size = file.stat().st_size
    step = max(_BLOCK, size // _BLOCKS)
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as stream:
        for start in range(0, size, step):
            stream.seek(start)
            digest.update(stream.read(_BLOCK))
    return digest.digest()
