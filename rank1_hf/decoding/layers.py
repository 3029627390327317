"""Fused decoder layers: what lies between a layer's matrix products runs in a few kernels (`kernels/`).

    norm -> q, k, v -> rotate and write -> attend -> o -> add and norm -> gate, up -> gate -> down -> add

The unchanged Transformers model stays the truth. A layer is recognized by its modules (RMSNorm, attention with a rotary
embedding and perhaps q/k norms, a gated MLP: Qwen2, Qwen3, Llama, Mistral and others), computed in both ways on a trial
input, and fused only where both agree. Its own forward is still what runs for `generate()`, for a decoder that fuses
nothing, and while a hook or another module is in one of its parts, which a fused layer would pass over.
"""

import logging
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from rank1_hf.decoding.attention import attend_step, attention_of, paged_attention
from rank1_hf.decoding.kernels.contract import Kernels
from rank1_hf.decoding.kv_cache import KVCache, RowKV
from rank1_hf.decoding.merged import merge_products, product, separate_products
from rank1_hf.decoding.modules import ModuleState, hooks_of, replaced_forward
from rank1_hf.decoding.step import RowSlice, Step, TokenStep
from rank1_hf.models.placement import device_of

logger = logging.getLogger(__name__)

_PARTS = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}
_QKV, _GATE_UP = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
_ATTENTION = {*_QKV, "o_proj"}
_HEAD_NORMS = ("q_norm", "k_norm")
_MLP = {*_GATE_UP, "down_proj", "act_fn"}
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}
_TRIAL = "rank1_trial"
_TRIAL_ROWS = 5, 1, 2  # tokens of each row
_TRIAL_SCALE = 0.02  # of the input, so that what a layer adds to it is what is compared
_ROUNDING = 8  # units of the dtype's rounding that the two ways may differ by,
_LEAST_DIFFERENCE = 1e-5  # or so much: in float32 sums in another order differ by more units than one rounding


class Attends(NamedTuple):
    """What a layer's own forward asks of the attention function."""

    scaling: float
    window: int | None


