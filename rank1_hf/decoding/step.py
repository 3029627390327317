"""One step as tensors: the tokens of several rows, packed end to end without padding.

A row that decodes brings one token, a row in prefill (or one whose chain was rewritten) brings several. The rows with
one token come first: attention reads the KV cache for all of them at once, and for the others one by one.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rank1_hf.decoding.kv_cache import PAGE_SIZE, KVCache, RowKV


@dataclass(frozen=True, slots=True)
class RowSlice:
    """A row's part of a step: `kv` already counts the tokens that the step feeds, `tokens` are these tokens."""

    kv: RowKV
    tokens: list[int]


@dataclass(frozen=True, slots=True)
class Segment:
    """The tokens of one row that brings several: where they lie in the step, and the pages of its whole context."""

    start: int
    stop: int
    pages: Tensor
    n_context: int


class Step:
    """The input of one forward pass, and where each of its tokens reads and writes the KV cache.

    Args:
        cache: the pool that the rows' pages belong to.
        slices: the rows' parts. Those with a single token must come first.
        device: where the model takes its input.
    """

    def __init__(self, cache: KVCache, slices: list[RowSlice], device: torch.device) -> None:
        self.cache = cache
        self.device = device
        self.decoding = [part.kv for part in slices if len(part.tokens) == 1]
        if any(len(part.tokens) == 1 for part in slices[len(self.decoding) :]):
            raise ValueError("rows with a single token come first in a step")
        tokens: list[int] = []
        positions: list[int] = []
        pages: list[int] = []
        self.segments: list[Segment] = []
        for part in slices:
            start, stop = len(tokens), len(tokens) + len(part.tokens)
            tokens += part.tokens
            for position in range(part.kv.length - len(part.tokens), part.kv.length):
                positions.append(position)
                pages.append(part.kv.pages[position // PAGE_SIZE])
            if len(part.tokens) > 1:
                self.segments.append(Segment(start, stop, self._tensor(part.kv.pages), part.kv.length))
        self.input_ids = self._tensor(tokens)[None]
        """[1, tokens], int64."""
        self.position_ids = self._tensor(positions)[None]
        """[1, tokens], int64: each token's place in its own row."""
        self.pages = self._tensor(pages)
        """[tokens], int64: the page that each token is written to."""
        self.offsets = self.position_ids[0] % PAGE_SIZE
        """[tokens], int64: its place in that page."""
        self._page_masks: dict[int | None, Tensor] = {}

    @cached_property
    def page_reader(self) -> Tensor:
        """[n_pages], int64: which decoding row reads each page of the pool's front; 0 for pages that none reads."""
        readers = [0] * self.cache.n_pages
        for reader, kv in enumerate(self.decoding):
            for page in kv.pages:
                readers[page] = reader
        return self._tensor(readers)

    @cached_property
    def reader_pages(self) -> Tensor:
        """[decoding rows, most pages of a row], int64: each row's pages, filled up with its first one again."""
        width = max(len(kv.pages) for kv in self.decoding)
        return self._tensor([kv.pages + kv.pages[:1] * (width - len(kv.pages)) for kv in self.decoding])

    @cached_property
    def is_filling(self) -> Tensor:
        """[decoding rows, most pages of a row], bool: where `reader_pages` is filled up."""
        n_pages = self._tensor([len(kv.pages) for kv in self.decoding])
        return torch.arange(self.reader_pages.shape[1], device=self.device) >= n_pages[:, None]

    def page_mask(self, window: int | None) -> Tensor:
        """[n_pages, 1, 1, PAGE_SIZE], bool: which keys of each page its reader must not attend to.

        Args:
            window: with sliding-window attention, how many tokens a token sees, itself included.
        """
        if window not in self._page_masks:
            first = self._first_positions[:, None]
            distance = self.position_ids[0][self.page_reader][:, None] - first - self._in_page
            hidden = (distance < 0) | (first < 0)
            if window is not None:
                hidden |= distance >= window
            self._page_masks[window] = hidden[:, None, None, :]
        return self._page_masks[window]

    @cached_property
    def _first_positions(self) -> Tensor:
        """[n_pages], int64: the position of each page's first token in its row; -1 for pages that no row reads."""
        first = [-1] * self.cache.n_pages
        for kv in self.decoding:
            for number, page in enumerate(kv.pages):
                first[page] = number * PAGE_SIZE
        return self._tensor(first)

    @cached_property
    def _in_page(self) -> Tensor:
        return torch.arange(PAGE_SIZE, device=self.device)

    def _tensor(self, values: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=self.device)
