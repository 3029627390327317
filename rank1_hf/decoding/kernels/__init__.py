"""The operations of a step between its matrix products, one file for each kind of device.

`contract.py` says what each operation computes; `reference.py` computes it with PyTorch alone and is the oracle of the
others, and `pytorch.py` is what runs where there are no others. Another device is another file, and another branch in
`kernels_for`. The loop calls `read_logits`, attention calls `attend`, and fused layers (`layers.py`) call the rest.
"""

import logging
from functools import cache

import torch
from transformers import PretrainedConfig
from transformers.utils import is_triton_available

from rank1_hf.decoding.kernels import cpu
from rank1_hf.decoding.kernels.contract import Kernels

logger = logging.getLogger(__name__)


def kernels_for(device: torch.device, config: PretrainedConfig, dtype: torch.dtype) -> Kernels | None:
    """The kernels written for a device; None where there are none, or none that fit the model.

    Args:
        device: where the model computes.
        config: the model's.
        dtype: of its activations.
    """
    try:
        if device.type == "cpu":
            cpu.check_fit(dtype)
            return cpu
        if device.type == "cuda" and is_triton_available():
            from rank1_hf.decoding.kernels import triton  # comes with PyTorch's CUDA builds alone

            triton.check_fit(device, config, dtype)
            return triton
    except ValueError as error:
        _warn(f"{error}: steps run in PyTorch's own operations, which are slower")
    return None


@cache
def _warn(message: str) -> None:
    """Once: a model is asked about several times."""
    logger.warning(message)
