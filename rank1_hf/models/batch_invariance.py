"""Whether a model's products of one row are the same whatever the other rows of the step are.

Steps of a fixed shape (see `reproducible.py`) give a row the same bits only where no layer looks across rows. Two kinds
of layers do:

- Layers whose quantizer scales or splits a step's activations by what is in all of them, as LLM.int8 does for outliers.
  They are refused. A quantizer is not known here by its name: every linear layer is tried.
- Mixtures of experts, where an expert multiplies as many rows at once as the router sends it. They are computed row by
  row instead, which is slow and always the same.
"""

import re

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, batched_mm_experts_forward

from rank1_hf.models.placement import device_of

_ROWS = 32  # of a trial
_LOUD = 1000.0  # how much larger the other rows are: an outlier to every quantizer
_ROW_BY_ROW = "rank1_row_by_row"


def make_batch_invariant(model: PreTrainedModel) -> None:
    """Have a model compute every row by itself, or refuse it.

    Args:
        model: its mixtures of experts, if any, are switched in place, as `set_experts_implementation` does.

    Raises:
        ValueError: rows have a say in each other's products; the message names the layer.
    """
    if _has_experts(model):
        _split_experts(model)
    for name, layer in model.named_modules():
        n_features = getattr(layer, "in_features", None)
        if isinstance(n_features, int) and _mixes_rows(layer, n_features, model.dtype):
            raise ValueError(
                f"reproducible=True cannot hold: what {name} ({type(layer).__name__}) gives for one row depends on the "
                "others in the step, as with quantizers that scale activations over a whole batch; use another "
                "quantization (4bit, for example, does not do that), or none"
            )


@torch.inference_mode()
def _mixes_rows(layer: nn.Module, n_features: int, dtype: torch.dtype) -> bool:
    """Whether a row [features] comes out otherwise beside loud rows than beside silent ones."""
    row = torch.linspace(-1, 1, n_features, dtype=dtype, device=device_of(layer))
    silent = torch.zeros(1, _ROWS, n_features, dtype=dtype, device=row.device)
    silent[0, 0] = row
    loud = (_LOUD * row).expand_as(silent).clone()
    loud[0, 0] = row
    return not torch.equal(layer(silent)[0, 0], layer(loud)[0, 0])


def _has_experts(model: PreTrainedModel) -> bool:
    return any(re.search("moe|experts", type(part).__name__, re.IGNORECASE) for part in model.modules())


def _split_experts(model: PreTrainedModel) -> None:
    ALL_EXPERTS_FUNCTIONS.register(_ROW_BY_ROW, _row_by_row)
    if not getattr(model, "is_quantized", False):
        model.set_experts_implementation(_ROW_BY_ROW)
    # Transformers leaves a model whose experts it cannot switch as it is.
    if getattr(model.config, "_experts_implementation", None) != _ROW_BY_ROW:
        raise ValueError(
            f"reproducible=True cannot hold: {type(model).__name__} is a mixture of experts, whose products depend on "
            "how many rows each expert gets, and these experts cannot be computed row by row (Transformers cannot "
            "switch them, or they are quantized); leave reproducible out, or use weights that are not quantized"
        )


def _row_by_row(experts: nn.Module, states: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """A form of Transformers' experts: states [rows, hidden], chosen [rows, k], weights [rows, k] to [rows, hidden]."""
    rows = zip(states[:, None], chosen[:, None], weights[:, None], strict=True)  # [1, ...] each
    return torch.cat([batched_mm_experts_forward(experts, *row) for row in rows])
