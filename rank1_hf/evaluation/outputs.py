"""The files of a finished job. Each is written beside its name and put there whole."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from rank1_hf.chains.beliefs import CurvePoint
from rank1_hf.evaluation import metrics
from rank1_hf.evaluation.journal import Journal
from rank1_hf.evaluation.task import Task
from rank1_hf.evaluation.writing import json_line, judgment_files, replacing
from rank1_hf.files.inputs import InputError, read_lines
from rank1_hf.files.trec import Run, run_line
from rank1_hf.results.belief_curve import mean_entropy
from rank1_hf.viewing.judgments import COLUMNS

_COLUMNS = {"query": "string", "document": "string", "rank": "int64", **COLUMNS}
"""The columns of a judged pair, and their Arrow types."""


_TRACED = {
    "entropy": "float64",
    "belief": [
        {
            "n_tokens": "int64",
            "n_characters": "int64",
            "score": "float64",
            "log_odds": "float64",
            "entropy": "float64",
        }
    ],
}
"""The columns besides of a traced job."""


class RankedDocument(NamedTuple):
    """A document in the new ranking of its query.

    Attributes:
        document: its id.
        score: strictly decreasing from place to place, and a float32, so that every reader of the run finds this order:
            the log-odds, or the number just below the score before where that is not less. Documents that were not
            judged count down from there.
        judgment: what the journal says of it; None below the candidates that were reranked.
    """

    document: str
    score: float
    judgment: dict[str, Any] | None


def rankings(task: Task, journal: Journal) -> Iterator[tuple[str, list[RankedDocument]]]:
    """Each query's new ranking: candidates by their log-odds, ties as they stood; those without a score behind them,
    then the documents that were not reranked, as they stood.
    """
    start = 0
    for query, scores in task.run.items():
        judged = [
            (document, journal.read(start + place)) for place, document in enumerate(scores) if place < task.top_k
        ]
        judged.sort(key=lambda item: _key(item[1]))
        below = [(document, None) for place, document in enumerate(scores) if place >= task.top_k]
        yield query, with_scores([*judged, *below])
        start += len(scores)


def _key(judgment: Mapping[str, Any] | None) -> tuple[bool, float]:
    log_odds = None if judgment is None else judgment["log_odds"]
    return (True, 0.0) if log_odds is None else (False, -log_odds)


def with_scores(ranked: Sequence[tuple[str, dict[str, Any] | None]]) -> list[RankedDocument]:
    """One query's new ranking, from its documents and their judgments in that order."""
    found: list[RankedDocument] = []
    last = np.float32(np.inf)
    for document, judgment in ranked:
        log_odds = None if judgment is None else judgment["log_odds"]
        if log_odds is not None:
            score = np.float32(log_odds)
        else:
            score = np.floor(last) - np.float32(1) if found else np.float32(-1)
        last = min(score, np.nextafter(last, np.float32(-np.inf)))
        found.append(RankedDocument(document, float(last), judgment))
    return found


def write(
    folder: Path, task: Task, journal: Journal, errors: "ErrorList", before: metrics.Values
) -> tuple[list[metrics.Comparison], list[str]]:
    """Write the files of a job whose candidates all have their judgment.

    Args:
        folder: where.
        task: what was ranked.
        journal: the judgments.
        errors: told of pairs without a score.
        before: what was measured of the run as it was given.

    Returns:
        What metrics.json has, and what is wrong with the measures that could not be computed of the new ranking.
    """
    reranked = _write_rankings(folder, task, journal, errors)
    if task.run_json or (folder / "run.json").exists():  # one that is there would say what was once
        write_json(folder / "run.json", reranked)
    qrels = task.measured_qrels
    if qrels is None:
        return [], []
    unmeasured: list[str] = []
    after = metrics.measure(qrels, reranked, task.measures, lambda problem: unmeasured.append(str(problem)))
    return write_metrics(folder, before, after), unmeasured