class FusedLayer:
    """One decoder layer by kernels. Stands in for the layer's `forward`.

    Args:
        layer: of the form above.
        attends: how it attends.
    """

    def __init__(self, layer: Any, attends: Attends) -> None:  # noqa: ANN401  # its parts have no types
        self._layer, self._own = layer, type(layer).forward
        self._attends = attends
        attention, mlp = layer.self_attn, layer.mlp
        self._index, self._head_dim = int(attention.layer_idx), int(attention.head_dim)
        # Looked up once: that takes a module as long as a small kernel. `begin` notices where they become others.
        self._norms = _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)
        self._head_norms = [_norm(getattr(attention, name)) for name in _HEAD_NORMS if hasattr(attention, name)]
        self._qkv = separate_products([attention.get_submodule(name) for name in _QKV])
        self._o_proj = attention.o_proj
        self._gate_up = separate_products([mlp.get_submodule(name) for name in _GATE_UP])
        self._activation = _activation(mlp.act_fn)
        self._down_proj = mlp.down_proj
        self._as_built = ModuleState()
        self._is_as_built = True
        self._hooks = hooks_of(self._parts())

    def install(self) -> None:
        """Take the place of the layer's forward, and merge its products."""
        self._qkv = merge_products(self._layer.self_attn, _QKV)
        self._gate_up = merge_products(self._layer.mlp, _GATE_UP)
        if _is_moved(self._layer):
            self._layer._old_forward = self.forward  # what accelerate's hook calls
        else:
            self._layer.forward = self.forward
        self._as_built, self._hooks = ModuleState(self._parts()), hooks_of(self._parts())

    def remove(self) -> None:
        """Give the layer its forward back."""
        if _is_moved(self._layer):
            self._layer._old_forward = MethodType(type(self._layer).forward, self._layer)
        else:
            del self._layer.forward

    def begin(self) -> bool:
        """A run begins: whether the layer's parts are as they were, without hooks. Otherwise its own forward runs."""
        parts = self._parts()
        self._is_as_built = type(self._layer).forward is self._own and self._as_built.is_of(parts)
        self._hooks = hooks_of(parts)
        return self._is_as_built and not any(self._hooks)

    def forward(self, hidden_states: Tensor, *args: Any, fused: bool = False, **kwargs: Any) -> Any:  # noqa: ANN401
        """As the layer's own. `fused` is what the decoder passes through the model beside `step`."""
        if not fused or not self._is_as_built or any(self._hooks):
            return type(self._layer).forward(self._layer, hidden_states, *args, **kwargs)
        return self.fused(hidden_states[0], kwargs["position_embeddings"], kwargs["step"])[None]

    def fused(self, states: Tensor, position_embeddings: tuple[Tensor, Tensor], step: Step | TokenStep) -> Tensor:
        """[tokens, hidden size] to the same. `position_embeddings`: cos and sin, [1, tokens, rotated dims].

        In functions of their own, so that what each part computes is freed before the next.
        """
        step = step.on(states.device)
        kernels = step.kernels
        before_attention, before_mlp = self._norms
        normed, _ = kernels.add_rms_norm(states, None, *before_attention)
        normed, states = kernels.add_rms_norm(
            self._attention(normed, position_embeddings, step, kernels), states, *before_mlp
        )
        return self._mlp(normed, kernels).add_(states)

    def _attention(
        self, normed: Tensor, position_embeddings: tuple[Tensor, Tensor], step: Step | TokenStep, kernels: Kernels
    ) -> Tensor:
        n_tokens = normed.shape[0]
        queries, keys, values = (x.view(n_tokens, -1, self._head_dim) for x in self._qkv(normed))
        if self._head_norms:
            queries, keys = (
                kernels.add_rms_norm(x, None, *norm)[0]
                for x, norm in zip((queries, keys), self._head_norms, strict=True)
            )
        cos, sin = (x[0] for x in position_embeddings)
        pools = step.cache.pools(self._index, keys)
        queries = kernels.rotate_and_write(queries, keys, values, cos, sin, *pools, step.slot_mapping)
        return product(self._o_proj, attend_step(queries, self._index, step, *self._attends).flatten(1))

    def _mlp(self, normed: Tensor, kernels: Kernels) -> Tensor:
        gated, up = self._gate_up(normed)
        states = kernels.gate(gated, up, self._activation)
        del gated, up  # the largest of a layer
        return product(self._down_proj, states)

    def _parts(self) -> list[nn.Module]:
        return [part for part in self._layer.modules() if part is not self._layer]


class FusedLayers:
    """The layers of a model that are fused.

    Args:
        layers: by their index.
        n_layers: how many the model has in all.
    """

    def __init__(self, layers: Mapping[int, nn.Module], n_layers: int) -> None:
        self._layers, self._n_layers = layers, n_layers

    def begin(self) -> bool:
        """A run begins: notice what has been done to the model since the last one.

        Returns:
            Whether all of its layers run fused.
        """
        found = ((index, _fused(layer)) for index, layer in self._layers.items())
        fused = {index: layer for index, layer in found if layer is not None}
        touched = [index for index, layer in fused.items() if not layer.begin()]
        if touched:
            logger.warning("layers %s have hooks or changed parts: their own forward runs, not the fused one", touched)
        return not touched and 0 < len(fused) == self._n_layers


@torch.inference_mode()
def fuse_layers(model: PreTrainedModel, kernels: Kernels, page_size: int) -> FusedLayers:
    """Fuse the layers of a model that can be, in place, and say which cannot.

    Args:
        model: one whose attention `check_attention` allows.
        kernels: those of its device.
        page_size: of the KV cache.
    """
    layers = list(getattr(model.base_model, "layers", ()))
    fused: dict[int, nn.Module] = {}
    reasons: dict[str, list[int]] = {}
    for index, layer in enumerate(layers):
        if (there := _fused(layer)) is not None:  # by another decoder of this model
            if there.begin():
                fused[index] = layer
                continue
            there.remove()
        try:
            candidate = _checked(model, layer, kernels, page_size)
        except (ValueError, TypeError, AttributeError, RuntimeError, NotImplementedError) as error:
            reasons.setdefault(str(error), []).append(index)
            continue
        with torch.inference_mode(mode=False):  # weights stay ordinary tensors
            candidate.install()
        fused[index] = layer
    for reason, which in reasons.items():
        logger.info("layers %s run as they are, which is slower than fused: %s", which, reason)
    return FusedLayers(fused, len(layers))


