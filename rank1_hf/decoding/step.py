"""One step as tensors: the tokens of several rows, packed end to end without padding.

A row that decodes brings one token and perhaps a draft, a row in prefill (or one whose chain was rewritten) brings
many. The rows with few tokens come first: attention reads the KV cache for all of them at once, and for the others one
by one. A page that several of them own, the start of a long query, is read once for all its readers.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import accumulate, groupby, product
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rank1_hf.decoding.kernels.contract import Kernels, PagedBatch
from rank1_hf.decoding.kv_cache import KVCache, RowKV
from rank1_hf.decoding.tensors import tensor_on

if TYPE_CHECKING:
    from rank1_hf.decoding.probe import Probe

MAX_BATCHED_NEW_TOKENS = 8
"""Rows with at most this many new tokens are attended in one batch; longer chunks one row at a time."""

_HIDDEN = -1e30  # added to a score; finite, so that a page that is hidden altogether has a softmax too
_NOWHERE = 2**40  # the first position of a page that no row reads: behind every token


@dataclass(frozen=True, slots=True)
class RowSlice:
    """A row's part of a step: `kv` already counts the tokens that the step feeds, `tokens` are these tokens.

    One that only the device knows is given by `placeholder`.
    """

    kv: RowKV
    tokens: list[int]

    @property
    def start(self) -> int:
        """The position of its first token."""
        return self.kv.length - len(self.tokens)


@dataclass(frozen=True, slots=True)
class Segment:
    """The tokens of one row that brings many: where they lie in the step, and the pages of its whole context."""

    start: int
    stop: int
    pages: Tensor
    n_context: int
    _masks: dict[int | None, Tensor | None] = field(default_factory=dict)  # the layers of a step ask for the same ones

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """[tokens, context], to be added to the scores: which keys a token does not see; None: causal is enough."""
        if window not in self._masks:
            self._masks[window] = self._mask(window, dtype)
        return self._masks[window]

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        n_new = self.stop - self.start
        if (window is None or window >= self.n_context) and n_new in (1, self.n_context):
            return None
        position = torch.arange(self.n_context, device=self.pages.device)
        distance = position[self.n_context - n_new :, None] - position
        hidden = distance < 0
        if window is not None:
            hidden |= distance >= window
        return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, -math.inf)


@dataclass(frozen=True, slots=True)
class SharedPages:
    """Full pages that several decoding rows read, and lie before all of these rows' tokens. All are int64.

    Attributes:
        pages: [pages].
        first_positions: [pages], the position of each page's first token.
        readers: [readers], which decoding rows read them.
        positions: [readers, slots], the positions of these rows' tokens.
        page_size: the tokens of a page.
    """

    pages: Tensor
    first_positions: Tensor
    readers: Tensor
    positions: Tensor
    page_size: int

    def bias(self, window: int | None) -> Tensor | None:
        """[pages, 1, readers * slots, 1, page size], float32: hides what is outside of a window; None: nothing is."""
        if window is None:
            return None
        key_positions = self.first_positions[:, None] + torch.arange(self.page_size, device=self.pages.device)
        return _bias(self.positions.flatten()[:, None, None] - key_positions[:, None, None, None] >= window)


class Step:
    """The input of one forward pass, and where each of its tokens reads and writes the KV cache.

    Args:
        cache: the pool that the rows' pages belong to.
        slices: the rows' parts. Those with at most `MAX_BATCHED_NEW_TOKENS` tokens must come first.
        device: where the model takes its input.
        previous_tokens: [positions], the tokens of the step in flight, which placeholders stand for; None: there is
            none.
        width: pad the step to so many tokens, and attend every row by itself, so that a row's numbers depend on no
            other row; None: neither.
        probe: receives what the layers attend; None: nothing is requested.
        kernels: those written for the device; None: PyTorch's operations attend.
    """

    def __init__(
        self,
        cache: KVCache,
        slices: list[RowSlice],
        device: torch.device,
        *,
        previous_tokens: Tensor | None = None,
        width: int | None = None,
        probe: "Probe | None" = None,
        kernels: Kernels | None = None,
    ) -> None:
        self.cache = cache
        self.kernels = kernels
        self.device = device
        self.probe = probe
        self._slices = slices
        self._is_separate = width is not None
        self._elsewhere: dict[torch.device, Step] = {}
        self._again = partial(
            Step, cache, slices, previous_tokens=previous_tokens, width=width, probe=probe, kernels=kernels
        )
        n_rows = 0 if width is not None else sum(len(part.tokens) <= MAX_BATCHED_NEW_TOKENS for part in slices)
        self.decoding = slices[:n_rows]
        if any(len(part.tokens) > MAX_BATCHED_NEW_TOKENS for part in self.decoding):
            raise ValueError("rows with few tokens come first in a step")
        self.n_decoding = sum(len(part.tokens) for part in self.decoding)
        """How many tokens the rows with few tokens bring."""
        tokens: list[int] = []
        positions: list[int] = []
        pages: list[int] = []
        self.segments: list[Segment] = []
        for number, part in enumerate(slices):
            if number >= n_rows and kernels is None:
                stop = len(tokens) + len(part.tokens)
                self.segments.append(Segment(len(tokens), stop, self._tensor(part.kv.pages), part.kv.length))
            tokens += part.tokens
            for position in range(part.start, part.kv.length):
                positions.append(position)
                pages.append(part.kv.pages[position // cache.page_size])
        self.n_tokens = len(tokens)
        padding = [0] * ((width or self.n_tokens) - self.n_tokens)
        self.input_ids = fill_placeholders(self._tensor(tokens + padding), previous_tokens)[None]
        """[1, tokens], int64, the padding included."""
        self.position_ids = self._tensor(positions + padding)[None]
        """[1, tokens], int64: each token's place in its own row; 0 for padding."""
        self.pages = self._tensor(pages)
        """[n_tokens], int64: the page that each token is written to; padding is not."""
        self.offsets = self.positions % cache.page_size
        """[n_tokens], int64: its place in that page."""
        self._page_biases: dict[int | None, Tensor] = {}
        self._n_padding = len(padding)

    @property
    def positions(self) -> Tensor:
        """[n_tokens], int64: each token's place in its own row."""
        return self.position_ids[0, : self.n_tokens]

    @cached_property
    def slot_mapping(self) -> Tensor:
        """[tokens], int32: `page * page size + offset` of each token; -1 for padding."""
        slots = (self.pages * self.cache.page_size + self.offsets).int()
        return torch.cat([slots, slots.new_full((self._n_padding,), -1)]) if self._n_padding else slots

    @cached_property
    def batches(self) -> list[tuple[slice, PagedBatch]]:
        """The rows as kernels take them, and which of the step's tokens they bring: a batch of those with few tokens,
        and one of the others. Where rows must not depend on each other, one with a very long context is by itself.
        Padding is a batch of its own. The kernels then also choose their blocks by the width of the step alone.
        """
        assert self.kernels is not None
        n_alike = self.kernels.UNIFORM_PAGES if self._is_separate else math.inf
        n_few = 0 if self._is_separate else MAX_BATCHED_NEW_TOKENS
        batches: list[tuple[slice, PagedBatch]] = []
        start = 0
        for _, rows in groupby(
            enumerate(self._slices),
            lambda row: (len(row[1].tokens) > n_few, len(row[1].kv.pages) > n_alike and row[0]),
        ):
            parts = [part for _, part in rows]
            stop = start + sum(len(part.tokens) for part in parts)
            batches.append((slice(start, stop), self._batch(parts)))
            start = stop
        if self._n_padding:
            padding = RowSlice(RowKV(), [0] * self._n_padding)
            batches.append((slice(start, start + self._n_padding), self._batch([padding])))
        return batches

    def _batch(self, parts: list[RowSlice]) -> PagedBatch:
        n_tokens = [len(part.tokens) for part in parts]
        width = max(1, *(len(part.kv.pages) for part in parts))
        return PagedBatch(
            query_starts=self._tensor([0, *accumulate(n_tokens)]).int(),
            context_lengths=self._tensor([part.kv.length for part in parts]).int(),
            block_table=self._tensor([part.kv.pages + [0] * (width - len(part.kv.pages)) for part in parts]).int(),
            longest_query=self.n_tokens + self._n_padding if self._is_separate else max(n_tokens),
        )

    @cached_property
    def slots(self) -> Tensor:
        """[decoding rows, slots], int64: where each row's tokens lie in the step.

        There are as many slots as a row has tokens at most; a row with fewer is filled up with its first token again.
        """
        width = max(len(part.tokens) for part in self.decoding)
        rows: list[list[int]] = []
        start = 0
        for part in self.decoding:
            stop = start + len(part.tokens)
            rows.append([*range(start, stop)] + [start] * (width - len(part.tokens)))
            start = stop
        return self._tensor(rows)

    @cached_property
    def slot_of_token(self) -> Tensor:
        """[n_decoding], int64: where each token is found among the slots of all rows."""
        n_slots = self.slots.shape[1]
        return self._tensor(
            [row * n_slots + slot for row, part in enumerate(self.decoding) for slot in range(len(part.tokens))]
        )

    def on(self, device: torch.device) -> "Step":
        """The same step for a layer on another device."""
        if device == self.device:
            return self
        if device not in self._elsewhere:
            self._elsewhere[device] = self._again(device=device)
        return self._elsewhere[device]

    @cached_property
    def shared(self) -> list[SharedPages]:
        """The pages that several decoding rows read, grouped by their readers."""
        return [
            SharedPages(
                pages=self._tensor(pages),
                first_positions=self._tensor([self._first_positions[page] for page in pages]),
                readers=self._tensor(list(readers)),
                positions=self.positions[self.slots[list(readers)]],
                page_size=self.cache.page_size,
            )
            for readers, pages in self._shared_by.items()
        ]

    @cached_property
    def page_reader(self) -> Tensor:
        """[n_pages], int64: the decoding row that reads each page of the pool's front alone; 0 where there is none."""
        reader = [0] * self.cache.n_pages
        for page, readers in self._readers.items():
            if len(readers) == 1:
                reader[page] = readers[0]
        return self._tensor(reader)

    def page_bias(self, window: int | None) -> Tensor:
        """[n_pages, 1, slots, 1, page size], float32: hides what a page's reader must not see with each of its tokens.

        Args:
            window: with sliding-window attention, how many tokens a token sees, itself included.
        """
        if window not in self._page_biases:
            first = [_NOWHERE] * self.cache.n_pages
            for page, readers in self._readers.items():
                if len(readers) == 1:
                    first[page] = self._first_positions[page]
            key_positions = self._tensor(first)[:, None] + torch.arange(self.cache.page_size, device=self.device)
            distance = self.positions[self.slots[self.page_reader]][..., None] - key_positions[:, None]
            hidden = distance < 0
            if window is not None:
                hidden |= distance >= window
            self._page_biases[window] = _bias(hidden)[:, None, :, None, :]
        return self._page_biases[window]

    @cached_property
    def partials(self) -> Tensor:
        """[decoding rows, most pages of a row], int64: where each row finds its pages' parts of the attention.

        The parts are those of all pages at the pool's front, in order, then those of `shared`: for each group, page by
        page, reader by reader. A row with fewer pages than others is filled up with its first part again.
        """
        places: dict[tuple[int, int], int] = {}  # (page, reader) -> place, for shared pages
        n_parts = self.cache.n_pages
        for readers, pages in self._shared_by.items():
            for page, reader in product(pages, readers):
                places[page, reader] = n_parts
                n_parts += 1
        rows = [
            [places.get((page, reader), page) for page in part.kv.pages] for reader, part in enumerate(self.decoding)
        ]
        width = max(map(len, rows))
        return self._tensor([row + row[:1] * (width - len(row)) for row in rows])

    @cached_property
    def is_filling(self) -> Tensor:
        """[decoding rows, most pages of a row], bool: where `partials` is filled up."""
        n_pages = self._tensor([len(part.kv.pages) for part in self.decoding])
        return torch.arange(self.partials.shape[1], device=self.device) >= n_pages[:, None]

    @cached_property
    def _readers(self) -> dict[int, list[int]]:
        """Page -> the decoding rows that read it."""
        readers: dict[int, list[int]] = {}
        for reader, part in enumerate(self.decoding):
            for page in part.kv.pages:
                readers.setdefault(page, []).append(reader)
        return readers

    @cached_property
    def _shared_by(self) -> dict[tuple[int, ...], list[int]]:
        """Several decoding rows -> the pages that just these read."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for page, readers in self._readers.items():
            if len(readers) > 1:
                groups.setdefault(tuple(readers), []).append(page)
        return groups

    @cached_property
    def _first_positions(self) -> dict[int, int]:
        """Page -> the position of its first token; the same in all rows that read it."""
        size = self.cache.page_size
        return {page: number * size for part in self.decoding for number, page in enumerate(part.kv.pages)}

    def _tensor(self, values: list[int] | list[list[int]]) -> Tensor:
        return tensor_on(self.device, values)


class TokenStep:
    """A step of single tokens, for a kernel that goes by a table of pages: all of it is derived from one tensor.

    Args:
        cache: the pool that the rows' pages belong to.
        table: [tokens, 2 + most pages], int64: a token's id, its position, and the pages of its row, in order.
        kernels: those written for the device.
    """

    probe = None

    def __init__(self, cache: KVCache, table: Tensor, kernels: Kernels) -> None:
        self.cache = cache
        self.kernels = kernels
        self.n_tokens = len(table)
        self.input_ids = table[None, :, 0]
        self.position_ids = table[None, :, 1]
        self.positions = table[:, 1]
        pages = table[:, 2:]
        self.pages = pages.gather(1, (self.positions // cache.page_size)[:, None])[:, 0]
        self.offsets = self.positions % cache.page_size
        self.slot_mapping = (self.pages * cache.page_size + self.offsets).int()
        starts = torch.arange(self.n_tokens + 1, dtype=torch.int32, device=table.device)
        self.batches = [
            (slice(0, self.n_tokens), PagedBatch(starts, (self.positions + 1).int(), pages.int(), longest_query=1))
        ]

    def on(self, device: torch.device) -> "TokenStep":
        """The step itself: a model whose layers lie on several devices is not captured."""
        return self


def placeholder(place: int) -> int:
    """Stands for the token at this place in the output of the step in flight: a number that is no token's id."""
    return -1 - place


def fill_placeholders(tokens: Tensor, previous_tokens: Tensor | None) -> Tensor:
    """Tokens, int64, with those of the step in flight in the place of what stands for them."""
    if previous_tokens is None or not len(previous_tokens):
        return tokens
    ids = previous_tokens.to(tokens.device, torch.long, non_blocking=True)
    return torch.where(tokens < 0, ids[(-1 - tokens).clamp(min=0)], tokens)


def _bias(hidden: Tensor) -> Tensor:
    """What is added to scores, in float32, so that nothing is left of the hidden ones."""
    return torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, _HIDDEN)
