"""An evaluation, from its inputs to its files, that survives whatever ends its process.

    run + collection -> candidates -> reranker -> journal -> run.trec, judgments.jsonl, metrics.json, ...

A job may be divided into shards, each a job of its own over some of the candidates; `merging.py` makes one of them.

Judgments go to the journal in the order of finishing; the files are written from it once every candidate has been
judged, in the order of the input. So they are the same however often the job was interrupted.
"""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

from tqdm.auto import tqdm

from rank1_hf.evaluation import outputs
from rank1_hf.evaluation.candidates import Candidate, Inputs
from rank1_hf.evaluation.journal import Journal, lock, refuse_others
from rank1_hf.evaluation.metrics import MEASURES, Comparison
from rank1_hf.evaluation.provenance import Provenance
from rank1_hf.evaluation.shards import Finished, Shard
from rank1_hf.evaluation.task import Task
from rank1_hf.files.documents import DocumentStore
from rank1_hf.files.inputs import Document, InputError
from rank1_hf.files.trec import TAG
from rank1_hf.prompts.prompt import Pair, Passage, Query
from rank1_hf.results.belief_curve import with_curve
from rank1_hf.results.judgment import Judgment
from rank1_hf.tracing.tracer import TraceOptions


class Reranker(Protocol):
    """What judges: `Rank1`, or whatever else has its method."""

    def judge(
        self,
        pairs: Iterable[tuple[Query, Passage]],
        *,
        batch_size: int | None,
        show_progress_bar: bool | None,
        stream: Literal[True],
        trace: bool | TraceOptions,
    ) -> Iterator[Judgment]:
        """See `Rank1.judge`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended.

    Attributes:
        n_pairs: how many pairs there are to judge.
        n_scored: how many of them have a score by now.
        n_failed: how many could not be judged.
        n_problems: how many queries and documents could not be read.
        stopped: None: all is done and the files are written. Else the signal or the error that ended the job; what was
            judged is kept.
        metrics: the comparison; empty without qrels, and where the job was stopped.
        unmeasured: what is wrong with the measures that could not be computed of the new ranking, a sentence each.
        coverage: which queries only the run or only the qrels have, a sentence each, where something was measured.
    """

    n_pairs: int
    n_scored: int
    n_failed: int
    n_problems: int
    stopped: signal.Signals | OSError | None
    metrics: Sequence[Comparison] = ()
    unmeasured: Sequence[str] = ()
    coverage: Sequence[str] = ()


def run_job(
    inputs: Inputs,
    output: Path,
    settings: Mapping[str, Any],
    load: Callable[[], Reranker],
    *,
    batch_size: int | None = None,
    shard: Shard | None = None,
    costs: Callable[[Iterable[Pair]], Sequence[int]] | None = None,
    measures: Sequence[str] = MEASURES,
    run_json: bool = False,
    trace: bool = False,
    tag: str = TAG,
    only_run_queries: bool = False,
    show_progress: bool | None = None,
    provenance: Provenance | None = None,
) -> Outcome:
    """Judge what has no judgment yet, then write the files.

    The given ranking is measured first, so that a measure that cannot be computed is known before anything is judged.

    Args:
        inputs: what is evaluated.
        output: the folder of the journal and the files; made where there is none.
        settings: what else decides a judgment, as JSON: the model, its budget, ...
        load: gives the reranker; called if there is anything left to judge.
        batch_size: how many pairs decode together at most.
        shard: which part of the pairs to judge; what is written is then for `merge`. None: all of them.
        costs: about how many tokens each pair takes, by which they are divided; None: all take the same.
        measures: what to measure, as ir_measures names it.
        run_json: whether to write the new run as run.json too.
        trace: whether to read the belief behind each sentence and keep its curve with each judgment.
        tag: the last column of the new run.
        only_run_queries: leave judged queries that the run lacks out of the measures, instead of counting them as 0.
        show_progress: None: only on a terminal.
        provenance: writes environment.json; None: it is not written.

    Raises:
        JournalError: the folder is in use, or belongs to a job with other settings.
        InputError: the collection cannot be read, the run and the qrels do not belong to it, or a measure cannot be
            computed of them.
        OSError: the folder cannot be written.
        KeyboardInterrupt: while the collection was read. Its argument is the signal, where that was SIGTERM.
    """
    inputs.check()
    task = Task(inputs.run, inputs.qrels, inputs.top_k, tuple(measures), run_json, tag, only_run_queries)
    before = task.before()
    output.mkdir(parents=True, exist_ok=True)
    journal_path, decisive = output / "journal.jsonl", {**settings, **inputs.digests(), "shard": None}
    decisive["trace"] = "sentences" if trace else None
    if shard is not None:
        decisive |= {"shard": str(shard), "top_k": inputs.top_k}
    with _terminable(), lock(output), outputs.ErrorList(output / "errors.jsonl") as errors:
        refuse_others(journal_path, decisive)  # before the collection is read, which may take minutes
        with _read(inputs, output, errors, show_progress) as documents:
            decisive["documents"] = documents.digest
            places = range(sum(1 for _ in task.candidates()))
            if shard is not None:
                places = shard.places(_costs(inputs, documents, costs))
                decisive["places"] = [places.start, places.stop]
            with Journal(journal_path, decisive, task.n_places) as journal:
                if provenance is not None:
                    provenance.check(inputs, documents.digest)
                pending = Pending(inputs, places, documents, journal)
                stopped: signal.Signals | OSError | None = None
                measured: Sequence[Comparison] = ()
                unmeasured: Sequence[str] = ()
                try:
                    if len(pending):
                        reranker = load()
                        if provenance is not None:
                            provenance.write(output, reranker)
                        for judgment in reranker.judge(
                            pending,
                            batch_size=batch_size,
                            show_progress_bar=show_progress,
                            stream=True,
                            trace=TraceOptions(belief="sentences") if trace else False,
                        ):
                            pending.finish(judgment)
                    if shard is None:
                        measured, unmeasured = outputs.write(output, task, journal, errors, before)
                    else:
                        _list_failures(inputs.candidates(places), journal, errors)
                        journal.sync()
                        Finished(task, errors.n_inputs).write(output)
                except KeyboardInterrupt as interrupt:
                    stopped = stopped_by(interrupt)
                except OSError as error:
                    stopped = error
                n_scored = sum(journal.has_score(candidate.index) for candidate in inputs.candidates(places))
                said = task.coverage() if measured else ()
                return Outcome(
                    len(places), n_scored, errors.n_pairs, errors.n_inputs, stopped, measured, unmeasured, said
                )


