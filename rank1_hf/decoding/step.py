"""One step as tensors: the tokens of several rows, packed end to end without padding.

A row that decodes brings one token and perhaps a draft, a row in prefill (or one whose chain was rewritten) brings
many. Kernels attend both kinds in batches of their own, so rows of a kind come one after the other.
"""

import math
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate, groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rank1_hf.decoding.kernels import pytorch
from rank1_hf.decoding.kernels.contract import MAX_BATCHED_NEW_TOKENS, Kernels, PagedBatch
from rank1_hf.decoding.kv_cache import KVCache, RowKV
from rank1_hf.decoding.tensors import tensor_on

if TYPE_CHECKING:
    from rank1_hf.decoding.probe import Probe


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


class Step:
    """The input of one forward pass, and where each of its tokens reads and writes the KV cache.

    Args:
        cache: the pool that the rows' pages belong to.
        slices: the rows' parts; best those with at most `MAX_BATCHED_NEW_TOKENS` tokens first.
        device: where the model takes its input.
        previous_tokens: [positions], the tokens of the step in flight, which placeholders stand for; None: there is
            none.
        width: pad the step to so many tokens, and attend every row by itself, so that a row's numbers depend on no
            other row; None: neither.
        probe: receives what the layers attend; None: nothing is requested.
        kernels: what the layers compute with.

    Attributes:
        n_tokens: how many tokens it feeds, without padding.
        input_ids: [1, tokens], int64, the padding included.
        position_ids: [1, tokens], int64: each token's place in its own row; 0 for padding.
        pages: [n_tokens], int64: the page that each token is written to; padding is not.
        offsets: [n_tokens], int64: its place in that page.
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
        kernels: Kernels = pytorch,
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
        tokens: list[int] = []
        positions: list[int] = []
        pages: list[int] = []
        for part in slices:
            tokens += part.tokens
            for position in range(part.start, part.kv.length):
                positions.append(position)
                pages.append(part.kv.pages[position // cache.page_size])
        self.n_tokens = len(tokens)
        padding = [0] * ((width or self.n_tokens) - self.n_tokens)
        self.input_ids = fill_placeholders(self._tensor(tokens + padding), previous_tokens)[None]
        self.position_ids = self._tensor(positions + padding)[None]
        self.pages = self._tensor(pages)
        self.offsets = self.positions % cache.page_size
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
        n_alike = self.kernels.UNIFORM_PAGES if self._is_separate else math.inf
        n_few = 0 if self._is_separate else MAX_BATCHED_NEW_TOKENS
        batches: list[tuple[slice, PagedBatch]] = []
        start = 0
        for _, rows in groupby(
            enumerate(self._slices),
            lambda row: (len(row[1].tokens) > n_few, row[0] if len(row[1].kv.pages) > n_alike else -1),
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

    def on(self, device: torch.device) -> "Step":
        """The same step for a layer on another device."""
        if device == self.device:
            return self
        if device not in self._elsewhere:
            self._elsewhere[device] = self._again(device=device)
        return self._elsewhere[device]

    def _tensor(self, values: list[int] | list[list[int]]) -> Tensor:
        return tensor_on(self.device, values)


class TokenStep:
    """A step of single tokens, for a kernel that goes by a table of pages: all of it is derived from one tensor.

    Args:
        cache: the pool that the rows' pages belong to.
        table: [tokens, 2 + most pages], int64: a token's id, its position, and the pages of its row, in order.
        kernels: those written for the device.

    Attributes: those of `Step`.
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
