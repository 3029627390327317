"""What is evaluated: the candidates of a run, and which of them are judged."""

import hashlib
import json
import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from rank1_hf.files.inputs import InputError
from rank1_hf.files.sources import Source
from rank1_hf.files.trec import Qrels, Run
from rank1_hf.prompts.pair_text import Query

logger = logging.getLogger(__name__)

_QUERIES_ARE_DOCUMENTS = re.compile("arguana|quora", re.IGNORECASE)
"""What the names of the tasks have in common whose queries are in the corpus, under the same ids: BEIR's two, and what
was made of them (NanoArguAnaRetrieval, BIRCO-ArguAna, Quora-NL, ...)."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pair to judge: its index over all pairs of the run, and the ids of its query and document."""

    index: int
    query: str
    document: str


@dataclass(frozen=True, slots=True)
class Inputs:
    """What is evaluated.

    Attributes:
        source: the collection.
        queries: its queries by their ids.
        run: the candidates, best first.
        qrels: the relevance judgments, or None: nothing is measured.
        top_k: how many candidates of each query are reranked; those below keep their order behind them.
        problems: what was wrong with single queries.
    """

    source: Source
    queries: Mapping[str, Query]
    run: Run
    qrels: Qrels | None
    top_k: int
    problems: Sequence[InputError] = ()

    def check(self) -> None:
        """Say at once that the files do not belong together.

        Raises:
            InputError: no query of the run has a candidate, is in the collection or in the qrels; or ids that pandas
                made floats in one of the files are whole in another.
        """
        if not any(self.run.values()):
            raise InputError("there is nothing to rerank: no query has a candidate")
        _refuse_floats("the run", self.run, "the collection", self.queries)
        if not self.run.keys() & self.queries.keys():
            raise InputError(
                f"none of the run's queries is in the collection; the first is {next(iter(self.run), None)!r}"
            )
        if self.qrels is not None:
            check_judged(self.run, self.qrels)

    def without_identical_ids(self) -> tuple["Inputs", int]:
        """The same without the candidates that have their query's own id, and how many these were."""
        kept = {
            query: {document: score for document, score in scores.items() if document != query}
            for query, scores in self.run.items()
        }
        return replace(self, run=kept), sum(map(len, self.run.values())) - sum(map(len, kept.values()))

    def only_judged_queries(self) -> "Inputs":
        """The same without the queries that have no relevance judgments.

        Raises:
            InputError: there are no qrels, or they judge none of the run's queries.
        """
        qrels = self.qrels
        if qrels is None:
            raise InputError("--only-judged-queries needs relevance judgments (qrels); give --qrels")
        check_judged(self.run, qrels)
        return replace(self, run={query: scores for query, scores in self.run.items() if query in qrels})

    def first_queries(self, n: int) -> "Inputs":
        """The same with the first n queries of the run, which alone are measured.

        Raises:
            InputError: there are qrels, and they judge none of them.
        """
        run = dict(islice(self.run.items(), n))
        if self.qrels is None:
            return replace(self, run=run)
        check_judged(self.run, self.qrels)
        qrels = {query: grades for query, grades in self.qrels.items() if query in run}
        if not qrels:
            raise InputError(f"the qrels judge none of the run's first {n} queries; add --only-judged-queries")
        return replace(self, run=run, qrels=qrels)

    def missing_queries(self) -> Iterator[str]:
        """The queries of the run that the collection lacks, or that could not be read."""
        return (query for query in self.run if query not in self.queries)

    def candidates(self, places: range | None = None) -> Iterator[Candidate]:
        """The pairs to judge, or those of them that stand at some consecutive places."""
        all_ = candidates(self.run, self.top_k)
        return all_ if places is None else islice(all_, places.start, places.stop)

    def digests(self) -> dict[str, str]:
        """What separates these queries and this run from others."""
        queries, run = hashlib.sha256(), hashlib.sha256()
        for query, scores in self.run.items():
            queries.update(json.dumps([query, self.queries.get(query)]).encode())
            run.update(json.dumps([query, *scores]).encode())
        return {"queries": queries.hexdigest(), "run": run.hexdigest()}

    def qrels_digest(self) -> str | None:
        """What separates these qrels, which decide no judgment, from others."""
        return (
            None if self.qrels is None else hashlib.sha256(json.dumps(self.qrels, sort_keys=True).encode()).hexdigest()
        )


