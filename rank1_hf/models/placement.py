"""Where a model's layers compute, when accelerate has spread them over several devices."""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def is_split(model: PreTrainedModel) -> bool:
    """Whether accelerate has put the model's layers on several devices, or moves them there when they are needed."""
    devices = {str(device) for device in getattr(model, "hf_device_map", {}).values()}
    return len(devices) > 1 or "disk" in devices


def offloaded_bytes(model: PreTrainedModel) -> dict[str, int]:
    """The bytes of weights that lie in main memory ("cpu") or on disk ("disk") and compute elsewhere."""
    places = {module: str(device) for module, device in getattr(model, "hf_device_map", {}).items()}
    lent = {"disk", "cpu"} if set(places.values()) - {"disk", "cpu"} else {"disk"}
    found = {"cpu": 0, "disk": 0}
    for module, place in places.items():
        if place in lent:
            found[place] += sum(weight.nbytes for weight in model.get_submodule(module).parameters())
    return found


def layer_devices(model: PreTrainedModel) -> list[torch.device]:
    """Where each decoder layer computes, and so where its keys and values lie; but for those without weights, which
    somebody has put there to skip one.
    """
    return [device_of(layer) for layer in model.base_model.layers if next(_tensors(layer), None) is not None]


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes; its weights may be moved there only when they are needed."""
    for part in module.modules():
        if (hook := getattr(part, "_hf_hook", None)) is not None:
            device = getattr(hook, "execution_device", None)
            if device is not None:
                return torch.device(device)
    return next(_tensors(module)).device


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return itertools.chain(module.parameters(), module.buffers())
