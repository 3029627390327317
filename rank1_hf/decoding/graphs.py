"""Decode steps as CUDA graphs: captured once for each shape, then replayed with nothing of Python's between kernels.

A step in which every row brings a few tokens (one, or a draft, or the end of a forced close) is a table of tokens: each
with its id, its position and the pages of its row. That table is all that changes from replay to replay. It is filled
up to one of a few numbers of tokens by repeating its first token, which writes the same KV to the same place again.

Graphs are a matter of speed alone. Whatever stands in their way (an operation that waits for the device, no memory, a
forward hook, which a replay would leave out) costs the graphs and no pair: the step runs in the ordinary way.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn
from transformers import PreTrainedModel

from rank1_hf.decoding.kernels.contract import Kernels
from rank1_hf.decoding.kv_cache import KVCache
from rank1_hf.decoding.modules import ModuleState, hooks_of
from rank1_hf.decoding.step import RowSlice, TokenStep, fill_placeholders
from rank1_hf.decoding.tensors import tensor_on
from rank1_hf.models.memory import MAX_CAPTURED_TOKENS
from rank1_hf.models.placement import is_split

logger = logging.getLogger(__name__)

MAX_TOKENS_PER_ROW = 16
"""The most of one row: each of its tokens reads the row's whole context for itself."""

_LEAST_PAGES = 16  # of a row in a table, so that contexts up to 1,024 tokens need one graph for each number of tokens

_REUSE = 1.5  # a captured step of up to so many times the tokens is used before another is captured

Replay = Callable[[], None]


class Capture(Protocol):
    """Runs a function, and gives its result and what will update that result in place."""

    def __call__(self, function: Callable[[], Tensor]) -> tuple[Tensor, Replay]:
        """May raise `RuntimeError`; the function can then be run in the ordinary way all the same."""

    def renew(self) -> None:
        """All results given so far are gone."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A captured step: what it reads, what it leaves, and how to run it again."""

    table: Tensor
    output: Tensor
    replay: Replay


class DecodeGraphs:
    """The captured steps of one model.

    Args:
        model: the one that `forward` runs.
        forward: runs it on a `TokenStep`; [tokens, ...] for as many tokens.
        cache: where the rows keep their KV.
        kernels: those that attend: they read tables of pages, whose shapes do not follow the rows' lengths.
        device: the model's.
        capture: None: `CudaCapture`.
    """

    def __init__(
        self,
        model: nn.Module,
        forward: Callable[[TokenStep], Tensor],
        cache: KVCache,
        kernels: Kernels,
        device: torch.device,
        capture: Capture | None = None,
    ) -> None:
        self._model = model
        self._forward = forward
        self._cache = cache
        self._kernels = kernels
        self._device = device
        self._capture = capture or CudaCapture(device)
        self._graphs: dict[tuple[int, int], Graph] = {}
        self._n_moves = 0  # of the pools; a graph knows them by their addresses
        self._works = True
        self._captured_state = ModuleState()
        self._hooks = hooks_of(())

    def begin(self) -> None:
        """A run begins: notice what has been done to the model since the last one."""
        modules = list(self._model.modules())
        if not self._captured_state.is_of(modules):
            self.clear()
            self._captured_state = ModuleState(modules)
        self._hooks = hooks_of(modules)
        if any(self._hooks):
            logger.warning("the model has forward hooks, which a replay would leave out: steps run without CUDA graphs")

    def run(self, slices: list[RowSlice], previous_tokens: Tensor | None = None) -> Tensor | None:
        """Run a step of these rows, with `previous_tokens` as in `Step`. None: it has to be run in the ordinary way."""
        if not self._works or any(self._hooks) or not _is_decoding(slices) or not self._cache.is_allocated:
            return None
        tokens = _token_table(slices)
        n_tokens, n_pages = len(tokens), _padded_pages(max(len(part.kv.pages) for part in slices))
        if self._cache.grow_pools() != self._n_moves:
            self.clear()
            self._n_moves = self._cache.n_moves
        n_padded, n_pages = self._shape(n_tokens, n_pages)
        tokens += tokens[:1] * (n_padded - n_tokens)
        table = tensor_on(self._device, [row + [0] * (2 + n_pages - len(row)) for row in tokens])
        table[:, 0] = fill_placeholders(table[:, 0], previous_tokens)
        if (n_padded, n_pages) not in self._graphs:
            failure = ""
            try:
                self._graphs[n_padded, n_pages] = self._captured(table)
            except RuntimeError as error:
                failure = str(error) or type(error).__name__
            if failure:  # outside of the handler, whose traceback holds on to the step's tensors
                self._give_up(failure)
                return None
        graph = self._graphs[n_padded, n_pages]
        graph.table.copy_(table)
        graph.replay()
        return graph.output[:n_tokens].clone()  # the next replay writes there

    def clear(self) -> None:
        """Forget all graphs, and free their memory."""
        self._graphs.clear()
        self._capture.renew()

    def _shape(self, n_tokens: int, n_pages: int) -> tuple[int, int]:
        """The captured shape that fits best, or the one to capture."""
        fitting = (shape for shape in self._graphs if n_tokens <= shape[0] <= n_tokens * _REUSE and n_pages <= shape[1])
        return min(fitting, default=(_padded_tokens(n_tokens), n_pages))

    def _give_up(self, reason: str) -> None:
        logger.warning("decode steps cannot be captured as CUDA graphs, so they run without: %s", reason)
        self._works = False
        self.clear()
        clear_device_cache(garbage_collection=True)

    def _captured(self, table: Tensor) -> Graph:
        output, replay = self._capture(lambda: self._forward(TokenStep(self._cache, table, self._kernels)))
        return Graph(table, output, replay)


