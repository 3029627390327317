"""The operations of a step between its matrix products, one file for each kind of device.

`contract.py` says what each operation computes; `plain.py` computes it with PyTorch alone and is the oracle of the
others. Another device is another file, and another branch in `kernels_for`. The engine calls `attend`; the model's own
layers compute the rest, until they are fused.
"""

import logging

import torch
from transformers import PretrainedConfig
from transformers.utils import is_triton_available

from rank1_hf.decoding.kernels.contract import Kernels

logger = logging.getLogger(__name__)


def kernels_for(device: torch.device, config: PretrainedConfig, dtype: torch.dtype) -> Kernels | None:
    """The kernels written for a device; None where there are none, or none that fit the model.

    Args:
        device: where the model computes.
        config: the model's.
        dtype: of its activations.
    """
    if device.type != "cuda" or not is_triton_available():
        return None
    from rank1_hf.decoding.kernels import triton  # comes with PyTorch's CUDA builds alone

    try:
        triton.check_fit(device, config, dtype)
    except ValueError as error:
        logger.warning("%s: attention runs in PyTorch's own operations, and decode steps without CUDA graphs", error)
        return None
    return triton