def _write_rankings(folder: Path, task: Task, journal: Journal, errors: "ErrorList") -> Run:
    """Write run.trec and the judgments. Gives the new run."""
    reranked: Run = {}
    is_traced = bool(journal.settings.get("trace"))
    with (
        replacing(folder / "run.trec") as run,
        judgment_files(folder, {**_COLUMNS, **(_TRACED if is_traced else {})}) as write_judgment,
    ):
        for query, ranking in rankings(task, journal):
            reranked[query] = {ranked.document: ranked.score for ranked in ranking}
            for rank, ranked in enumerate(ranking, start=1):
                run.write(run_line(query, ranked.document, rank, _score(ranked.score), task.tag).encode())
                if ranked.judgment is not None:
                    record = _record(query, ranked.document, rank, ranked.judgment, is_traced)
                    write_judgment(record)
                    if record["error"] is not None:
                        errors.add_pair(query, ranked.document, record["error"])
    return reranked


def write_json(path: Path, run: Run) -> None:
    """Write a run as `{query id: {document id: score}}`, a query a line, with the scores that run.trec has."""
    with replacing(path) as file:
        file.write(b"{")
        for number, (query, scores) in enumerate(run.items()):
            written = {document: float(_score(score)) for document, score in scores.items()}
            file.write(f"{',' if number else ''}\n{json.dumps(query)}: {json.dumps(written)}".encode())
        file.write(b"\n}\n")


def write_metrics(folder: Path, before: metrics.Values, after: metrics.Values) -> list[metrics.Comparison]:
    """Write metrics.json and per_query.tsv. Gives what metrics.json has."""
    comparison = metrics.compare(before, after)
    with replacing(folder / "metrics.json") as file:
        file.write(json.dumps([asdict(row) for row in comparison], indent=2).encode() + b"\n")
    with replacing(folder / "per_query.tsv") as file:
        file.write(b"measure\tquery\tbefore\tafter\n")
        for name, values in after.items():
            for query, value in values.items():
                if query in before[name]:
                    file.write(f"{name}\t{query}\t{before[name][query]!r}\t{value!r}\n".encode())
    return comparison


def read_values(folder: Path) -> metrics.Values | None:
    """What per_query.tsv says of the new ranking; None where nothing was measured.

    Raises:
        InputError: it cannot be read.
    """
    path = folder / "per_query.tsv"
    if not path.is_file():
        return None
    values: metrics.Values = {}
    for number, line in enumerate(read_lines(path), start=1):
        if number > 1:
            try:
                measure, query, _, after = line.rstrip("\n").split("\t")
                values.setdefault(measure, {})[query] = float(after)
            except ValueError:
                raise InputError(f"{path}, line {number}: must be a measure, a query and two values") from None
    return values


def _score(score: float) -> str:
    """A float32 in as many digits as separate it from every other."""
    return f"{score:.9g}"


def _record(query: str, document: str, rank: int, judgment: Mapping[str, Any], is_traced: bool) -> dict[str, Any]:
    known = {"query": query, "document": document, "rank": rank, **judgment}
    record = {name: known[name] for name in _COLUMNS}
    if is_traced:
        curve = known.get("belief") or []
        record |= {"entropy": mean_entropy([CurvePoint.from_dict(point) for point in curve]), "belief": curve}
    return record


class ErrorList:
    """The errors file: what was wrong with queries, documents and pairs, a line each. None where nothing was.

    Attributes:
        n_inputs, n_pairs: how many of each there are.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new = path.with_name(f"{path.name}.new")
        self._file = self._new.open("wb")
        self.n_inputs = self.n_pairs = 0
        self._queries: set[str] = set()

    def add_input(self, problem: InputError, query: str | None = None) -> None:
        """A query or a document that could not be read.

        Args:
            problem: what is wrong with it.
            query: its id, where it is a query of the run: its pairs then count, but are not listed.
        """
        self.n_inputs += 1
        named = {} if query is None else {"query": query}
        self._queries.update(named.values())
        self._file.write(json_line({**named, "error": str(problem)}))

    def add_pair(self, query: str, document: str, error: str) -> None:
        """A pair that could not be judged."""
        self.n_pairs += 1
        if query not in self._queries:
            self._file.write(json_line({"query": query, "document": document, "error": error}))

    def __enter__(self) -> "ErrorList":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if error is not None:  # of a job that was refused, or did not get far: what was known before still holds
            self._new.unlink()
        elif self.n_inputs or self.n_pairs:
            self._new.replace(self._path)
        else:
            self._new.unlink()
            self._path.unlink(missing_ok=True)
