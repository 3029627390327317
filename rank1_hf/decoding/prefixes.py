"""The tokens that all pairs of one query share, computed once.

The first row of a query computes its whole prompt; the shared part's KV is kept, and later rows start from it: they
share its full pages in memory and copy the rest. It is found by its token ids, so rows share exactly what is equal.
"""

from collections import OrderedDict

from rank1_hf.decoding.kv_cache import KVCache, RowKV
from rank1_hf.decoding.row import Row

Key = tuple[int, ...]


class Prefixes:
    """The most recently used prefixes of one run.

    Args:
        cache: where the KV lives.
        capacity: how many prefixes are kept at most: one for every row that may be live, so that none is dropped
            before the rows that wait for it have started. 0: rows share nothing.
    """

    def __init__(self, cache: KVCache, capacity: int) -> None:
        self._cache = cache
        self._capacity = capacity
        self._kept: OrderedDict[Key, RowKV] = OrderedDict()
        self._computing: dict[Key, Row] = {}

    @property
    def kept(self) -> list[RowKV]:
        """What of the KV cache they own."""
        return list(self._kept.values())

    def start(self, row: Row) -> bool:
        """Give a row that has no KV yet what is known of its prompt. False: another row is computing that; wait."""
        if not self._capacity:
            return True
        key = _key(row)
        if key in self._kept:
            self._kept.move_to_end(key)
            self._cache.fork(self._kept[key], len(key), into=row.kv)
            return True
        return not key or self._computing.setdefault(key, row) is row

    def stepped(self, row: Row) -> None:
        """After a step: keep the prefix, if this row was the one computing it and has it now."""
        if row not in self._computing.values():
            return
        key = _key(row)
        if row.kv.length < len(key):
            return
        del self._computing[key]
        prefix = self._kept[key] = RowKV()  # kept first: an interrupt may come at any time
        self._cache.fork(row.kv, len(key), into=prefix)
        if not self._cache.is_finite(prefix):
            # A NaN in a later token reaches earlier ones (0 * NaN in a causal mask). The next row tries again.
            self._cache.free(prefix)
            del self._kept[key]
            return
        if len(self._kept) > self._capacity:
            self.drop_oldest()

    def abandon(self, row: Row) -> None:
        """The row will not compute its prefix after all; another may."""
        key = _key(row)
        if self._computing.get(key) is row:
            del self._computing[key]

    def drop_oldest(self) -> bool:
        """Free the prefix that has not been used for longest. False: there is none."""
        if not self._kept:
            return False
        key = next(iter(self._kept))
        self._cache.free(self._kept[key])
        del self._kept[key]
        return True


def n_shared(row: Row) -> int:
    """How many tokens a row shares. Never the last of its prompt: the model must see at least one to give logits."""
    return min(row.request.n_shared, len(row.request.prompt) - 1)


def _key(row: Row) -> Key:
    return tuple(row.request.prompt[: n_shared(row)])
