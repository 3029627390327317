"""What the matrix products of a step cost, by how many tokens the step has.

A step reads all weights once, however many tokens it has: that is why rows decode together and why drafts are nearly
free. Quantized weights are read in fewer bytes, so that fewer tokens are free; and bitsandbytes multiplies 4-bit
weights in one kernel up to some number of tokens only: beyond, every product first writes its weights out in 16 bits
and then reads those, which is eight times as much.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from rank1_hf.models.cards import TYPICAL_SPEED, Speed, gpu_here
from rank1_hf.models.memory import EXPECTED_ROWS

_SPARE_TOKENS = 128  # that 16-bit weights leave on a GPU, about: it does 150 operations while it reads a byte
_LEAST_FUSED = 4  # on any card
_AS_CHEAP = 1.05  # more rows have other advantages
_STILL_FUSED = 1.25  # a step reads so much more than its least where only small matrices have left the fused kernel


@dataclass(frozen=True, slots=True)
class Product:
    """The weights of one or more linear layers.

    Attributes:
        weights: how many.
        n_bytes: what they take, as they are stored.
        max_fused_gemm_tokens: up to how many tokens they are multiplied as they are stored; beyond, they are
            written out first.
    """

    weights: int
    n_bytes: float
    max_fused_gemm_tokens: float = math.inf

    def bytes_moved(self, n_tokens: float) -> float:
        """What is read and written for so many tokens; the weights, not the states."""
        return self.n_bytes if n_tokens <= self.max_fused_gemm_tokens else self.n_bytes + 2 * self._written

    def seconds(self, n_tokens: float, speed: Speed) -> float:
        """The least time on a GPU, by the roofline (Williams et al. 2009): one kernel, or one after the other."""
        computing = 2 * self.weights * n_tokens / speed.operations
        if n_tokens <= self.max_fused_gemm_tokens:
            return max(self.n_bytes / speed.bandwidth, computing)
        writing = (self.n_bytes + self._written) / speed.bandwidth
        return writing + max(self._written / speed.bandwidth, computing)

    @property
    def _written(self) -> int:
        return self.weights * 2


def products_of(model: PreTrainedModel) -> list[Product]:
    """The linear layers of a loaded model, each as its library multiplies it on its device.

    bitsandbytes is asked about its 4-bit layers. The other libraries have no such number, or none that a step reaches:
    LLM.int8 has one kernel, and gptqmodel writes AWQ weights out beyond 1,024 tokens.
    """
    return [
        Product(
            layer.in_features * layer.out_features, _stored_bytes(layer), _max_fused_gemm_tokens(layer, model.dtype)
        )
        for layer in model.modules()
        if hasattr(layer, "in_features") and hasattr(layer, "out_features")  # as all libraries call them
    ]


def best_rows(products: Iterable[Product], speed: Speed, most: int) -> int:
    """How many rows make a step cheapest for each of them, at most so many.

    More is cheaper, except just beyond a number of tokens up to which weights are multiplied as they are stored.
    """
    products = list(products)
    costs = {n: sum(one.seconds(n, speed) for one in products) / n for n in _numbers(products, most)}
    return max(n for n, cost in costs.items() if cost <= _AS_CHEAP * min(costs.values()))


def step_overhead_tokens(products: Iterable[Product]) -> int:
    """What a step costs before its first token, in tokens: how many more leave it about as fast as it is.

    With so many to spare, drafts (`Scheduler._draft`) make steps of nearly twice as many tokens, so it is half of the
    fused kernel's range at most.
    """
    products = list(products)
    stored, in_16_bits = sum(one.n_bytes for one in products), sum(2 * one.weights for one in products)
    spare = int(_SPARE_TOKENS * min(stored / in_16_bits, 1)) if in_16_bits else _SPARE_TOKENS
    n_fused = max_fused_gemm_tokens(products, most=2 * spare)
    return max(1, min(spare, n_fused // 2 + 1, n_fused - 1))


def max_fused_gemm_tokens(products: Iterable[Product], most: int) -> int:
    """Up to how many tokens, at most so many, a step moves hardly more bytes than with one token."""
    products = list(products)
    bound = _STILL_FUSED * sum(one.bytes_moved(1) for one in products)
    return max((n for n in _numbers(products, most) if sum(one.bytes_moved(n) for one in products) <= bound), default=1)


def _numbers(products: Iterable[Product], most: int) -> set[int]:
    """The numbers of tokens, at most so many, beyond which a step suddenly costs more."""
    return {most, *(int(one.max_fused_gemm_tokens) for one in products if 0 < one.max_fused_gemm_tokens < most)}


def step_sizes(model: PreTrainedModel, device: torch.device) -> tuple[int, int]:
    """How many rows decode together on a GPU, and how many tokens a step there has to spare for drafts."""
    products = products_of(model)
    speed = gpu_here(device).speed if device.type == "cuda" else None
    return best_rows(products, speed or TYPICAL_SPEED, EXPECTED_ROWS), step_overhead_tokens(products)


def _stored_bytes(layer: nn.Module) -> int:
    tensors = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
    return sum(tensor.nbytes for tensor in tensors)


def _max_fused_gemm_tokens(layer: nn.Module, dtype: torch.dtype) -> float:
    """Up to how many tokens of a `dtype` a layer of any library is multiplied as it is stored."""
    state, device = getattr(layer.weight, "quant_state", None), layer.weight.device
    if state is None or device.type != "cuda":  # on a CPU there is no fused kernel, or one for any number
        return math.inf
    if dtype == torch.float16:  # what else a layer is given is what it computes in, too
        dtype = getattr(layer, "compute_dtype", None) or dtype
    n, k = int(layer.out_features), int(layer.in_features)  # type: ignore[arg-type]
    return 0 if k % state.blocksize else fused_4bit_tokens(device, dtype, n, k)


def fused_4bit_tokens(device: torch.device, dtype: torch.dtype, n: int, k: int) -> int:
    """Up to how many tokens bitsandbytes multiplies 4-bit weights [n, k] in its fused kernel on a CUDA device.

    It is asked itself (0.50 and newer); where a version does not answer, by the figures of `cards.GPUS`.
    """
    try:
        from bitsandbytes.backends.cuda import ops

        most, is_fused = ops._gemm_4bit_custom_max_m, ops._gemm_4bit_use_custom_fn
    except (ImportError, AttributeError):
        known = gpu_here(device).fused_4bit
        return _LEAST_FUSED if known is None else known.of(n, k)
    index = torch.cuda.current_device() if device.index is None else device.index
    left = (m for m in range(1, 2 * EXPECTED_ROWS) if m > most or not is_fused(index, dtype, m, n, k))
    return next(left, 2 * EXPECTED_ROWS) - 1
