"""One decoder for calls from several threads: they take turns, step by step."""

import atexit
import threading
from collections.abc import Generator
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

_T = TypeVar("_T")

_open: WeakKeyDictionary[Generator[Any], threading.RLock] = WeakKeyDictionary()
"""The generators that nobody has read to their end yet, each with the lock of its decoder."""


class Locking:
    """What `Rank1` shares between threads."""

    _lock: threading.RLock  # the decoder's: reentrant, since a stream may be read between other calls

    def locked_per_step(self, items: Generator[_T]) -> Generator[_T]:
        """Yield from a generator that drives `decoder`, and hold its lock only while it produces an item, so that calls
        of other threads come between steps. Code that uses `decoder` directly must go through this.
        """
        done = object()
        _open[items] = self._lock
        try:
            while True:
                with self._lock:
                    item = next(items, done)
                if item is done:
                    return
                yield cast(_T, item)
        finally:
            with self._lock:
                items.close()


@atexit.register
def _close_all() -> None:
    """Close what is still open when the interpreter exits: afterwards torch is gone, without which no memory is given
    back. Where a daemon thread is still decoding nothing is closed, since that would be waited for.
    """
    for items, lock in [*_open.items()]:
        if lock.acquire(blocking=False):
            try:
                items.close()
            finally:
                lock.release()
