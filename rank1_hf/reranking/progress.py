"""The progress of a call: a bar on a terminal, and elsewhere a line in the log every minute."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tqdm.auto import tqdm

from rank1_hf.decoding.stats import Stats
from rank1_hf.results.judgment import Judgment

logger = logging.getLogger(__name__)

_SECONDS_A_LINE = 60.0


class Progress:
    """Shows how far a call is, told of every step and every judgment. Where it ends, a line in the log has the totals.

    Tokens are all that the model was fed: of prompts (prefill) and of chains (decode). Calls of other threads between
    the steps count too; a decoder that counts none has no rate.

    Args:
        total: how many pairs there are, or None where that is unknown.
        show: True: the bar, wherever that is; None: the bar on a terminal; False: no bar. Where there is none, a line
            at INFO every minute.
        stats: what the decoder has counted so far.
        n_blank: how many passages taken so far are blank; asked for the totals.
        speaks: whether this process is the one that says what all do; another logs nothing.
        clock: the time in seconds.
    """

    def __init__(
        self,
        total: int | None,
        show: bool | None,
        stats: Stats,
        *,
        n_blank: Callable[[], int] = int,
        speaks: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # miniters=0: however fast the pairs before were, the bar is drawn again while none is finished
        self._bar: Any = tqdm(
            total=total,
            desc="Pairs",
            unit="pair",
            disable=None if show is None else not show,
            mininterval=0.2,
            miniters=0,
        )
        self._speaks = speaks
        self._total, self._n_blank, self._clock = total, n_blank, clock
        self._start = self._last_line = clock()
        self._first_tokens, self._tokens, self._tokens_at_last_line = _n_tokens(stats), 0, 0
        self._counts: Counter[str] = Counter()

    def step(self, stats: Stats) -> None:
        """After every step of the decode loop."""
        self._tokens = _n_tokens(stats) - self._first_tokens
        if not self._bar.disable:
            if self._tokens:
                rate = _rate(self._tokens, self._clock() - self._start)
                self._bar.set_postfix_str(f"{rate:,.0f} tokens/s, {stats.live_rows} rows", refresh=False)
            self._bar.update(0)
        self._speak_each_minute()

    def done(self, judgment: Judgment) -> None:
        """After every pair."""
        self._counts["pairs"] += 1
        self._counts["failed"] += judgment.error is not None
        self._counts["forced"] += judgment.ended not in (None, "closed") and not judgment.cached
        self._counts["truncated"] += judgment.truncated
        self._counts["cached"] += judgment.cached
        self._bar.update(1)
        self._speak_each_minute()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._speaks and (self._counts or self._total):
            self._log_totals()

    def _speak_each_minute(self) -> None:
        now = self._clock()
        seconds = now - self._last_line
        if not self._speaks or not self._bar.disable or seconds < _SECONDS_A_LINE:
            return
        rate = _rate(self._tokens - self._tokens_at_last_line, seconds)
        speed = f", {rate:,.0f} tokens/s" if self._tokens else ""
        logger.info("%s%s%s", self._of_all(), speed, self._time_left(now))
        self._last_line, self._tokens_at_last_line = now, self._tokens

    def _of_all(self) -> str:
        n = self._counts["pairs"]
        return f"{n:,} pairs done" if self._total is None else f"{n:,} of {self._total:,} pairs done"

    def _time_left(self, now: float) -> str:
        n = self._counts["pairs"]
        if self._total is None or not n:
            return ""
        return f", about {tqdm.format_interval((now - self._start) / n * max(self._total - n, 0))} left"

    def _log_totals(self) -> None:
        seconds, counts = self._clock() - self._start, self._counts
        speed = f"{self._tokens:,} tokens ({_rate(self._tokens, seconds):,.0f} tokens/s), " if self._tokens else ""
        blank = f", {n_blank} passages blank" if (n_blank := self._n_blank()) else ""
        logger.info(
            "%s in %.1f s (%.2f pairs/s): %s%d chains closed by force, %d passages cut%s, %d from the cache, %d failed",
            self._of_all(),
            seconds,
            _rate(counts["pairs"], seconds),
            speed,
            counts["forced"],
            counts["truncated"],
            blank,
            counts["cached"],
            counts["failed"],
        )


def _n_tokens(stats: Stats) -> int:
    return stats.prefill_tokens + stats.decode_tokens + stats.accepted_tokens


def _rate(n: int, seconds: float) -> float:
    return n / max(seconds, 1e-9)