def stopped_by(interrupt: KeyboardInterrupt) -> signal.Signals:
    """SIGTERM or SIGINT (Ctrl-C)."""
    return signal.SIGTERM if signal.SIGTERM in interrupt.args else signal.SIGINT


class Pending:
    """The pairs without a score, as a reranker takes them; it knows which is which until each is finished.

    Documents are looked up as they are taken. A pair that lacks its query or its document fails here.
    """

    def __init__(self, inputs: Inputs, places: range, documents: DocumentStore, journal: Journal) -> None:
        self._inputs, self._places, self._documents, self._journal = inputs, places, documents, journal
        self._taken: dict[int, Candidate] = {}

    def __len__(self) -> int:
        return sum(not self._journal.has_score(candidate.index) for candidate in self._inputs.candidates(self._places))

    def __iter__(self) -> Iterator[tuple[Query, Passage]]:
        n_taken = 0
        for candidate in self._inputs.candidates(self._places):
            if self._journal.has_score(candidate.index):
                continue
            query, document = self._inputs.queries.get(candidate.query), self._documents.get(candidate.document)
            if query is None or document is None:
                missing = f"query {candidate.query}" if query is None else f"document {candidate.document}"
                self._append(candidate, Judgment.failed(0, f"the collection has no {missing} that can be read"))
                continue
            self._taken[n_taken] = candidate
            n_taken += 1
            yield query, document.passage

    def finish(self, judgment: Judgment) -> None:
        """Put a judgment into the journal, without the trace that is as long as its chain."""
        self._append(self._taken.pop(judgment.index), with_curve(judgment))

    def _append(self, candidate: Candidate, judgment: Judgment) -> None:
        self._journal.append({**judgment.to_dict(), **asdict(candidate)})


def _costs(
    inputs: Inputs, documents: DocumentStore, costs: Callable[[Iterable[Pair]], Sequence[int]] | None
) -> Sequence[int]:
    """About how many tokens each pair takes. One that lacks its query or its document takes none or few."""
    if costs is None:
        return [1 for _ in inputs.candidates()]
    found = ((inputs.queries.get(each.query), documents.get(each.document)) for each in inputs.candidates())
    return costs((query or "", "" if document is None else document.passage) for query, document in found)


def _list_failures(candidates: Iterable[Candidate], journal: Journal, errors: outputs.ErrorList) -> None:
    for candidate in candidates:
        judgment = journal.read(candidate.index)
        if judgment is not None and judgment["error"] is not None:
            errors.add_pair(candidate.query, candidate.document, judgment["error"])


@contextmanager
def _read(
    inputs: Inputs, output: Path, errors: outputs.ErrorList, show_progress: bool | None
) -> Iterator[DocumentStore]:
    """The documents of the run, for as long as they are needed."""
    for problem in inputs.problems:
        errors.add_input(problem)
    corpus: Iterator[Document] = tqdm(
        inputs.source.documents(errors.add_input),
        desc="Reading the corpus",
        unit="document",
        disable=None if show_progress is None else not show_progress,
        leave=False,
    )
    documents = DocumentStore(
        output / ".documents.sqlite",
        corpus,
        wanted={candidate.document for candidate in inputs.candidates()},
        named={document for scores in inputs.run.values() for document in scores},
        skip=errors.add_input,
    )
    try:
        if not documents.n_kept:
            raise InputError(f"none of the run's documents is in the collection; the first is {_first(inputs)!r}")
        yield documents
    finally:
        documents.close()


def _first(inputs: Inputs) -> str:
    return next(inputs.candidates()).document


@contextmanager
def _terminable() -> Iterator[None]:
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
