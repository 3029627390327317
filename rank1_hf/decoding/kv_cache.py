"""The KV cache: one pool of pages for all rows.

A page holds the keys and values of `page_size` consecutive tokens, in every layer. Rows take pages as they grow, so
memory follows the live tokens and not the longest chain a row might have; rows that start alike own their first pages
together, until one of them writes there. The pool grows as pages are taken, up to a budget; the scheduler decides which
rows give pages back when the budget is used up.

On a CPU the pool grows little by little. On a GPU it is made as large as a run typically needs (`reserve`) and grows to
the whole budget at once: a CUDA graph knows the pool by its address, and blocks that are freed along the way would stay
with PyTorch's allocator.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from accelerate.utils.memory import clear_device_cache
from torch import Tensor

from rank1_hf.decoding.options import PAGE_SIZE
from rank1_hf.decoding.tensors import tensor_on

_INITIAL_PAGES = 64
_GROWTH = 1.125  # on a CPU: little is allocated beyond what is used; copying the pool this often costs next to nothing


def pages_for(n_tokens: int, page_size: int = PAGE_SIZE) -> int:
    """How many pages hold so many tokens of one row."""
    return -(-n_tokens // page_size)


def joined(pool: Tensor, pages: Tensor, length: int) -> Tensor:
    """A copy of the first `length` tokens of some pages of a layer's pool: [KV heads, length, head dim]."""
    # index_select copies whole pages; indexing with [...] goes element by element, and took six times as long.
    return pool.index_select(0, pages).transpose(0, 1).flatten(1, 2)[:, :length]


@dataclass(eq=False, slots=True)
class RowKV:
    """The pages of one row, in order, and how many tokens they hold."""

    pages: list[int] = field(default_factory=list)
    length: int = 0


