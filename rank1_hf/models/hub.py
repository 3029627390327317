"""Whether the hub answers, asked once and without torch, which takes longer to import than an error may take.

Where it does not, `huggingface_hub` would try again for half a minute, for each file; here a checkpoint comes from the
cache then, or is refused at once.
"""

import fnmatch
import functools
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from rank1_hf.models.family import AWQ_FAMILY, FAMILY, full_name

_PATIENCE = 1.5  # seconds; the usual answer comes in a tenth


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message says what is wrong with it and what to do."""


def is_hub_name(path: str | Path) -> bool:
    """Whether this can only be a repository of the hub: no folder, and written as the hub's names are."""
    if isinstance(path, Path) or is_there(path):
        return False
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(path)
    except HFValidationError:
        return False
    return True


def is_there(path: str | Path) -> bool:
    """Whether there is such a file or folder; of a name too long for one, `Path.exists` raises an OSError."""
    return os.path.exists(path)  # noqa: PTH110


def with_home(name: str | Path) -> str | Path:
    """A name, with the home folder in the place of a leading ~: a shell leaves that in --model=~/checkpoint."""
    try:
        return Path(name).expanduser() if str(name).startswith("~") else name
    except RuntimeError:  # there is no such user
        return name


def check_available(path: str | Path | None, *, subfolder: str | None = None) -> bool:
    """Refuse a name of the hub when neither the hub nor the cache has an answer.

    Returns:
        Whether files come from the cache alone.

    Raises:
        CheckpointError: the hub cannot be reached, and the checkpoint's config is not in the cache; or a member of the
            family is named without its owner, or in another case; or a name without an owner begins as theirs do and
            is none of them.
    """
    if path is None or not is_hub_name(path):
        return False
    if (full := full_name(str(path))) not in (None, path):
        raise CheckpointError(f"{path} is not how the hub names it; did you mean {full!r}?")
    if full is None and str(path).lower().startswith("rank1"):  # with its owner, the hub may have a newer one
        known = ", ".join(FAMILY | AWQ_FAMILY)
        raise CheckpointError(f"there is no {path}, neither as a folder nor in the family, which is {known}")
    from huggingface_hub import constants

    if not constants.is_offline_mode() and _answers(constants.ENDPOINT):
        return False
    if not _is_cached(str(path), Path(subfolder or "", "config.json")):
        why = "HF_HUB_OFFLINE is set" if constants.is_offline_mode() else f"{constants.ENDPOINT} does not answer"
        raise CheckpointError(
            f"cannot load the config of {path}: {why}, and it is not in the cache ({constants.HF_HUB_CACHE}); "
            f"download it where there is a network (hf download {path}), or give a checkpoint's folder"
        )
    return True


def bytes_to_download(path: str | Path, source: Mapping[str, Any], commit: str | None, patterns: Sequence[str]) -> int:
    """The size of the files that the hub has and the cache has not; 0 where all are there, or nothing tells.

    Args:
        path, source: where the checkpoint is: the arguments of `from_pretrained`.
        commit: which one that is, where it is known.
        patterns: of the files' names. Those of the first pattern that matches any are meant.
    """
    if not is_hub_name(path) or source.get("local_files_only"):
        return 0
    from huggingface_hub import HfApi, try_to_load_from_cache

    inside, revision = source["subfolder"], commit or source["revision"]
    try:
        tree = HfApi().list_repo_tree(str(path), inside or None, revision=revision, token=source["token"])
        sizes = {each.path: getattr(each, "size", 0) for each in tree}  # a folder has none
    except Exception:  # what is wrong with the repository is said where its files are read
        return 0
    matching = (fnmatch.filter(sizes, str(PurePosixPath(inside, pattern))) for pattern in patterns)
    return sum(
        sizes[file]
        for file in next(filter(None, matching), [])
        if not isinstance(try_to_load_from_cache(str(path), file, revision=revision), str)
    )


def _is_cached(name: str, file: Path) -> bool:
    """Whether the cache has this file of any revision; which one it is, Transformers finds out."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    snapshots = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="model"), "snapshots")
    return snapshots.is_dir() and any((revision / file).is_file() for revision in snapshots.iterdir())


@functools.cache
def _answers(endpoint: str) -> bool:
    """Whether there is any answer, the proxies and certificates being the user's. Asked once in a process.

    A hub that is slow is one that answers: it is only known not to where the connection fails, which is soon.
    """
    from huggingface_hub import get_session

    patience = float(os.environ.get("HF_HUB_ETAG_TIMEOUT", _PATIENCE))
    has_failed = threading.Event()

    def ask() -> None:
        try:
            get_session().head(endpoint, timeout=patience)
        except Exception as error:  # of whatever library the session is of
            if "Timeout" not in type(error).__name__:
                has_failed.set()

    asking = threading.Thread(target=ask, daemon=True)  # since resolving a name knows no timeout
    asking.start()
    asking.join(patience)
    return not has_failed.is_set()
