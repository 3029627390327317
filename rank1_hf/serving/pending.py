"""The judgments of one request on their way from the engine's thread to the event loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from rank1_hf.results.judgment import Judgment
from rank1_hf.serving.engine import Engine, EngineError
from rank1_hf.serving.limits import Refusal
from rank1_hf.serving.metrics import Metrics


class Pending:
    """The judgments of a request, as they reach the event loop. Closed before the last, it cancels the others.

    Pairs that were refused have their judgments at once.

    Raises:
        BusyError: there is no room for all its documents.
        EngineError: the engine is closed.
    """

    def __init__(self, engine: Engine, metrics: Metrics, pairs: Sequence[tuple[str, str] | Refusal]) -> None:
        self._engine = engine
        self._metrics = metrics
        self._n_missing = len(pairs)
        self._inbox: asyncio.Queue[Judgment | EngineError] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        fit = {place: pair for place, pair in enumerate(pairs) if not isinstance(pair, Refusal)}
        self._places = list(fit)
        self._job = engine.submit(list(fit.values()), self._deliver)
        for place, pair in enumerate(pairs):
            if isinstance(pair, Refusal):
                self._inbox.put_nowait(Judgment.failed(place, pair.reason))

    def _deliver(self, found: Judgment | EngineError) -> None:
        if isinstance(found, Judgment):
            found = found.at(self._places[found.index])
        with contextlib.suppress(RuntimeError):  # the event loop is closed: the server was made to stop at once
            self._loop.call_soon_threadsafe(self._inbox.put_nowait, found)

    async def __aiter__(self) -> AsyncIterator[Judgment]:
        while self._n_missing:
            found = await self._inbox.get()
            if isinstance(found, EngineError):
                self._n_missing = 0
                raise found
            self._n_missing -= 1
            self._metrics.judged(found)
            yield found

    async def all(self) -> list[Judgment]:
        """All of them, in the order of finishing."""
        return [judgment async for judgment in self]

    def close(self) -> None:
        """Nobody waits for the others."""
        if self._n_missing:
            self._engine.cancel(self._job)
            self._metrics.disconnects.inc()


class PendingResponse(StreamingResponse):
    """Closes what it streams when it has ended, in whatever way, even before it began."""

    def __init__(self, content: AsyncIterator[str], pending: Pending, *, media_type: str) -> None:
        super().__init__(content, media_type=media_type)
        self._pending = pending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response, as ASGI has it."""
        with contextlib.closing(self._pending):
            await super().__call__(scope, receive, send)
