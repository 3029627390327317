"""Where a model's layers compute, when accelerate has spread them over several devices."""

import itertools
from collections.abc import Iterator

import torch
from accelerate.hooks import AlignDevicesHook, remove_hook_from_module
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


def logits_device(model: PreTrainedModel) -> torch.device:
    """Where the states lie that logits are computed from: where the final norm, or else the last layer, computes."""
    norm = getattr(model.base_model, "norm", None)
    return layer_devices(model)[-1] if norm is None else device_of(norm)


def leave_in_place(model: PreTrainedModel, argument: str) -> None:
    """Have accelerate leave an argument of the model's forward where it is, and not move it to the first device."""
    hook = getattr(model, "_hf_hook", None)
    if isinstance(hook, AlignDevicesHook):
        others = [hook.skip_keys] if isinstance(hook.skip_keys, str) else hook.skip_keys or []
        hook.skip_keys = list(dict.fromkeys([*others, argument]))


def device_of(module: nn.Module) -> torch.device:
    """Where a module computes; its weights may be moved there only when they are needed."""
    for part in module.modules():
        if (hook := getattr(part, "_hf_hook", None)) is not None:
            device = getattr(hook, "execution_device", None)
            if device is not None:
                return torch.device(device)
    return next(_tensors(module)).device


def keep_layer_hooks(model: PreTrainedModel) -> None:
    """Take accelerate's hooks off the parts of each decoder layer, and leave the layer its own, which does for all.

    accelerate puts a hook on every submodule of a model that it spreads over devices (`attach_execution_device_hook`),
    though what enters a layer has to be moved only once: each call then looks through all its arguments for tensors on
    another device, and no layer can be fused. A layer whose weights are brought only when they are needed keeps all.
    """
    for layer in model.base_model.layers:
        parts = list(layer.modules())[1:]
        hooks = [hook for part in (layer, *parts) if (hook := getattr(part, "_hf_hook", None)) is not None]
        devices = {str(getattr(hook, "execution_device", None)) for hook in hooks}
        moves_inputs_only = all(type(hook) is AlignDevicesHook and not hook.offload for hook in hooks)
        if hasattr(layer, "_hf_hook") and moves_inputs_only and len(devices) == 1:
            for part in parts:
                if hasattr(part, "_hf_hook"):
                    remove_hook_from_module(part)
                    del part.forward  # it leaves the class's own there, as an attribute


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return itertools.chain(module.parameters(), module.buffers())
