"""Whether a model still computes what its weights and its config say, so that its judgments may be kept by these."""

import hashlib

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rank1_hf.decoding.layers import FusedLayer
from rank1_hf.decoding.loop import Decoder
from rank1_hf.decoding.modules import ModuleState, hooks_of, tensors_of
from rank1_hf.decoding.plain import PlainDecoder

_SAMPLE = 4096  # numbers of a tensor that are looked at


class AsLoaded:
    """A model and its decoder, as they are when this is made.

    A forward hook, a patched or another module, another tensor and a changed one are noticed, and another rule for
    chains. Of a tensor PyTorch itself counts the changes, but for those made through `.data`: so 4,096 of its numbers,
    evenly spread, are compared too.
    """

    def __init__(self, model: PreTrainedModel, decoder: Decoder | PlainDecoder) -> None:
        modules = list(model.modules())
        self._model, self._decoder, self._rules = model, decoder, decoder.rules
        self._has_own_forwards = not any(map(_is_patched, modules))
        self._state, self._versions, self._numbers = ModuleState(modules), _versions(modules), _numbers(modules)
        self._hooks = hooks_of(modules)

    @property
    def has_hooks(self) -> bool:
        """Whether it has forward hooks now; cheap enough to be asked for each pair."""
        return any(self._hooks)

    def holds(self) -> bool:
        """Whether everything is as it was, and was never anything but what weights and config say."""
        modules = list(self._model.modules())
        self._hooks = hooks_of(modules)
        return (
            self._has_own_forwards
            and not self.has_hooks
            and self._decoder.rules == self._rules
            and self._state.is_of(modules)
            and _versions(modules) == self._versions
            and _numbers(modules) == self._numbers
        )


def _is_patched(module: nn.Module) -> bool:
    """Whether a caller has put another forward into it. Accelerate's, which moves weights, changes no number."""
    own = vars(module).get("forward")
    return not (own is None or isinstance(getattr(own, "__self__", None), FusedLayer) or hasattr(module, "_hf_hook"))


def _versions(modules: list[nn.Module]) -> list[int]:
    return [-1 if tensor.is_inference() else tensor._version for tensor in tensors_of(modules)]


def _numbers(modules: list[nn.Module]) -> bytes:
    """A digest of some numbers of every tensor that is in memory, in a layout of PyTorch's own."""
    digest = hashlib.sha256()
    for tensor in tensors_of(modules):
        if tensor.layout == torch.strided and not tensor.is_meta:
            digest.update(_sample(tensor.detach()).numpy().data)
    return digest.digest()


def _sample(tensor: Tensor) -> Tensor:
    numbers = tensor.reshape(-1)
    return numbers[:: max(1, len(numbers) // _SAMPLE)].contiguous().view(torch.uint8).cpu()
