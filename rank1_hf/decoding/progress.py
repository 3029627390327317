"""The progress bar of a long call: pairs done, time left, tokens per second, rows live."""

import time
from types import TracebackType
from typing import Any

from tqdm.auto import tqdm

from rank1_hf.decoding.stats import Stats


class Progress:
    """A tqdm bar fed by the decode loop.

    Args:
        total: how many pairs there are, or None where that is unknown.
        show: True, False, or None: only on a terminal.
    """

    def __init__(self, total: int | None, show: bool | None) -> None:
        self._bar: Any = tqdm(
            total=total, desc="Reranking", unit="pair", disable=None if show is None else not show, mininterval=0.2
        )
        self._start = time.perf_counter()
        self._first_tokens: int | None = None

    def step(self, stats: Stats) -> None:
        """After every step of the loop."""
        if self._bar.disable:
            return
        tokens = stats.decode_tokens + stats.accepted_tokens
        if self._first_tokens is None:
            self._first_tokens = tokens
        rate = (tokens - self._first_tokens) / max(time.perf_counter() - self._start, 1e-9)
        self._bar.set_postfix_str(f"{rate:.0f} tokens/s, {stats.live_rows} rows", refresh=False)
        self._bar.update(0)

    def done(self) -> None:
        """After every pair."""
        self._bar.update(1)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
