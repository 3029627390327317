"""What has been done to a model's modules from outside: hooks, other weights, other parts."""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as torch_module

_Hooks = list[Mapping[int, Any]]

_NAMED = 3  # modules in a message


def hooks_of(modules: Iterable[nn.Module]) -> _Hooks:
    """Where the forward hooks of modules are kept, and those of all modules there are: `any` of it says whether there
    are some, as cheaply as a step can ask.
    """
    own = (table for module in modules for table in (module._forward_hooks, module._forward_pre_hooks))
    return [torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks, *own]


class ModuleState:
    """All that modules compute with, as it is now: the modules themselves, their classes' forwards and those put in
    the place of these, their parameters and buffers and where these lie, and plain attributes as a norm's epsilon.

    What has been put away is not kept alive, and what is new at its address is not taken for it.
    """

    def __init__(self, modules: Iterable[nn.Module] = ()) -> None:
        modules = list(modules)
        self._parts = [_reference(part) for part in _parts(modules)]
        self._values = _values(modules)

    def is_of(self, modules: Iterable[nn.Module]) -> bool:
        """Whether modules are still in this state. It does not see numbers that were written into a tensor."""
        modules = list(modules)
        parts = _parts(modules)
        same = len(parts) == len(self._parts) and all(
            part is reference() for part, reference in zip(parts, self._parts, strict=True)
        )
        return same and _values(modules) == self._values


@contextmanager
def noting_hooks(model: nn.Module) -> Iterator[None]:
    """Add to an error from within the model's forward that hooks of the caller are on it, and what they must give."""
    try:
        yield
    except Exception as error:
        hooked = [name or "the model itself" for name, module in model.named_modules() if any(hooks_of([module])[2:])]
        if any(hooks_of([])):
            hooked.append("all modules there are (registered globally)")
        if hooked and _is_from_a_module(error):
            more = f" and {len(hooked) - _NAMED} more" if len(hooked) > _NAMED else ""
            error.add_note(
                f"There are forward hooks on {', '.join(hooked[:_NAMED])}{more}, so one of them may be the cause. What "
                f"a decoder layer gives is a tensor of shape [1, tokens, hidden size] in the model's dtype "
                f"({str(getattr(model, 'dtype', None)).removeprefix('torch.')}), and so must be what its hook returns; "
                "a hook that returns None changes nothing."
            )
        raise


def _is_from_a_module(error: Exception) -> bool:
    frames = (frame for frame, _ in walk_tb(error.__traceback__))
    return any(isinstance(frame.f_locals.get("self"), nn.Module) for frame in frames)


def tensors_of(modules: Iterable[nn.Module]) -> list[Tensor]:
    """Their own parameters and buffers."""
    tables = (table for module in modules for table in (module._parameters, module._buffers))
    return [tensor for table in tables for tensor in table.values() if tensor is not None]


def _parts(modules: list[nn.Module]) -> list[object]:
    forwards = [forward for module in modules for forward in (type(module).forward, replaced_forward(module))]
    return [*modules, *forwards, *tensors_of(modules)]


def replaced_forward(module: nn.Module) -> object:
    """The forward that was put in the place of its class's; None where that is the class's own, put back."""
    forward = vars(module).get("forward")
    is_own = getattr(forward, "__self__", None) is module and getattr(forward, "__func__", None) is type(module).forward
    return None if is_own else forward


def _values(modules: list[nn.Module]) -> list[object]:
    attributes = [
        (name, value)
        for module in modules
        for name, value in vars(module).items()
        if type(value) in (int, float, str, bool) and name != "training"
    ]
    return [attributes, [(_address(tensor), tensor.shape, tensor.dtype) for tensor in tensors_of(modules)]]


def _address(tensor: Tensor) -> int | None:
    """Where its numbers lie; None for one in a library's own layout."""
    try:
        return tensor.data_ptr()
    except RuntimeError:
        return None


def _reference(part: object) -> Callable[[], object]:
    try:
        return weakref.ref(part)
    except TypeError:  # None, and few others, which are kept
        return lambda: part