def has_graphs(device: torch.device) -> bool:
    """Whether there are graphs for a device: there are CUDA's alone."""
    return device.type == "cuda"


def can_be_captured(model: PreTrainedModel) -> bool:
    """Whether a model computes in one place and without asking the device in between."""
    config = getattr(model.config, "quantization_config", None)
    if getattr(config, "load_in_8bit", False):
        logger.info("LLM.int8 looks for outliers in every product, so its decode steps run without CUDA graphs")
        return False
    return not is_split(model)


class CudaCapture:
    """Captures on a CUDA device, all graphs in one memory pool: only one of them runs at a time.

    It has a stream of its own. PyTorch's own capture stream serves the whole process and lies on the device that was
    current first; and since every stream that multiplies keeps a cuBLAS workspace, which goes with any graph captured
    there (PyTorch 2.12 and 2.13), two models must not share one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._never_waits = False
        self.renew()

    def renew(self) -> None:
        """Take another memory pool: PyTorch up to 2.11 cannot capture into one whose graphs are all gone."""
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], Tensor]) -> tuple[Tensor, Replay]:
        """Capture a function.

        Raises:
            RuntimeError: it waits for the device, or there is no memory for it.
        """
        current = torch.cuda.current_stream(self._device)
        # Entered for its end: a capture that fails leaves the thread on the stream of the capture.
        with torch.cuda.device(self._device), torch.cuda.stream(current):
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                function()  # kernels are compiled and libraries are set up
                if not self._never_waits:
                    with _refusing_to_wait():  # waiting in a capture would leave PyTorch's allocator broken
                        function()
                    self._never_waits = True
            current.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # What other threads do, as another model being loaded, is no part of it.
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                output = function()
        return output, graph.replay


@contextmanager
def _refusing_to_wait() -> Iterator[None]:
    """Raise RuntimeError where the host would wait for the device."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def _is_decoding(slices: list[RowSlice]) -> bool:
    lengths = [len(part.tokens) for part in slices]
    return max(lengths) <= MAX_TOKENS_PER_ROW and sum(lengths) <= MAX_CAPTURED_TOKENS


def _token_table(slices: list[RowSlice]) -> list[list[int]]:
    return [
        [token, position, *part.kv.pages]
        for part in slices
        for position, token in enumerate(part.tokens, start=part.start)
    ]


def _padded_tokens(n_tokens: int) -> int:
    """The next of 1 to 8, 10, 12, 14, 16, 20, 24, ...: at most a quarter more."""
    unit = 1 << max(n_tokens.bit_length() - 3, 0)
    return -(-n_tokens // unit) * unit


def _padded_pages(n_pages: int) -> int:
    return max(1 << (n_pages - 1).bit_length(), _LEAST_PAGES)
