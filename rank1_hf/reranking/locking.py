"""One decoder for calls from several threads: they take turns, step by step."""

import threading
from collections.abc import Generator
from typing import TypeVar, cast

_T = TypeVar("_T")


class Locking:
    """What `Rank1` shares between threads."""

    _lock: threading.RLock  # the decoder's: reentrant, since a stream may be read between other calls

    def locked_per_step(self, items: Generator[_T]) -> Generator[_T]:
        """Yield from a generator that drives `decoder`, and hold its lock only while it produces an item, so that calls
        of other threads come between steps. Code that uses `decoder` directly must go through this.
        """
        done = object()
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