def check_judged(run: Run, qrels: Qrels, name: str = "the run") -> None:
    """Say that qrels do not belong to a run.

    Args:
        run, qrels: the rankings and the relevance judgments.
        name: what the run is called.

    Raises:
        InputError: they have no query in common; or ids that pandas made floats in one are whole in the other.
    """
    _refuse_floats(name, run, "the qrels", qrels)
    for query in run.keys() & qrels.keys():
        _refuse_floats(name, run[query], "the qrels", qrels[query])
    if not run.keys() & qrels.keys():
        raise InputError(
            f"the qrels judge none of {name}'s queries; their first is {next(iter(qrels), None)!r}, {name}'s is "
            f"{next(iter(run), None)!r}"
        )


def refuse_qrels(run: Run, qrels: Qrels, name: str) -> None:
    """Refuse qrels in the place of a run: each candidate is judged, and its score is its grade.

    Where only the order agrees with the grades, the run may be an oracle's, which is a run.

    Args:
        run, qrels: the rankings and the relevance judgments.
        name: what the run is called.

    Raises:
        InputError: the run is the qrels, or a part of them.
    """
    are_grades = (
        qrels.get(query, {}).get(document) == score
        for query, scores in run.items()
        for document, score in scores.items()
    )
    if any(run.values()) and all(are_grades):
        raise InputError(
            f"{name} is no run but relevance judgments: each score is the grade that the qrels have; give the "
            "run of a retriever, such as BM25"
        )


def check_order(run: Run, top_k: int, name: str) -> None:
    """Refuse to rerank only the first candidates of each query where all have one score, which says no order.

    So it is with MS MARCO and TREC DL, whose files list pairs alone: ir_datasets gives each of them the score 0.

    Args:
        run: the candidates.
        top_k: how many of each query are reranked.
        name: where they are from.

    Raises:
        InputError: a query has more candidates than are reranked.
    """
    most = max(map(len, run.values()), default=0)
    if most < 2 or any(len(set(scores.values())) > 1 for scores in run.values()):
        return
    if top_k < most:
        raise InputError(
            f"{name} lists candidates without an order, so the first {top_k} of each query would be arbitrary; give "
            f"--run, or --top-k {most} to rerank all of them"
        )
    logger.info('%s lists candidates without an order, so the measures "before" mean nothing', name)


def candidates(run: Run, top_k: int) -> Iterator[Candidate]:
    """The pairs to judge. Their indices do not depend on `top_k`, so that a job can go on with another one."""
    start = 0
    for query, scores in run.items():
        for index, document in enumerate(islice(scores, top_k), start):
            yield Candidate(index, query, document)
        start += len(scores)


def queries_are_documents(corpus: str, task: str | None = None) -> bool:
    """Whether a collection is known to have its queries in its corpus, by its name, its folder's or its task's."""
    name = Path(corpus).resolve().name if Path(corpus).exists() else corpus
    return any(_QUERIES_ARE_DOCUMENTS.search(each) for each in (name, task or ""))


def _refuse_floats(name: str, ids: Collection[str], other_name: str, other_ids: Collection[str]) -> None:
    """Say that an id of one file is that of the other, but for the ".0" that pandas writes behind whole numbers."""
    for theirs, these, whole, them in ((name, ids, other_name, other_ids), (other_name, other_ids, name, ids)):
        for id_ in these:
            if id_.endswith(".0") and id_ not in them and id_[:-2] in them:
                raise InputError(
                    f"{theirs} has the id {id_}, {whole} has {id_[:-2]}: pandas made it a float; write ids as text "
                    "(read them with dtype=str)"
                )
