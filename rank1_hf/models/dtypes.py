"""What a checkpoint is loaded in on a card without bfloat16: float16, which has as many bits but a smaller range."""

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import PretrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from rank1_hf.models.cards import has_bfloat16

logger = logging.getLogger(__name__)


def usable_dtype(
    asked: torch.dtype | None,
    path: str | Path,
    source: Mapping[str, Any],
    config: PretrainedConfig,
    devices: Iterable[torch.device],
) -> torch.dtype | None:
    """The dtype to load a checkpoint in: float16 in place of its own bfloat16 where a device lacks that.

    Args:
        asked: by the user, who gets it; None: the checkpoint's own.
        path, source: where the checkpoint is.
        config: the checkpoint's.
        devices: where layers may be.
    """
    if asked is not None or all(map(has_bfloat16, devices)) or not _is_in_bfloat16(path, source, config):
        return asked
    return torch.float16


def warn_of_dtype(
    asked: torch.dtype | None, usable: torch.dtype | None, path: str | Path, devices: Iterable[torch.device]
) -> None:
    """Log where a device emulates bfloat16, or gets float16 in its place.

    Args:
        asked, path, devices: as `usable_dtype` took them.
        usable: what it gave.
    """
    if asked == torch.bfloat16 and not all(map(has_bfloat16, devices)):
        logger.warning("this device has no bfloat16 and emulates it, many times slower; dtype='float16' is fast on it")
    elif usable != asked:
        logger.warning(
            "%s has bfloat16 weights, and this device does not compute in it: they are loaded as float16, whose values "
            "end at 65,504; where pairs fail with an overflow, dtype='float32' is right, and slower",
            path,
        )


def overflown_weight(model: nn.Module) -> str | None:
    """The name of a float16 weight that is too large for float16, or NaN; None: there is none."""
    for name, weight in model.named_parameters():
        if weight.dtype == torch.float16 and not weight.is_meta and not bool(weight.isfinite().all()):
            return name
    return None


def compute_in_float16(model: nn.Module) -> None:
    """Let 4-bit layers that would compute in bfloat16 compute in float16.

    bitsandbytes casts a float16 input to what a layer was quantized for (`Linear4bit.compute_dtype`), which a quantized
    checkpoint brings with it.
    """
    for layer in model.modules():
        if getattr(layer, "compute_dtype", None) == torch.bfloat16:
            layer.compute_dtype = torch.float16  # type: ignore[assignment]


def _is_in_bfloat16(path: str | Path, source: Mapping[str, Any], config: PretrainedConfig) -> bool:
    """By its config; where that says nothing, by its first weights, as Transformers does."""
    if config.dtype is not None:
        return bool(config.dtype == torch.bfloat16)
    file = _cached(path, SAFE_WEIGHTS_NAME, source)
    if file is None and (index := _cached(path, SAFE_WEIGHTS_INDEX_NAME, source)) is not None:
        shards = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
        file = _cached(path, next(iter(shards.values())), source)
    if file is None:
        return False
    with safe_open(file, "pt") as tensors:
        dtypes = (tensors.get_slice(name).get_dtype() for name in tensors.keys())  # noqa: SIM118
        return next((dtype for dtype in dtypes if dtype in ("F32", "F16", "BF16")), None) == "BF16"


def _cached(path: str | Path, name: str, source: Mapping[str, Any]) -> str | None:
    """The file of a folder, or of a hub repository, which then lies in the cache; None: there is none."""
    found = cached_file(path, name, **source, _raise_exceptions_for_missing_entries=False)
    return None if found is None else str(found)
