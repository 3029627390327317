"""Linear layers for a CPU, with their weights packed once.

oneDNN multiplies by weights in a blocked layout of its own. Given an ordinary matrix it makes that layout anew at every
call, which for the few rows of a decode step takes as long as the product itself. Packed before, a step's products took
0.6 times as long (2 cores, AVX512-bf16, a 135M-parameter model, 32 rows, bfloat16; 0.64 times in float32).
"""

import torch
from torch import Tensor, nn

_TYPICAL_ROWS = 32  # the layout may depend on how many rows the weights will be multiplied by


class PackedLinear(nn.Module):
    """`nn.Linear` for inference on a CPU, with the same result up to rounding.

    Args:
        linear: gives its weights away: they are packed one layer at a time, so that no two copies of all weights exist.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _TYPICAL_ROWS)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = linear.bias

    def unpacked(self) -> nn.Linear:
        """The linear layer that it was made of."""
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        linear.weight = nn.Parameter(self.weight.to_dense(), requires_grad=False)
        linear.bias = self.bias
        return linear

    def forward(self, states: Tensor) -> Tensor:
        """[..., in features] to [..., out features]."""
        output: Tensor = torch.ops.mkldnn._linear_pointwise(states, self.weight, self.bias, "none", [], "")
        return output


class PackedPart(nn.Module):
    """One of several linear layers whose weights are packed together. Alone it costs the product of them all.

    Args:
        whole: all of them.
        start, stop: which of its outputs are this layer's.
    """

    def __init__(self, whole: PackedLinear, start: int, stop: int) -> None:
        super().__init__()
        self.whole = whole
        self.in_features, self.out_features = whole.in_features, stop - start
        self._outputs = slice(start, stop)

    def forward(self, states: Tensor) -> Tensor:
        """[..., in features] to [..., out features]."""
        output: Tensor = self.whole(states)[..., self._outputs]
        return output


def pack_linear_layers(model: nn.Module) -> None:
    """Replace a model's linear layers by packed ones, in place, where the CPU has fast products for their dtype."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and _is_packable(layer.weight):
                setattr(parent, name, PackedLinear(layer))


def _is_packable(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if weight.dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return weight.dtype == torch.float32
