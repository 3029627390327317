"""CUDA tensors on a machine without a GPU: they have a shape, a dtype and a device, and operations are noted, not run.

A step that runs on them has asked the device for nothing: what would have to be waited for has no value here.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import pytest
import torch
from accelerate.hooks import attach_align_device_hook_on_blocks
from torch import Tensor
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from rank1_hf.chains.chain import ChainRules
from rank1_hf.decoding import defaults, graphs, kv_cache, layers, loop, step
from rank1_hf.decoding.kernels.contract import MAX_BATCHED_NEW_TOKENS, PagedBatch
from rank1_hf.decoding.kv_cache import RowKV
from rank1_hf.decoding.loop import Decoder
from rank1_hf.decoding.options import DecodingOptions
from rank1_hf.decoding.step import RowSlice, Step
from rank1_hf.models import products
from rank1_hf.models.cards import GPUS
from rank1_hf.models.family import FAMILY
from rank1_hf.models.memory import MAX_SPLITS
from rank1_hf.models.placement import keep_layer_hooks

DEVICE = torch.device("cuda", 0)  # with its number: a build for CPUs cannot say which device is current


class Launches(TorchDispatchMode):
    """Notes the names of all operations that launch something on the device, and refuses those that should not be.

    Refused are, besides what fake tensors refuse (to give a value, to mix devices, to make a shape of values): copies
    from host to device or back that are waited for; indices that lie on the host; and PyTorch's own attention.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function._schema.name.removeprefix("aten::")
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        devices = {one.device.type for one in given if one.dim()}
        assert "scaled_dot_product" not in name, "there are kernels for attention"
        if name in ("index", "index_put_") and "cuda" in devices:
            indices = [index for index in args[1] if index is not None]
            there = args[0].device
            assert all(index.device == there and index.dtype != torch.bool for index in indices), f"{name}: waits"
        found = function(*args, **kwargs)
        made = [one for one in tree_leaves(found) if isinstance(one, Tensor)]
        if len(devices | {one.device.type for one in made}) > 1:
            assert kwargs.get("non_blocking") or (name == "copy_" and args[2:] == (True,)), f"{name}: a copy that waits"
        storages = {one.untyped_storage()._cdata for one in given}
        is_view = not function._schema.is_mutable and all(one.untyped_storage()._cdata in storages for one in made)
        if not is_view and "empty" not in name and any(one.numel() and one.is_cuda for one in made):
            self.names.append(name)
        return found


