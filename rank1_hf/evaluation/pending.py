"""What every job has in common: the pairs that have no score yet, and how their judging may end.

    Pending -> reranker -> journal

A judgment is in the journal as soon as it is finished. Ctrl-C, SIGTERM and a full disk end the judging, and what was
judged is kept.
"""

import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Generic, Literal, Protocol, TypeVar

from rank1_hf.evaluation.journal import Journal
from rank1_hf.evaluation.metrics import Comparison
from rank1_hf.evaluation.provenance import Provenance
from rank1_hf.evaluation.unfinished import UnfinishedChains
from rank1_hf.prompts.pair_text import PairError, Passage, Query
from rank1_hf.results.belief_curve import with_curve
from rank1_hf.results.judgment import Judgment
from rank1_hf.tracing.tracer import TraceOptions

CHAINS = "chains.jsonl"
"""The file of unfinished chains, beside the journal."""


class Indexed(Protocol):
    """What stands for a pair; its index is its place in the journal."""

    @property
    def index(self) -> int:
        """See above."""


_T = TypeVar("_T", bound=Indexed)


class Reranker(Protocol):
    """What judges: `Rank1`, or whatever else has its method."""

    def judge(
        self,
        pairs: Iterable[tuple[Query, Passage]],
        *,
        show_progress_bar: bool | None,
        stream: Literal[True],
        trace: bool | TraceOptions,
        keeper: "Pending[Any]",
    ) -> Iterator[Judgment]:
        """See `Rank1.judge`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended.

    Attributes:
        n_pairs: how many pairs there are to judge.
        n_scored: how many of them have a score by now.
        n_failed: how many could not be judged.
        n_problems: how many queries and documents, or rows, could not be read.
        stopped: None: all is done and the files are written. Else the signal or the error that ended the job; what was
            judged is kept.
        metrics: the comparison; empty without qrels, and where the job was stopped.
        unmeasured: what is wrong with the measures that could not be computed of the new ranking, a sentence each.
        coverage: which queries only the run or only the qrels have, a sentence each, where something was measured.
        was_finished: whether nothing was left to judge; of a file of pairs, also nothing to write.
    """

    n_pairs: int
    n_scored: int
    n_failed: int
    n_problems: int
    stopped: signal.Signals | OSError | None
    metrics: Sequence[Comparison] = ()
    unmeasured: Sequence[str] = ()
    coverage: Sequence[str] = ()
    was_finished: bool = False


class Pending(ABC, Generic[_T]):
    """The pairs without a score, as a reranker takes them; it knows which is which until each is finished.

    Args:
        journal: has the judgments.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._taken: dict[int, _T] = {}
        self._chains: UnfinishedChains | None = None

    @abstractmethod
    def _all(self) -> Iterator[_T]:
        """What stands for each pair of the job, with a score or without, in the order of judging."""

    @abstractmethod
    def _pair(self, one: _T) -> tuple[Query, Passage]:
        """The texts of a pair.

        Raises:
            PairError: one of them is missing.
        """

    def _names(self, one: _T) -> Mapping[str, Any]:
        """What the journal has of a pair besides its judgment."""
        return {"index": one.index}

    def __len__(self) -> int:
        return sum(not self._journal.has_score(one.index) for one in self._all())

    def __iter__(self) -> Iterator[tuple[Query, Passage]]:
        """The pairs, looked up as they are taken. One that lacks a text fails here."""
        n_taken = 0
        for one in self._all():
            if self._journal.has_score(one.index):
                continue
            try:
                pair = self._pair(one)
            except PairError as error:
                self._append(one, Judgment.failed(0, str(error)))
                continue
            self._taken[n_taken] = one
            n_taken += 1
            yield pair

    def judge(
        self,
        load: Callable[[], Reranker],
        output: Path,
        *,
        show_progress: bool | None,
        provenance: Provenance | None,
        trace: bool = False,
    ) -> None:
        """Judge them all; the reranker is loaded if there are any, and `output` gets its environment.json. Of a trace
        the belief curve is kept; traced chains that are unfinished begin anew.
        """
        if not len(self):
            if provenance is not None:
                provenance.write_measured(output)
            return
        reranker = load()
        if provenance is not None:
            provenance.write(output, reranker)
        chains = self._chains = UnfinishedChains(output / CHAINS, self._journal.settings, self._journal.has_score)
        with closing(chains):
            for judgment in reranker.judge(
                self,
                show_progress_bar=show_progress,
                stream=True,
                trace=TraceOptions(belief="sentences") if trace else False,
                keeper=self,
            ):
                one = self._taken.pop(judgment.index)
                self._append(one, judgment)
                chains.drop(one.index)
            chains.delete()

    def generated(self, index: int) -> Sequence[int]:
        """What the chain of a pair of the call had generated before; see `Rank1.judge`."""
        return () if self._chains is None else self._chains.generated(self._taken[index].index)

    def keep(self, generated: Mapping[int, Sequence[int]]) -> None:
        """Keep what the chains of some pairs of the call have generated so far."""
        if self._chains is not None:
            self._chains.keep({self._taken[index].index: ids for index, ids in generated.items()})

    def _append(self, one: _T, judgment: Judgment) -> None:
        self._journal.append({**with_curve(judgment).to_dict(), **self._names(one)})


class Ending:
    """How a block ended.

    Attributes:
        stopped: the signal or the error that stopped it; None: nothing did.
    """

    stopped: signal.Signals | OSError | None = None


@contextmanager
def stoppable() -> Iterator[Ending]:
    """A block that signals and errors of the disk end without an exception."""
    ending = Ending()
    try:
        yield ending
    except KeyboardInterrupt as interrupt:
        ending.stopped = stopped_by(interrupt)
    except OSError as error:
        ending.stopped = error


def stopped_by(interrupt: KeyboardInterrupt) -> signal.Signals:
    """SIGTERM or SIGINT (Ctrl-C), also where `Rank1.judge` has made an `Interrupted` of it."""
    cause = interrupt.__cause__ or interrupt
    return signal.SIGTERM if signal.SIGTERM in cause.args else signal.SIGINT


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does. (Only the main thread may ask for that; elsewhere nothing changes.)"""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number))

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
