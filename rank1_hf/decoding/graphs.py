"""Decode steps as CUDA graphs: captured once for each shape, then replayed with nothing of Python's between kernels.

A step in which every row brings a few tokens (one, or a draft, or the end of a forced close) is a table of tokens: each
with its id, its position and the pages of its row. That table is all that changes from replay to replay. It is filled
up to one of a few heights by repeating its first token, which writes the same KV to the same place again.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor
from transformers import PreTrainedModel

from rank1_hf.decoding.kv_cache import KVCache
from rank1_hf.decoding.placement import is_split
from rank1_hf.decoding.step import RowSlice, TokenStep, tensor_on, with_said

logger = logging.getLogger(__name__)

MAX_TOKENS = 512
"""The most tokens of a captured step."""

MAX_TOKENS_PER_ROW = 16
"""The most of one row: each of its tokens reads the row's whole context for itself."""

_LEAST_PAGES = 16  # a table is at least so wide, so that contexts up to 1,024 tokens need one graph for each height

Replay = Callable[[], None]
Capture = Callable[[Callable[[], Tensor]], tuple[Tensor, Replay]]


@dataclass(frozen=True, slots=True)
class Graph:
    """A captured step: what it reads, what it leaves, and how to run it again."""

    table: Tensor
    found: Tensor
    replay: Replay


class DecodeGraphs:
    """The captured steps of one model.

    Args:
        forward: runs the model on a `TokenStep`; [tokens, ...] for as many tokens.
        cache: where the rows keep their KV.
        device: the model's.
        capture: runs a function and gives its result, and what will update that result in place.
    """

    def __init__(
        self,
        forward: Callable[[TokenStep], Tensor],
        cache: KVCache,
        device: torch.device,
        capture: Capture | None = None,
    ) -> None:
        self._forward = forward
        self._cache = cache
        self._device = device
        self._capture = capture or _CudaCapture(device)
        self._graphs: dict[tuple[int, int], Graph] = {}
        self._n_moves = 0  # of the pools; a graph knows them by their addresses
        self._works = True

    def run(self, slices: list[RowSlice], said: Tensor | None = None) -> Tensor | None:
        """Run a step of these rows; `said` as a `Step` takes it. None: it has to be run in the ordinary way."""
        if not self._works or not _is_decoding(slices) or not self._cache.is_allocated:
            return None
        tokens = _token_table(slices)
        n_tokens, height, width = len(tokens), _height(len(tokens)), _width(max(len(part.kv.pages) for part in slices))
        if self._cache.settle() != self._n_moves:
            self.clear()
            self._n_moves = self._cache.n_moves
        tokens += tokens[:1] * (height - n_tokens)
        table = tensor_on(self._device, [row + [0] * (2 + width - len(row)) for row in tokens])
        table[:, 0] = with_said(table[:, 0], said)
        if (height, width) not in self._graphs:
            try:
                self._graphs[height, width] = self._captured(table)
            except RuntimeError as error:
                if should_reduce_batch_size(error):
                    raise
                logger.warning("decode steps cannot be captured as CUDA graphs, so they run without: %s", error)
                self._works = False
                return None
        graph = self._graphs[height, width]
        graph.table.copy_(table)
        graph.replay()
        return graph.found[:n_tokens].clone()  # the next replay writes there

    def clear(self) -> None:
        """Forget all graphs, and free their memory."""
        self._graphs.clear()

    def _captured(self, table: Tensor) -> Graph:
        found, replay = self._capture(lambda: self._forward(TokenStep(self._cache, table)))
        return Graph(table, found, replay)


def can_be_captured(model: PreTrainedModel) -> bool:
    """Whether a model computes in one place and without asking the device in between."""
    config = getattr(model.config, "quantization_config", None)
    if getattr(config, "load_in_8bit", False):
        logger.info("LLM.int8 looks for outliers in every product, so its decode steps run without CUDA graphs")
        return False
    return not is_split(model)


class _CudaCapture:
    """Captures on a CUDA device, all graphs in one memory pool: only one of them runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], Tensor]) -> tuple[Tensor, Replay]:
        with torch.cuda.device(self._device):
            # Kernels are compiled and libraries set up by a first run, on a stream of its own as capturing demands.
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                function()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                found = function()
        return found, graph.replay


def _is_decoding(slices: list[RowSlice]) -> bool:
    lengths = [len(part.tokens) for part in slices]
    return max(lengths) <= MAX_TOKENS_PER_ROW and sum(lengths) <= MAX_TOKENS


def _token_table(slices: list[RowSlice]) -> list[list[int]]:
    return [
        [token, position, *part.kv.pages]
        for part in slices
        for position, token in enumerate(part.tokens, start=part.kv.length - len(part.tokens))
    ]


def _height(n_tokens: int) -> int:
    """The next of 1 to 8, 10, 12, 14, 16, 20, 24, ...: at most a quarter more."""
    unit = 1 << max(n_tokens.bit_length() - 3, 0)
    return -(-n_tokens // unit) * unit


def _width(n_pages: int) -> int:
    return max(1 << (n_pages - 1).bit_length(), _LEAST_PAGES)
