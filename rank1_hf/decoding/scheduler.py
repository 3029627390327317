"""Which rows are live, and how many tokens of each the next step feeds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rank1_hf.decoding.kv_cache import KVCache
from rank1_hf.decoding.prefixes import Prefixes
from rank1_hf.decoding.requests import Request
from rank1_hf.decoding.row import Row


@dataclass(frozen=True, slots=True)
class Work:
    """A row's part of a step.

    Attributes:
        row: the row.
        n_tokens: how many of its pending tokens the step feeds.
        completes: whether the model then has seen the row's whole context, so that its logits mean something.
    """

    row: Row
    n_tokens: int
    completes: bool


class Scheduler:
    """Admits waiting requests as rows leave, and splits prompts into chunks so that they do not stall the others.

    Args:
        requests: taken one at a time, when there is room for a row.
        make_row: how a request becomes a row.
        cache: where rows keep their KV.
        max_rows: the most rows that are live at once, at least 1.
        max_prefill_tokens: the most tokens a step feeds for rows that bring several, at least 1. (Every row that brings
            one token is in every step.)
    """

    def __init__(
        self,
        requests: Iterator[Request],
        make_row: Callable[[Request], Row],
        cache: KVCache,
        *,
        max_rows: int,
        max_prefill_tokens: int,
    ) -> None:
        if max_rows < 1 or max_prefill_tokens < 1:
            raise ValueError(
                f"at least one row and one prefill token a step are needed, not {max_rows} and {max_prefill_tokens}"
            )
        self.rows: list[Row] = []  # in the order they were admitted
        self._requests = requests
        self._make_row = make_row
        self._cache = cache
        self._max_rows = max_rows
        self._max_prefill_tokens = max_prefill_tokens
        self._prefixes = Prefixes(cache, capacity=max_rows)
        self._exhausted = False

    def plan(self) -> list[Work]:
        """The next step, rows with a single token first; empty when no request and no row is left."""
        self._admit()
        plan = [Work(row, 1, completes=True) for row in self.rows if row.pending == 1]
        room = self._max_prefill_tokens
        for row in self.rows:
            if room == 0:
                break
            if row.pending > 1 and (row.kv.length > 0 or self._prefixes.start(row)):
                n_tokens = min(row.pending, room)
                room -= n_tokens
                plan.append(Work(row, n_tokens, completes=n_tokens == row.pending))
        return sorted(plan, key=lambda work: work.n_tokens > 1)  # the last chunk of a prompt may be a single token

    def stepped(self, row: Row) -> None:
        """A planned row's tokens are in the KV cache now."""
        self._prefixes.stepped(row)

    def release(self, row: Row, *, wipe: bool = False) -> None:
        """A row is finished; `wipe` clears its pages, where they may hold NaN."""
        self.rows.remove(row)
        self._cache.free(row.kv, wipe=wipe)

    def close(self) -> None:
        """Give back all memory, whatever is still live."""
        for row in list(self.rows):
            self.release(row, wipe=True)
        self._prefixes.clear()

    def _admit(self) -> None:
        while len(self.rows) < self._max_rows and not self._exhausted:
            request = next(self._requests, None)
            if request is None:
                self._exhausted = True
            else:
                self.rows.append(self._make_row(request))
