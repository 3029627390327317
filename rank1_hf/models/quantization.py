"""Quantized weights: the kinds there are, and whether rows that decode together stay apart under them."""

import importlib.util
import logging
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, TypeAlias

import torch
from packaging.version import Version
from transformers import BitsAndBytesConfig, PretrainedConfig
from transformers.utils.quantization_config import QuantizationConfigMixin

from rank1_hf.models.cards import has_bfloat16
from rank1_hf.models.spellings import quantization_kind

_BITSANDBYTES = Version("0.50")

Quantization: TypeAlias = str | QuantizationConfigMixin
"""A kind that `quantization_config` knows, "8bit" or "4bit", or a quantization config of Transformers."""


def quantization_config(
    quantization: Quantization | None, config: PretrainedConfig, device: torch.device
) -> QuantizationConfigMixin | None:
    """Transformers' config for a kind of quantization; one that is given stays as it is.

    "8bit" is LLM.int8 (Dettmers et al. 2022), "4bit" is NF4 with double quantization (QLoRA, Dettmers et al. 2023);
    bitsandbytes has both. The embedding and the output layer, where the verdict is read, keep their precision.

    Raises:
        ValueError: it is none of these, bitsandbytes is missing or too old, or the checkpoint is quantized already.
    """
    quantization = quantization_kind(quantization)
    if quantization is None or isinstance(quantization, QuantizationConfigMixin):
        stored = stored_quantization(config) or ""
        if isinstance(quantization, BitsAndBytesConfig) or stored.startswith("bitsandbytes"):
            _check_bitsandbytes()
        return quantization
    if quantization not in ("8bit", "4bit"):
        raise ValueError(
            f"quantization must be '8bit', '4bit', a quantization config of Transformers, or None, not {quantization!r}"
        )
    if stored_quantization(config) is not None:
        raise ValueError(f"the checkpoint is quantized already; leave quantization={quantization!r} out")
    _check_bitsandbytes()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of a cast at every product
    if quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["lm_head"])
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if has_bfloat16(device) else torch.float16,
        llm_int8_skip_modules=["lm_head"],
    )


def stored_quantization(config: PretrainedConfig) -> str | None:
    """How a checkpoint's weights are quantized on disk ("awq", ...), by the name that Transformers has for it."""
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return None
    method = stored.get("quant_method") if isinstance(stored, Mapping) else stored.quant_method
    return str(getattr(method, "value", method or "unknown"))


def quantization_of(config: PretrainedConfig) -> str | None:
    """How a model's weights are quantized: "4bit" or "8bit" by bitsandbytes, else as they are stored ("awq", ...)."""
    stored = getattr(config, "quantization_config", None)
    named = stored.to_dict() if isinstance(stored, QuantizationConfigMixin) else stored or {}
    return next((kind for kind in ("4bit", "8bit") if named.get(f"load_in_{kind}")), stored_quantization(config))


def check_batch_invariance(quantization: Quantization | Mapping[str, Any] | None) -> None:
    """Refuse what is known, before any weights are read, to let the rows of a step change each other's products.

    LLM.int8 multiplies in 16 bits the columns of a step's activations in which any row has an outlier, and the others
    in 8. So a row's product depends on what decodes beside it, however the step is shaped. Without outliers (a
    threshold of 0) every row has a scale of its own. Other quantizers are tried once they are loaded: see
    `rank1_hf.models.batch_invariance`.

    Args:
        quantization: as `quantization_config` takes it, or as a checkpoint's config has it.

    Raises:
        ValueError: it does; the message says what to use instead.
    """
    if isinstance(quantization, QuantizationConfigMixin):
        quantization = quantization.to_dict()
    if isinstance(quantization, Mapping):
        outliers = quantization.get("load_in_8bit") and quantization.get("llm_int8_threshold", 6.0) != 0
    else:
        outliers = quantization_kind(quantization) == "8bit"
    if outliers:
        raise ValueError(
            "LLM.int8 looks for outliers in all rows that decode together, so what a pair gets depends on the others "
            "and reproducible=True cannot hold; use quantization='4bit', or quantization=BitsAndBytesConfig("
            "load_in_8bit=True, llm_int8_threshold=0.0, llm_int8_skip_modules=['lm_head']), which leaves outliers in 8 "
            "bits"
        )


def _check_bitsandbytes() -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError("8-bit and 4-bit weights need bitsandbytes: pip install 'bitsandbytes>=0.50'")
    if Version(version("bitsandbytes")) < _BITSANDBYTES:  # older ones have a fused 4-bit kernel for one token only
        raise ValueError(
            f"8-bit and 4-bit weights need bitsandbytes {_BITSANDBYTES} or newer, and {version('bitsandbytes')} is "
            "installed: pip install -U bitsandbytes"
        )
