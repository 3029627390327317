"""Several linear layers of one input as one product: queries, keys and values; gate and up.

Layers are multiplied by their `forward`, without what calling a module does besides: there are four at each layer and
step, and where there are hooks the fused layer does not run.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rank1_hf.decoding.packed import PackedLinear, PackedPart

Product = Callable[[Tensor], Sequence[Tensor]]
"""[tokens, in features] to [tokens, out features] of each layer; they may be views of one tensor."""


def separate_products(layers: Sequence[nn.Module]) -> Product:
    """What linear layers of any kind give for one input, multiplied one by one."""
    return lambda states: [product(layer, states) for layer in layers]


def product(layer: nn.Module, states: Tensor) -> Tensor:
    """What a linear layer of any kind gives: [tokens, in features] to [tokens, out features].

    Unless it is packed, it is given a batch of one, as in the model's own forward: compressed-tensors scales the
    activations of each token by themselves there, and those of all tokens together where there is no batch.
    """
    if isinstance(layer, PackedLinear):
        return layer.forward(states)
    output: Tensor = layer.forward(states[None])
    return output[0]


@torch.no_grad()
def merge_products(parent: nn.Module, names: Sequence[str]) -> Product:
    """Merge the named linear layers of a module, so that one product gives what they give.

    They stay in their place and work alone as before: ordinary weights become views of the merged ones, packed layers
    become parts of a packed whole. Quantized layers, and those that differ in form, are not merged.
    """
    layers: list[Any] = [parent.get_submodule(name) for name in names]
    whole: nn.Module
    if all(isinstance(layer, PackedPart) for layer in layers):
        whole = layers[0].whole
    elif all(type(layer) is PackedLinear for layer in layers):
        whole = PackedLinear(_concatenated([layer.unpacked() for layer in layers]), layers[0].layout)
        start = 0
        for name, layer in zip(names, layers, strict=True):
            parent.register_module(name, PackedPart(whole, start, start + layer.out_features))
            start += layer.out_features
    elif all(type(layer) is nn.Linear for layer in layers) and _are_alike(layers):
        whole = _concatenated(layers)
        _share(whole.weight, [layer.weight for layer in layers])
        if whole.bias is not None:
            _share(whole.bias, [layer.bias for layer in layers])
    else:
        return separate_products(layers)
    sizes = [int(layer.out_features) for layer in layers]
    return lambda states: whole.forward(states).split_with_sizes(sizes, -1)


def _are_alike(layers: Sequence[nn.Linear]) -> bool:
    forms = {(type(x.weight), x.weight.dtype, x.weight.device, x.bias is None) for x in layers}
    return len(forms) == 1


def _concatenated(layers: Sequence[nn.Linear]) -> nn.Linear:
    merged = torch.cat([layer.weight for layer in layers])
    whole = nn.Linear(merged.shape[1], merged.shape[0], bias=False, device="meta")
    whole.weight = nn.Parameter(merged, requires_grad=False)
    if layers[0].bias is not None:
        whole.bias = nn.Parameter(torch.cat([layer.bias for layer in layers]), requires_grad=False)
    return whole


def _share(merged: Tensor, parts: Sequence[Tensor]) -> None:
    """Let tensors be views of one that holds them one after the other."""
    start = 0
    for part in parts:
        part.data = merged.data[start : start + len(part)]
        start += len(part)
