"""What has been done to a model's modules from outside: hooks, other weights, other parts."""

from collections.abc import Iterable

from torch import nn


def have_hooks(modules: Iterable[nn.Module]) -> bool:
    """Whether any of them calls a forward hook."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def identities(modules: Iterable[nn.Module]) -> list[int]:
    """Of all that they compute with: the modules, forwards put in the place of their own, and parameters."""
    return [id(x) for module in modules for x in (module, vars(module).get("forward"), *module._parameters.values())]