def _checked(model: PreTrainedModel, layer: nn.Module, kernels: Kernels, page_size: int) -> FusedLayer:
    """The fused layer, computed beside the original on a trial input.

    Raises:
        ValueError: its form is another, or both disagree.
    """
    _check_form(layer)
    base: Any = model.base_model
    cache = KVCache(page_size=page_size)
    slices = []
    for n in _TRIAL_ROWS:
        row = RowKV()
        cache.extend(row, n)
        slices.append(RowSlice(row, [0] * n))
    device = device_of(layer)
    step = Step(cache, slices, device, kernels=kernels)
    random = torch.Generator().manual_seed(0)
    states = torch.randn(1, step.n_tokens, model.config.hidden_size, generator=random) * _TRIAL_SCALE
    states = states.to(device, model.dtype)
    position_embeddings = tuple(x.to(device) for x in base.rotary_emb(states, step.position_ids))
    noted: list[Attends] = []

    def note(*args: Any, scaling: float, sliding_window: int | None = None, **kwargs: Any) -> Any:  # noqa: ANN401
        noted.append(Attends(scaling, sliding_window))
        return paged_attention(*args, scaling=scaling, sliding_window=sliding_window, **kwargs)

    AttentionInterface.register(_TRIAL, note)
    with attention_of(model, _TRIAL):
        rotated = {"position_embeddings": position_embeddings, "position_ids": step.position_ids}
        expected = layer.forward(states, **rotated, step=step)  # past the hooks on it, which are called all the same
    if not isinstance(expected, Tensor) or len(noted) != 1:
        raise ValueError("its form is another")
    candidate = FusedLayer(layer, noted[0])
    found = candidate.fused(states[0], position_embeddings, step)
    error = _relative_difference(found, expected[0])
    if not error <= max(_ROUNDING * torch.finfo(model.dtype).eps, _LEAST_DIFFERENCE):
        raise ValueError(f"fused, it would give something else (relative difference {error:.1g})")
    return candidate


def _relative_difference(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def _check_form(layer: nn.Module) -> None:
    parts = dict(layer.named_children())
    forms = {"self_attn": _ATTENTION, "mlp": _MLP} if set(parts) == _PARTS else {}
    is_known = bool(forms) and all(
        set(dict(parts[name].named_children())) - {*_HEAD_NORMS} == children for name, children in forms.items()
    )
    if not is_known:
        raise ValueError("its form is another")
    within = list(layer.modules())[1:]  # hooks of the layer itself are called all the same
    is_own = getattr(_forward_of(layer), "__func__", None) is type(layer).forward
    if not is_own or any(hooks_of(within)) or any(map(replaced_forward, within)):
        raise ValueError("its parts have hooks or a forward that is not their own")


def _fused(layer: nn.Module) -> FusedLayer | None:
    found = getattr(_forward_of(layer), "__self__", None)
    return found if isinstance(found, FusedLayer) else None


def _is_moved(layer: nn.Module) -> bool:
    """Whether accelerate has put a forward of its own into the layer, which moves the input to the layer's device."""
    return "_old_forward" in vars(layer)


def _forward_of(layer: Any) -> Callable[..., Any]:  # noqa: ANN401
    """What runs when the layer is called, but for accelerate's moving."""
    forward: Callable[..., Any] = layer._old_forward if _is_moved(layer) else layer.forward
    return forward


def _activation(function: nn.Module) -> str:
    """By what it computes: Transformers has several modules for one function."""
    x = torch.linspace(-4, 4, 33)
    for name, known in _ACTIVATIONS.items():
        if torch.allclose(function(x), known(x), atol=1e-6):
            return name
    raise ValueError(f"there is no kernel for {type(function).__name__}")


def _norm(module: nn.Module) -> tuple[Tensor, float]:
    eps = getattr(module, "variance_epsilon", None)
    return module.weight, float(module.eps if eps is None else eps)  # type: ignore[return-value, arg-type]
