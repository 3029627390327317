"""An evaluation, from its inputs to its files, that survives whatever ends its process.

    run + collection -> candidates -> reranker -> journal -> run.trec, judgments.jsonl, metrics.json, ...

A job may be divided into shards, each a job of its own over some of the candidates; `merging.py` makes one of them.

Judgments go to the journal in the order of finishing; the files are written from it once every candidate has been
judged, in the order of the input. So they are the same however often the job was interrupted.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from rank1_hf.evaluation import outputs
from rank1_hf.evaluation.candidates import Candidate, Inputs
from rank1_hf.evaluation.journal import Journal, lock, refuse_others
from rank1_hf.evaluation.metrics import MEASURES, Comparison
from rank1_hf.evaluation.pending import Outcome, Pending, Reranker, stoppable, terminable
from rank1_hf.evaluation.provenance import Provenance
from rank1_hf.evaluation.shards import Finished, Shard
from rank1_hf.evaluation.task import Task
from rank1_hf.files.documents import DocumentStore
from rank1_hf.files.inputs import Document, InputError
from rank1_hf.files.trec import TAG
from rank1_hf.prompts.pair_text import Pair, PairError, Passage, Query

logger = logging.getLogger(__name__)


def run_job(
    inputs: Inputs,
    output: Path,
    settings: Mapping[str, Any],
    load: Callable[[], Reranker],
    *,
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
    _say_what_is_missing(inputs, task)
    output.mkdir(parents=True, exist_ok=True)
    journal_path, decisive = output / "journal.jsonl", {**settings, **inputs.digests(), "shard": None}
    decisive["trace"] = "sentences" if trace else None
    if shard is not None:
        decisive |= {"shard": str(shard), "top_k": inputs.top_k}
    with terminable(), lock(output), outputs.ErrorList(output / "errors.jsonl") as errors:
        refuse_others(journal_path, decisive)  # before the collection is read, which may take minutes
        with _read(inputs, output, errors, show_progress) as documents:
            decisive["documents"] = documents.digest
            places = range(sum(1 for _ in task.candidates()))
            if shard is not None:
                places = shard.places(_costs(inputs, documents, costs))
                decisive["places"] = [places.start, places.stop]
            with Journal(journal_path, decisive, task.n_places) as journal:
                if provenance is not None:
                    provenance.check(
                        {**inputs.digests(), "documents": documents.digest, "qrels": inputs.qrels_digest()}
                    )
                pending = Candidates(inputs, places, documents, journal)
                was_finished = not len(pending)
                measured: Sequence[Comparison] = ()
                unmeasured: Sequence[str] = ()
                with stoppable() as ending:
                    pending.judge(
                        load,
                        output,
                        show_progress=show_progress,
                        provenance=provenance,
                        trace=trace,
                    )
                    if shard is None:
                        measured, unmeasured = outputs.write(output, task, journal, errors, before)
                    else:
                        _list_failures(inputs.candidates(places), journal, errors)
                        journal.sync()
                        Finished(task, errors.n_inputs).write(output)
                n_scored = sum(journal.has_score(candidate.index) for candidate in inputs.candidates(places))
                said = task.coverage() if measured else ()
                counts = len(places), n_scored, errors.n_pairs, errors.n_inputs
                return Outcome(*counts, ending.stopped, measured, unmeasured, said, was_finished)


class Candidates(Pending[Candidate]):
    """The candidates of a job. Documents are looked up as they are taken."""

    def __init__(self, inputs: Inputs, places: range, documents: DocumentStore, journal: Journal) -> None:
        super().__init__(journal)
        self._inputs, self._places, self._documents = inputs, places, documents

    def _all(self) -> Iterator[Candidate]:
        return self._inputs.candidates(self._places)

    def _pair(self, one: Candidate) -> tuple[Query, Passage]:
        query, document = self._inputs.queries.get(one.query), self._documents.get(one.document)
        if query is None or document is None:
            raise PairError(_lacks("query", one.query) if query is None else _lacks("document", one.document))
        return query, document.passage

    def _names(self, one: Candidate) -> dict[str, Any]:
        return asdict(one)


def _say_what_is_missing(inputs: Inputs, task: Task) -> None:
    """Say before hours of work which queries cannot be judged, and which are not measured."""
    if n := sum(1 for _ in inputs.missing_queries()):
        logger.info("queries of the run that the collection lacks: %d; their pairs cannot be judged", n)
    for sentence in task.coverage():
        logger.info(sentence)
    if task.qrels is not None and (n := sum(one.query not in task.qrels for one in task.candidates())):
        logger.info("pairs of queries without relevance judgments: %d; --only-judged-queries leaves them out", n)


def _lacks(what: str, id_: str) -> str:
    return f"the collection has no {what} {id_} that can be read"


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
    for query in inputs.missing_queries():
        errors.add_input(InputError(_lacks("query", query)), query)
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
