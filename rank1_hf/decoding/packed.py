"""Linear layers for a CPU, with their weights packed once, into the layout that the processor reads them in fastest.

Given an ordinary matrix, oneDNN makes a blocked layout of it anew at every call, which for the few rows of a decode
step takes as long as the product itself. There are two layouts:

- `PANELS`, that of our own kernel (`kernels/cpu_products.h`), which computes in float32. It takes 0.5 to 0.8 times as
  long as oneDNN's for up to 64 rows in float32. Weights of 16 bits are read as they are, so few rows take half of that;
  oneDNN and PyTorch emulate those dtypes on processors without instructions for them, many times slower.
- `ONEDNN`, for 16 bits where the processor has instructions for their products (AVX512-bf16, AMX, AVX512-fp16), and
  where our kernel cannot be compiled.
"""

import platform
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rank1_hf.decoding.kernels import cpu

_TYPICAL_ROWS = 32  # oneDNN's layout may depend on how many rows the weights will be multiplied by


class Layout(Protocol):
    """How the weights of a linear layer lie in memory."""

    def pack(self, weight: Tensor) -> Tensor:
        """[out features, in features] in this layout: a copy."""

    def unpack(self, packed: Tensor, n_out: int) -> Tensor:
        """[out features, in features] again, `n_out` being how many there are."""

    def multiply(self, states: Tensor, packed: Tensor, bias: Tensor | None, n_out: int) -> Tensor:
        """[..., in features] to [..., out features], summed in float32 and rounded once."""


class _OneDnn:
    """The blocked layout of oneDNN, which it chooses itself."""

    def pack(self, weight: Tensor) -> Tensor:
        packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _TYPICAL_ROWS)
        return packed

    def unpack(self, packed: Tensor, n_out: int) -> Tensor:
        return packed.to_dense()

    def multiply(self, states: Tensor, packed: Tensor, bias: Tensor | None, n_out: int) -> Tensor:
        output: Tensor = torch.ops.mkldnn._linear_pointwise(states, packed, bias, "none", [], "")
        return output


class _Panels:
    """[panels, in features, width]: the weights of `width` outputs side by side. The last panel ends with zeros."""

    def pack(self, weight: Tensor) -> Tensor:
        width = cpu.panel_width()
        filled = nn.functional.pad(weight, (0, 0, 0, -len(weight) % width))
        return filled.view(-1, width, weight.shape[1]).transpose(1, 2).contiguous()

    def unpack(self, packed: Tensor, n_out: int) -> Tensor:
        return packed.transpose(1, 2).reshape(-1, packed.shape[1])[:n_out]

    def multiply(self, states: Tensor, packed: Tensor, bias: Tensor | None, n_out: int) -> Tensor:
        return cpu.multiply(states, packed, bias, n_out)


ONEDNN, PANELS = _OneDnn(), _Panels()


class _Packed(nn.Module):
    """What a linear layer becomes: it has no `weight`, so that nobody takes another layout for a matrix."""

    in_features: int
    out_features: int

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        if name == "weight":
            raise AttributeError(
                "this linear layer is packed and has no weight; to read or change it, load the model with "
                "DecodingOptions(pack=False)"
            )
        return super().__getattr__(name)

    def extra_repr(self) -> str:
        """As `nn.Linear` shows itself."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class PackedLinear(_Packed):
    """`nn.Linear` for inference on a CPU, with the same result up to rounding.

    Args:
        linear: gives its weights away: they are packed one layer at a time, so that no two copies of all weights exist.
        layout: what they are packed into.
    """

    def __init__(self, linear: nn.Linear, layout: Layout) -> None:
        super().__init__()
        self.in_features, self.out_features, self.layout = linear.in_features, linear.out_features, layout
        self.packed = nn.Parameter(layout.pack(linear.weight.detach()), requires_grad=False)
        self.bias = linear.bias

    def unpacked(self) -> nn.Linear:
        """The linear layer that it was made of."""
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        linear.weight = nn.Parameter(self.layout.unpack(self.packed, self.out_features), requires_grad=False)
        linear.bias = self.bias
        return linear

    def forward(self, states: Tensor) -> Tensor:
        """[..., in features] to [..., out features]."""
        return self.layout.multiply(states, self.packed, self.bias, self.out_features)


class PackedPart(_Packed):
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


def pack_linear_layers(model: nn.Module, *, kernels: bool = True) -> None:
    """Replace a model's linear layers by packed ones, in place, where the CPU has fast products for their dtype.

    Args:
        model: its plain linear layers on a CPU are replaced.
        kernels: whether our own may be used.
    """
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and layer.weight.device.type == "cpu":
                layout = _layout(layer.weight.dtype, kernels=kernels)
                if layout is not None:
                    setattr(parent, name, PackedLinear(layer, layout))


def multiplies_rows_alone(model: nn.Module) -> bool:
    """Whether all linear layers of a model give a row the same bits whatever the other rows are: all are in panels."""
    linear = [layer for layer in model.modules() if hasattr(layer, "in_features")]
    return all(isinstance(getattr(getattr(layer, "whole", layer), "layout", None), _Panels) for layer in linear)


def _layout(dtype: torch.dtype, *, kernels: bool) -> Layout | None:
    """The fastest there is on this processor; None: no layout is faster than an ordinary matrix."""
    if _has_instructions(dtype):
        return ONEDNN
    try:
        if kernels:
            cpu.check_fit(dtype)
            return PANELS
    except ValueError:  # no compiler: the engine says so
        pass
    return ONEDNN if _is_known_to_onednn(dtype) else None


def _has_instructions(dtype: torch.dtype) -> bool:
    """Whether the processor multiplies matrices of a 16-bit dtype itself, by oneDNN, and faster than in float32."""
    if dtype == torch.bfloat16 and platform.machine() in ("x86_64", "AMD64"):  # elsewhere oneDNN says just that
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return dtype != torch.float32 and _is_known_to_onednn(dtype)


def _is_known_to_onednn(dtype: torch.dtype) -> bool:
    """Whether oneDNN packs weights of this dtype here. With AVX-512 it emulates bfloat16, if need be."""
    if not torch._C._has_mkldnn:
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype == torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return dtype == torch.float32