class KVCache:
    """The pool, in every layer: keys and values of shape [pages, KV heads, page size, head dim].

    A layer's tensors are made when the layer first writes, on its own device and in its own dtype, so a model whose
    layers sit on several devices has each layer's KV beside it.

    Args:
        max_tokens: the budget: the most tokens that have room, in whole pages, at least one. None: no bound.
        page_size: the tokens of a page.
        grows_at_once: to the whole budget, as on a GPU; without a budget it grows little by little all the same.
    """

    def __init__(
        self, max_tokens: int | None = None, *, page_size: int = PAGE_SIZE, grows_at_once: bool = False
    ) -> None:
        self.page_size = page_size
        self._budget = math.inf if max_tokens is None else max(max_tokens // page_size, 1)
        self.max_pages = self._budget
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}
        self._owners: list[list[RowKV]] = []  # by page, of all that have ever been taken
        self._free: list[int] = []  # those without an owner
        self._grows_at_once = grows_at_once and max_tokens is not None
        self._capacity = int(min(_INITIAL_PAGES, self.max_pages))
        self.n_moves = 0
        """How often a layer's pool has been put elsewhere in memory."""

    @property
    def n_pages_used(self) -> int:
        """How many pages have an owner."""
        return len(self._owners) - len(self._free)

    @property
    def n_pages_free(self) -> float:
        """How many more pages may be taken."""
        return self.max_pages - self.n_pages_used

    @property
    def n_bytes(self) -> int:
        """How much memory the pool has allocated, in all layers."""
        return sum(pool.nbytes for pools in (self._keys, self._values) for pool in pools.values())

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer: [pages, KV heads, page size, head dim] each."""
        return self._keys[index], self._values[index]

    def read(self, row: RowKV, layer: int, length: int) -> tuple[Tensor, Tensor]:
        """Copies of the keys and values of a row's first `length` tokens in one layer: [KV heads, length, head dim]."""
        keys, values = self.layer(layer)
        pages = tensor_on(keys.device, row.pages[: self._pages_for(length)])
        return joined(keys, pages, length), joined(values, pages, length)

    @property
    def is_allocated(self) -> bool:
        """Whether a step has been run, so that the layers have their pools."""
        return bool(self._keys)

    def reserve(self, n_tokens: int) -> None:
        """Let the pools be made large enough for so many tokens from now on, as far as the budget goes."""
        self._capacity = max(self._capacity, int(min(self._pages_for(n_tokens), self.max_pages)))

    def restore_budget(self) -> None:
        """Forget what `stop_growing` has learnt: that the device had no memory may have been for a moment."""
        self.max_pages = self._budget

    @torch.inference_mode()
    def grow_pools(self) -> int:
        """Enlarge all pools now to what has been taken, and not as each layer writes. Gives `n_moves`."""
        for pools in (self._keys, self._values):
            for index in pools:
                self._grown(pools, index)
        return self.n_moves

    def pages_needed(self, row: RowKV, n_tokens: int) -> int:
        """How many pages `extend` would take."""
        return self._pages_for(row.length + n_tokens) - len(row.pages) + self._writes_into_shared(row)

    def extend(self, row: RowKV, n_tokens: int) -> None:
        """Make room for `n_tokens` more tokens of a row, which the coming step writes."""
        if self._writes_into_shared(row):
            self._own_last_page(row)
        row.length += n_tokens
        while len(row.pages) < self._pages_for(row.length):
            row.pages.append(self._take_page(row))

    def truncate(self, row: RowKV, length: int) -> None:
        """Forget a row's tokens from `length` on."""
        if length < row.length:
            row.length = length
            n_pages = self._pages_for(length)
            self._return_pages(row, row.pages[n_pages:])
            del row.pages[n_pages:]

    @torch.inference_mode()
    def free(self, row: RowKV, *, wipe: bool = False) -> None:
        """Take back a row's pages. `wipe` clears those it alone owns: a masked NaN spreads to their next owner."""
        if wipe:
            self._wipe([page for page in row.pages if len(self._owners[page]) == 1])
        self._return_pages(row, row.pages)
        row.pages, row.length = [], 0

    @torch.inference_mode()
    def reclaim(self, rows: Collection[RowKV]) -> None:
        """Take back and clear all that some rows own, also where an interrupt has left what they own half noted."""
        gone = set(rows)
        freed = [page for page, owners in enumerate(self._owners) if owners and gone.issuperset(owners)]
        self._wipe(freed)
        self._owners = [[owner for owner in owners if owner not in gone] for owners in self._owners]
        self._forget_what_has_no_memory()
        for row in gone:
            row.pages, row.length = [], 0

    def fork(self, source: RowKV, length: int, into: RowKV | None = None) -> RowKV:
        """A row that starts with the first `length` tokens of another. It takes no page before it is extended.

        Args:
            source: the other row.
            length: how many tokens.
            into: an empty row, which `reclaim` can be told of already; None: a new one.
        """
        fork = into or RowKV()
        fork.pages, fork.length = source.pages[: self._pages_for(length)], length
        for page in fork.pages:
            self._owners[page].append(fork)
        return fork

    def stop_growing(self) -> None:
        """Make what is allocated now the budget, because the device had no memory for more.

        While no page is in use, it is the pools themselves that may be too large: they are given back, and made half as
        large.
        """
        allocated = [len(pool) for pools in (self._keys, self._values) for pool in pools.values()]
        self._capacity = min(allocated, default=self._capacity)
        if not self.n_pages_used and self._capacity > _INITIAL_PAGES:
            self._keys.clear()
            self._values.clear()
            self._capacity = max(self._capacity // 2, _INITIAL_PAGES)
            self.n_moves += 1
        self.max_pages = min(self.max_pages, self._capacity)
        self._forget_what_has_no_memory()

    def is_finite(self, row: RowKV, layer: int | None = None) -> bool:
        """Whether a row's KV in one layer, None: the last, is free of NaN and inf. NaN of earlier layers reaches it."""
        layer = max(self._keys) if layer is None else layer
        return all(bool(states.isfinite().all()) for states in self.read(row, layer, row.length))

    @torch.inference_mode()
    def write(self, layer: int, pages: Tensor, offsets: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store one step's tokens: keys and values [tokens, KV heads, head dim], places [tokens], both int64."""
        for pool, states in zip(self.pools(layer, keys), (keys, values), strict=True):
            pool[pages, :, offsets] = states

    def pools(self, layer: int, states: Tensor) -> tuple[Tensor, Tensor]:
        """One layer's keys and values, all pages; made, where they are not yet, for states [tokens, KV heads, head dim]
        and grown to the present capacity.
        """
        for pools in (self._keys, self._values):
            if layer not in pools:
                pools[layer] = states.new_zeros((self._capacity, states.shape[1], self.page_size, states.shape[2]))
        return self._grown(self._keys, layer), self._grown(self._values, layer)

    def _pages_for(self, n_tokens: int) -> int:
        return pages_for(n_tokens, self.page_size)

    def _grown(self, pools: dict[int, Tensor], layer: int) -> Tensor:
        """A layer's pool, enlarged to the present capacity."""
        pool = pools[layer]
        n_pages = pool.shape[0]  # asked by every layer at every step: `len` of a tensor takes several times as long
        if n_pages < self._capacity:
            pools[layer] = pool.new_zeros((self._capacity, *pool.shape[1:]))
            pools[layer][:n_pages] = pool
            self.n_moves += 1
            if pool.is_cuda:
                del pool
                clear_device_cache()  # or the old pools of all layers stay with PyTorch's allocator
        return pools[layer]

    def _wipe(self, pages: list[int]) -> None:
        for pool in (*self._keys.values(), *self._values.values()):
            there = [page for page in pages if page < len(pool)]  # an interrupt may come before all pools have grown
            pool[tensor_on(pool.device, there)] = 0

    def _writes_into_shared(self, row: RowKV) -> bool:
        """Whether the next token goes into a page that other rows own too."""
        return row.length % self.page_size > 0 and len(self._owners[row.pages[-1]]) > 1

    @torch.inference_mode()
    def _own_last_page(self, row: RowKV) -> None:
        """Give a row a copy of its last page, so that it can write there."""
        shared, filled = row.pages[-1], row.length % self.page_size
        own = self._take_page(row)
        try:
            for pools in (self._keys, self._values):
                for index in pools:
                    pool = self._grown(pools, index)
                    pool[own, :, :filled] = pool[shared, :, :filled]
                    pool[own, :, filled:] = 0  # what others wrote there is not this row's
        except RuntimeError:  # no memory to grow
            self._return_pages(row, [own])
            raise
        row.pages[-1] = own
        self._return_pages(row, [shared])

    def _take_page(self, row: RowKV) -> int:
        if self._free:
            page = self._free.pop()
            self._owners[page].append(row)
            return page
        page = len(self._owners)
        if page == self._capacity:
            grown = self.max_pages if self._grows_at_once else min(self._capacity * _GROWTH, self.max_pages)
            self._capacity = max(page + 1, int(grown))  # first, since an interrupt may come between
        self._owners.append([row])
        return page

    def _forget_what_has_no_memory(self) -> None:
        """Pages beyond the capacity have been taken for a step that was undone."""
        del self._owners[self._capacity :]
        self._free = [page for page, owners in enumerate(self._owners) if not owners]

    def _return_pages(self, row: RowKV, pages: list[int]) -> None:
        for page in pages:
            self._owners[page].remove(row)
            if not self._owners[page]:
                self._free.append(page)
