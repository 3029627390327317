"""Where a model runs, how precisely, and how much memory it may use there: what users may write for it."""

import operator
import re
from collections.abc import Iterable, Mapping

import torch

from rank1_hf.models.spellings import dtype_name

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

_PREFIXES = ("", "k", "m", "g", "t")


def resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """A dtype by its name, in any usual spelling ("fp16", "half"); None and "auto" stay open.

    Raises:
        ValueError: it is not one of float32, float16, bfloat16.
    """
    if dtype is None or dtype == "auto":
        return None
    found = DTYPES.get(dtype_name(str(dtype)))
    if found is None:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)} or None, not {dtype!r}")
    return found


def resolve_device(device: str | torch.device | None) -> torch.device:
    """A device, chosen where None is given: CUDA, MPS or CPU, the first there is.

    Raises:
        ValueError: there is no such device here.
    """
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"{device!r} is not a device; use 'cuda', 'cuda:0', 'mps' or 'cpu'") from error
    missing = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if missing.get(resolved.type, False):
        raise ValueError(f"device {device!r} is not available on this machine; leave device out to have one chosen")
    return resolved


def possible_devices(device: torch.device, *, is_spread: bool) -> list[torch.device]:
    """Where layers may be: on the device, and where they are spread on every GPU."""
    return [device, *(torch.device("cuda", n) for n in range(torch.cuda.device_count() if is_spread else 0))]


def check_devices(named: Iterable[int | str | torch.device]) -> None:
    """Refuse devices of a device map, or of memory limits, that are not here, which accelerate says less clearly.

    Raises:
        ValueError: there is no such device here.
    """
    for device in named:
        if isinstance(device, int):
            n_here = torch.accelerator.device_count()
            if device >= n_here:
                raise ValueError(f"there is no GPU {device} for device_map or max_memory: this machine has {n_here}")
        elif device != "disk":
            resolve_device(device)


def memory_limits(max_memory: Mapping[int | str, int | str] | None) -> dict[int | str, int] | None:
    """Bytes by device.

    Raises:
        ValueError: one is no size; the message says of which device.
    """
    if max_memory is None:
        return None
    if not isinstance(max_memory, Mapping):
        raise ValueError(f'max_memory must say how much of which device, as in {{0: "10GiB"}}, not {max_memory!r}')
    limits = {}
    for device, size in max_memory.items():
        try:
            limits[device] = n_bytes(size)
        except ValueError as error:
            raise ValueError(f"max_memory of {device!r}: {error}") from None
    return limits


def n_bytes(size: object) -> int:
    """The bytes that a size means: a whole number of them, or text like "10GiB", "1.5 GB" or "800mb".

    Units are read in any case, and always as bytes: 1 MB is 10**6 of them, 1 MiB is 2**20. (accelerate, which has the
    same units, reads a small b as bits.)

    Raises:
        ValueError: it is neither.
    """
    if isinstance(size, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b", size.strip().lower())
        if match and (match[2] or not match[3]):
            return int(float(match[1]) * (1024 if match[3] else 1000) ** _PREFIXES.index(match[2]))
    elif not isinstance(size, bool):
        if isinstance(size, float) and size.is_integer():  # as in 10e9
            size = int(size)
        try:
            number = operator.index(size)  # type: ignore[arg-type]  # numpy's integers have it too
        except TypeError:
            number = -1
        if number >= 0:
            return number
    raise ValueError(f'{size!r} is not a size of memory: give a whole number of bytes, or text like "10GiB" or "800MB"')
