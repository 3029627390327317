"""One decode loop for the pairs of all requests, in a thread of its own.

Pairs are submitted from any thread and wait in one queue, first come, first served. The loop takes them as it has room,
so rows of different requests decode together, and hands out each judgment as it finishes. The engine knows nothing of
HTTP.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType

from rank1_hf.prompts.pair_text import Pair
from rank1_hf.reranker import Rank1
from rank1_hf.reranking.call import Call
from rank1_hf.reranking.call_options import CallOptions
from rank1_hf.results.judgment import Judgment

logger = logging.getLogger(__name__)


class BusyError(RuntimeError):
    """There is no room in the queue; try again later."""


class EngineError(RuntimeError):
    """The pairs will not be judged: the model has failed, or the engine is closed."""


@dataclass(frozen=True, eq=False, slots=True)
class Job:
    """The pairs of one request.

    Attributes:
        indices: the pairs' numbers in the engine.
        deliver: given each pair's judgment, its `index` the place among the job's pairs; or once an `EngineError`,
            after which nothing more comes. It is called in the engine's thread and must not wait or raise.
    """

    indices: range
    deliver: Callable[[Judgment | EngineError], None]


class Engine:
    """Judges the pairs of many jobs together. Use it as a context manager, or close it.

    Args:
        reranker: its own calls, from other threads, come between the engine's steps.
        max_pairs: the most pairs that may wait or be decoded.
        batch_size: how many pairs decode together at most. None: what is fast on the device.
    """

    def __init__(self, reranker: Rank1, *, max_pairs: int, batch_size: int | None = None) -> None:
        self.reranker = reranker
        self.max_pairs = max_pairs
        self.is_healthy = True
        self._batch_size = batch_size
        self._changed = threading.Condition()
        self._waiting: OrderedDict[int, Pair] = OrderedDict()
        self._jobs: dict[int, Job] = {}  # by pair, of those that wait and those that are decoded
        self._next_index = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="rank1-decode-loop", daemon=True)
        self._thread.start()

    @property
    def n_waiting(self) -> int:
        """How many pairs the loop has not taken yet."""
        return len(self._waiting)

    @property
    def n_pairs(self) -> int:
        """How many pairs wait or are decoded."""
        return len(self._jobs)

    def submit(self, pairs: Sequence[Pair], deliver: Callable[[Judgment | EngineError], None]) -> Job:
        """Queue pairs. See `Job` for what is delivered.

        Raises:
            BusyError: there is no room for all of them; none is queued.
            EngineError: the engine is closed.
        """
        with self._changed:
            if self._closed:
                raise EngineError("the server is shutting down")
            if len(self._jobs) + len(pairs) > self.max_pairs:
                raise BusyError(f"the queue is full ({len(self._jobs)} of {self.max_pairs} documents); try again later")
            job = Job(range(self._next_index, self._next_index + len(pairs)), deliver)
            self._next_index = job.indices.stop
            self._waiting.update(zip(job.indices, pairs, strict=True))
            self._jobs.update(dict.fromkeys(job.indices, job))
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Nobody waits for a job any more: it leaves the queue now, and the decode loop before the next step."""
        with self._changed:
            for index in job.indices:
                self._waiting.pop(index, None)
                self._jobs.pop(index, None)

    def close(self) -> None:
        """Give up what is not finished, and wait for the thread to end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._fail(EngineError("the server is shutting down"))
        self._thread.join()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self) -> None:
        while self._await_pairs():
            try:
                self._decode()
            except Exception:
                self.is_healthy = False
                logger.exception(
                    "the decode loop has failed; the requests it had get an error, the next ones a new loop"
                )
                self._fail(EngineError("the model has failed; the server's log says why"))

    def _decode(self) -> None:
        """Judge what has come, and what comes in the meantime, until nothing is left."""
        call = Call(
            self.reranker.pair_encoder,
            self.reranker.decoder,
            self._arriving(),
            CallOptions(),
            cached=self.reranker.cached_judgments(CallOptions(), self._batch_size),
            is_wanted=self._is_wanted,
        )
        steps = self.reranker.decoder.steps(call.requests(), max_rows=self._batch_size)
        with closing(self.reranker.locked_per_step(steps)) as in_turn:
            for finished in in_turn:
                for decoded in finished:
                    call.finish(decoded)
                self._deliver(call.take_ready())
        self._deliver(call.take_ready())

    def _await_pairs(self) -> bool:
        """Wait for pairs. False: there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return not self._closed

    def _arriving(self) -> Iterator[tuple[int, Pair] | None]:
        """The pairs that wait; None where none does, without waiting for one."""
        while True:
            with self._changed:
                arrived = self._waiting.popitem(last=False) if self._waiting else None
            yield arrived

    def _is_wanted(self, index: int) -> bool:
        return index in self._jobs

    def _deliver(self, judgments: Iterable[Judgment]) -> None:
        for judgment in judgments:
            with self._changed:
                job = self._jobs.pop(judgment.index, None)
            if job is not None:
                self.is_healthy = True
                job.deliver(judgment.at(judgment.index - job.indices.start))

    def _fail(self, error: EngineError) -> None:
        with self._changed:
            jobs = set(self._jobs.values())
            self._waiting.clear()
            self._jobs.clear()
        for job in jobs:
            job.deliver(error)
