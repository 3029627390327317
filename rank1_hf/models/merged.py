"""Several linear layers of one input as one product: queries, keys and values; gate and up."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from rank1_hf.models.packed import PackedLinear, PackedPart

Product = Callable[[Tensor], Sequence[Tensor]]
"""[..., in features] to [..., out features] of each layer; they may be views of one tensor."""


def separate_products(layers: Sequence[nn.Module]) -> Product:
    """What linear layers of any kind give for one input, multiplied one by one."""
    return lambda states: [layer(states) for layer in layers]


@torch.no_grad()
def merge_products(parent: nn.Module, names: Sequence[str]) -> Product:
    """Merge the named linear layers of a module, so that one product gives what they give.

    They stay in their place and work alone as before: ordinary weights become views of the merged ones, packed layers
    become parts of a packed whole. Quantized layers, and those that differ in form, are not merged.
    """
    layers = [parent.get_submodule(name) for name in names]
    sizes = [int(layer.out_features) for layer in layers]  # type: ignore[arg-type]
    if all(isinstance(layer, PackedPart) for layer in layers):
        whole: nn.Module = layers[0].whole  # type: ignore[assignment]
    elif all(type(layer) is PackedLinear for layer in layers):
        whole = PackedLinear(_concatenated([layer.unpacked() for layer in layers]))  # type: ignore[operator]
        start = 0
        for name, size in zip(names, sizes, strict=True):
            parent.register_module(name, PackedPart(whole, start, start + size))
            start += size
    elif all(type(layer) is nn.Linear for layer in layers) and _are_alike(layers):
        whole = _concatenated(layers)
        for layer, weight in zip(layers, whole.weight.split(sizes), strict=True):
            layer.weight.data = weight
        if whole.bias is not None:
            for layer, bias in zip(layers, whole.bias.split(sizes), strict=True):
                layer.bias.data = bias
    else:
        return separate_products(layers)
    return lambda states: whole(states).split(sizes, -1)


def _are_alike(layers: Sequence[nn.Module]) -> bool:
    weights = [layer.weight for layer in layers]
    return (
        len({(type(w), w.dtype, w.device, layer.bias is None) for w, layer in zip(weights, layers, strict=True)}) == 1
    )


def _concatenated(layers: Sequence[nn.Module]) -> nn.Linear:
    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
    merged = torch.cat(weights)  # type: ignore[arg-type]
    whole = nn.Linear(merged.shape[1], merged.shape[0], bias=False, device="meta")
    whole.weight = nn.Parameter(merged, requires_grad=False)
    if biases[0] is not None:
        whole.bias = nn.Parameter(torch.cat(biases), requires_grad=False)  # type: ignore[arg-type]
    return whole