class NotedKernels:
    """Stands for the kernels of a GPU: checks what they are given, and notes their launches."""

    UNIFORM_PAGES = 128

    def __init__(self, launches: Launches) -> None:
        self._launches = launches

    def attend(
        self, queries: Tensor, key_pool: Tensor, value_pool: Tensor, batch: PagedBatch, scaling: float, window: None
    ) -> Tensor:
        """Two launches: contexts may be split, and then are merged."""
        assert queries[0].is_contiguous()
        assert key_pool.is_contiguous()
        assert value_pool.is_contiguous()
        assert key_pool.device == value_pool.device == queries.device
        for table in (batch.query_starts, batch.context_lengths, batch.block_table):
            assert (table.device, table.dtype) == (queries.device, torch.int32)
        assert batch.block_table.stride(1) == 1
        assert len(batch.query_starts) == len(batch.context_lengths) + 1 == len(batch.block_table) + 1
        self._launches.names += ["attend", "merge"]
        if batch.longest_query <= MAX_BATCHED_NEW_TOKENS:
            torch.empty(
                *queries.shape[:2], MAX_SPLITS, queries.shape[2] + 1, dtype=torch.float32, device=queries.device
            )
        return torch.empty(queries.shape, dtype=queries.dtype, device=queries.device)

    def add_rms_norm(
        self, states: Tensor, residual: Tensor | None, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        assert states.shape[-1:] == weight.shape
        assert states.device == weight.device
        return self._note("add_rms_norm", states.shape, states), states

    def rotate_and_write(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        cos: Tensor,
        sin: Tensor,
        key_pool: Tensor,
        value_pool: Tensor,
        slots: Tensor,
    ) -> Tensor:
        assert keys.shape == values.shape
        assert keys.shape[1:] == (key_pool.shape[1], key_pool.shape[3])
        assert (slots.device, slots.dtype, len(slots)) == (queries.device, torch.int32, len(queries))
        assert {x.device for x in (keys, values, cos, sin, key_pool, value_pool)} == {queries.device}
        return self._note("rotate_and_write", queries.shape, queries)

    def gate(self, gated: Tensor, up: Tensor, activation: str) -> Tensor:
        assert gated.shape == up.shape
        return self._note("gate", gated.shape, gated)

    def read_logits(self, logits: Tensor, answers: Tensor) -> Tensor:
        assert answers.device == logits.device
        return self._note("read_logits", (len(logits), 4), logits, torch.float32)

    def _note(self, name: str, shape: Sequence[int], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        self._launches.names.append(name)
        return torch.empty(shape, dtype=dtype or like.dtype, device=like.device)


class Captured:
    """Stands for a capture; its replays do nothing."""

    def __call__(self, function: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        return function(), lambda: None

    def renew(self) -> None: ...


Parts = list[tuple[RowKV, list[int]]]
"""Rows, and the tokens that each brings."""


class FakeGpu:
    """A decoder over a family member's shape, whose model and KV cache are fake."""

    def __init__(self, decoder: Decoder, launches: Launches) -> None:
        self.decoder = decoder
        self.cache = decoder._cache
        self.launches = launches

    def eager(self, parts: Parts, previous_tokens: Tensor | None = None) -> Tensor:
        """A step that is not captured, read behind each row's last token."""
        slices = self._extended(parts)
        with torch.inference_mode(), self.launches:
            one = Step(self.cache, slices, DEVICE, previous_tokens=previous_tokens, kernels=self.decoder._kernels)
            lengths = [len(part.tokens) for part in slices]
            with_logits = step.tensor_on(self.decoder._logits_device, [n - 1 for n in accumulate(lengths)])
            return self.decoder._read(one, with_logits)

    def captured(self, parts: Parts, previous_tokens: Tensor | None = None) -> Tensor:
        """A decode step, captured if its shape is new, and replayed."""
        slices = self._extended(parts)
        with torch.inference_mode(), self.launches:
            found = self.decoder._graphs.run(slices, previous_tokens)
        assert found is not None
        return found

    def _extended(self, parts: Parts) -> list[RowSlice]:
        for row, tokens in parts:
            self.cache.extend(row, len(tokens))
        self.launches.names.clear()
        return [RowSlice(row, tokens) for row, tokens in parts]


@contextmanager
def fake_gpu(
    name: str, n_layers: int, monkeypatch: pytest.MonkeyPatch, *, n_gpus: int = 1, **settings: Any
) -> Iterator[FakeGpu]:
    """A decoder on a GPU that is not there.

    Args:
        name: of a family member, as in "7b".
        n_layers: instead of the member's.
        monkeypatch: for what only a CUDA build of PyTorch can do.
        n_gpus: the layers are spread over so many, as accelerate does it.
        settings: of the config, instead of the member's.
    """
    launches = Launches()
    torch._C._ensureCUDADeviceGuardSet()
    monkeypatch.setattr(FakeTensor, "__getitem__", _getitem, raising=False)
    monkeypatch.setattr(FakeTensor, "__setitem__", _setitem, raising=False)
    monkeypatch.setattr(FakeTensor, "copy_", lambda *args: torch.ops.aten.copy_.default(*args), raising=False)
    monkeypatch.setattr(products, "gpu_here", lambda device: GPUS["h100"])
    monkeypatch.setattr(graphs, "CudaCapture", lambda device: Captured())
    for module in (defaults, loop):
        monkeypatch.setattr(module, "kernels_for", lambda *model: NotedKernels(launches))
    monkeypatch.setattr(layers, "_relative_difference", lambda found, expected: 0.0)  # numbers there are none
    monkeypatch.setattr(layers, "_activation", lambda module: "silu")
    for module in (step, loop, graphs, kv_cache):
        monkeypatch.setattr(module, "tensor_on", _tensor_on)
    with torch.device("meta"):
        config = AutoConfig.for_model(**FAMILY[f"jhu-clsp/rank1-{name}"] | {"num_hidden_layers": n_layers} | settings)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device=DEVICE) if n_gpus == 1 else _spread(model, n_gpus, monkeypatch)
        rules = ChainRules(close=(7,), eos=frozenset({8}), force_close=lambda p, t: [*p, *t, 7], rethink=None)
        options = DecodingOptions(kv_cache_tokens=2**16)
        yield FakeGpu(Decoder(model, rules, true_id=3, false_id=4, options=options), launches)


def _spread(model: PreTrainedModel, n_gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `accelerate.dispatch_model`, which asks for real GPUs."""
    gpus = [torch.device("cuda", n) for n in range(n_gpus)]
    layers = len(model.model.layers)
    places = {f"model.layers.{n}": gpus[n * n_gpus // layers] for n in range(layers)}
    places |= {"model.embed_tokens": gpus[0], "model.rotary_emb": gpus[0], "model.norm": gpus[-1], "lm_head": gpus[-1]}
    for module, gpu in places.items():
        model.get_submodule(module).to_empty(device=gpu)
    monkeypatch.setattr("accelerate.hooks.set_module_tensor_to_device", lambda *where, **how: None)  # they are there
    in_place = dict.fromkeys(places, False)
    attach_align_device_hook_on_blocks(model, execution_device=places | {"": gpus[0]}, offload=in_place)
    model.hf_device_map = places
    keep_layer_hooks(model)


def _tensor_on(device: torch.device, values: Any) -> Tensor:
    """As `tensors.tensor_on`, without pinned memory; and a tensor of one value must not be remembered as that value."""
    on_host = torch.empty(torch.tensor(values).shape, dtype=torch.long)
    return on_host.to(device, non_blocking=True)


# PyTorch's own subscripts, and its `copy_`, need a build for CUDA.


def _getitem(tensor: Tensor, key: Any) -> Tensor:
    view, indices = _basic(tensor, key)
    return torch.ops.aten.index.Tensor(view, indices) if indices else view


def _setitem(tensor: Tensor, key: Any, value: Any) -> None:
    view, indices = _basic(tensor, key)
    if indices:
        torch.ops.aten.index_put_.default(view, indices, torch.as_tensor(value))
    elif isinstance(value, Tensor):
        view.copy_(value)
    else:
        view.fill_(value)


def _basic(tensor: Tensor, key: Any) -> tuple[Tensor, list[Tensor | None]]:
    """What a subscript takes a view of, and the indices into that view; none where the view is all."""
    parts = list(key) if isinstance(key, tuple) else [key]
    if Ellipsis in [part for part in parts if not isinstance(part, Tensor)]:
        at = [part is Ellipsis for part in parts].index(True)
        n_given = sum(part is not None for part in parts) - 1
        parts[at : at + 1] = [slice(None)] * (tensor.dim() - n_given)
    dim, indices = 0, []
    for part in parts:
        if isinstance(part, int):
            tensor = tensor.select(dim, part)
            continue
        if part is None:
            tensor = tensor.unsqueeze(dim)
        elif isinstance(part, slice):
            tensor = torch.ops.aten.slice.Tensor(tensor, dim, part.start, part.stop, part.step or 1)
        else:
            indices += [None] * (dim - len(indices)) + [torch.as_tensor(part)]
        dim += 1
    return tensor, indices
