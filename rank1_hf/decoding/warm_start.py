"""What the first pair on a GPU waits for: prepared while weights load as far as it can be, and said.

Triton compiles a kernel when it is first launched, in seconds, and keeps it on disk for later processes. So each is
launched once on next to nothing while the weights come from disk. CUDA graphs need the weights: the first are captured
right behind them (`Decoder.warm_up`).
"""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PretrainedConfig

from rank1_hf.decoding.kernels import kernels_for
from rank1_hf.decoding.kernels.contract import Kernels, PagedBatch
from rank1_hf.decoding.options import PAGE_SIZE
from rank1_hf.models.cards import has_bfloat16
from rank1_hf.models.memory import head_dim, kv_heads

logger = logging.getLogger(__name__)

_LONGEST_QUERIES = (1, 8, 1024)  # a decode step, a draft, prefill: each has blocks of its own
_WIDTHS = (1, 16)  # pages of a context that is not split, and of one that is


def compile_at_launch(device: torch.device) -> bool:
    """Whether a device's kernels are compiled when they are first launched, as Triton's are; a CPU's are before."""
    return device.type == "cuda"


@contextmanager
def kernels_compiling(
    device: torch.device, config: PretrainedConfig, dtype: torch.dtype | None, page_size: int = PAGE_SIZE
) -> Iterator[None]:
    """Compile a device's kernels for a model in a thread meanwhile. Where there are none, or it fails, nothing happens.

    Args:
        device: where the model will compute.
        config: the model's.
        dtype: of its activations; None: the config's.
        page_size: of the KV cache.
    """
    dtype = dtype or getattr(config, "dtype", None) or torch.float32
    if dtype == torch.bfloat16 and not has_bfloat16(device):
        dtype = torch.float16
    kernels = kernels_for(device, config, dtype)
    if kernels is None or not compile_at_launch(device):
        yield
        return
    logger.info("loading the weights; meanwhile the kernels of the GPU are compiled")
    thread = threading.Thread(target=_compile, args=(kernels, device, config, dtype, page_size), daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _compile(
    kernels: Kernels, device: torch.device, config: PretrainedConfig, dtype: torch.dtype, page_size: int
) -> None:
    start = time.monotonic()
    try:
        launch_all(kernels, device, config, dtype, page_size)
    except Exception as error:  # what is wrong shows again where the kernel is needed
        logger.info("the kernels of the GPU could not be compiled ahead: %s", error)
    else:
        logger.info("the kernels of the GPU were compiled, or found on disk, within %.1f s", time.monotonic() - start)


@torch.inference_mode()
def launch_all(
    kernels: Kernels, device: torch.device, config: PretrainedConfig, dtype: torch.dtype, page_size: int = PAGE_SIZE
) -> None:
    """Launch every variant of the kernels that a model's steps need, on one row of padding, which reads no context."""
    heads = config.num_attention_heads
    size = head_dim(config)
    pool = torch.zeros(1, kv_heads(config), page_size, size, dtype=dtype, device=device)
    for longest_query in _LONGEST_QUERIES:
        queries = torch.zeros(longest_query, heads, size, dtype=dtype, device=device)
        for width in _WIDTHS:
            batch = PagedBatch(
                query_starts=torch.tensor([0, longest_query], dtype=torch.int32, device=device),
                context_lengths=torch.zeros(1, dtype=torch.int32, device=device),
                block_table=torch.zeros(1, width, dtype=torch.int32, device=device),
                longest_query=longest_query,
            )
            kernels.attend(queries, pool, pool, batch, 1.0, None)
    _launch_others(kernels, device, config, dtype, pool)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _launch_others(
    kernels: Kernels, device: torch.device, config: PretrainedConfig, dtype: torch.dtype, pool: Tensor
) -> None:
    """What fused layers and the end of a step launch, for one token that is not stored."""

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    states, weight = zeros(1, config.hidden_size), zeros(config.hidden_size)
    for residual in (None, states):
        kernels.add_rms_norm(states, residual, weight, 1.0)
    n_heads, n_kv_heads, size = config.num_attention_heads, pool.shape[1], pool.shape[3]
    queries, keys, values = zeros(1, n_heads, size), zeros(1, n_kv_heads, size), zeros(1, n_kv_heads, size)
    angles, slots = zeros(1, size), torch.full((1,), -1, dtype=torch.int32, device=device)
    kernels.rotate_and_write(queries, keys, values, angles, angles, pool, pool, slots)
    gated = zeros(1, config.intermediate_size)
    kernels.gate(gated, gated, "silu")
    kernels.read_logits(zeros(1, config.vocab_size), torch.zeros(2, dtype=torch.long, device=device))


class FirstPair:
    """Says what the first pair waits for, and afterwards for how long it did.

    Args:
        waits_for: in words; nothing is said where that is nothing.
    """

    def __init__(self, waits_for: Sequence[str]) -> None:
        self._waits_for = waits_for
        self._start: float | None = None
        self._is_judged = not waits_for

    def asked(self) -> None:
        """A run begins."""
        if self._start is None:
            self._start = time.monotonic()
            if self._waits_for:
                logger.info("the first pair waits for %s", " and ".join(self._waits_for))

    def judged(self) -> None:
        """Some pair is finished."""
        if not self._is_judged and self._start is not None:
            self._is_judged = True
            logger.info("the first pair was judged within %.1f s", time.monotonic() - self._start)
