"""A file of pairs, judged by a job that survives whatever ends its process.

    file -> PairStore -> reranker -> journal -> judgments.jsonl, judgments.parquet, summary.json

As in `job.py` judgments go to the journal in the order of finishing, and the files are written from it at the end, in
the order of the input. A row that cannot be judged costs nothing but itself: it stands there with what is wrong.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from rank1_hf.evaluation.journal import Journal, lock, refuse_others
from rank1_hf.evaluation.pending import Outcome, Pending, Reranker, stoppable, terminable
from rank1_hf.evaluation.provenance import Provenance
from rank1_hf.evaluation.writing import JUDGMENTS, judgment_files, replacing
from rank1_hf.files.pairs import PairFile, PairRow, PairStore, check_rows
from rank1_hf.files.rows import column_types
from rank1_hf.inputs.textfiles import InputError
from rank1_hf.prompts.pair_text import Passage, Query
from rank1_hf.results.judgment import Judgment
from rank1_hf.viewing.judgments import COLUMNS

SUMMARY = "summary.json"

_OURS = {"line": "int64", **COLUMNS}
"""What a row of the output has besides the columns of its file, and the Arrow types."""


def run_batch(
    pairs: PairFile,
    output: Path,
    settings: Mapping[str, Any],
    load: Callable[[], Reranker],
    *,
    show_progress: bool | None = None,
    provenance: Provenance | None = None,
) -> Outcome:
    """Judge what has no judgment yet, then write the files; nothing is done where they are there.

    Args:
        pairs: the file.
        output: the folder of the journal and the files; made where there is none.
        settings: what else decides a judgment, as JSON: the model, its budget, ...
        load: gives the reranker; called if there is anything left to judge.
        show_progress: None: only on a terminal.
        provenance: writes environment.json; None: it is not written.

    Raises:
        JournalError: the folder is in use, or belongs to a job with other settings or other pairs.
        InputError: the file cannot be read, or has no rows that can be judged.
        OSError: the folder cannot be written.
        KeyboardInterrupt: while the file was read. Its argument is the signal, where that was SIGTERM.
    """
    if pairs.path.exists() and not pairs.path.is_file():
        raise InputError(f"{pairs.path} cannot be read twice, which a job does; write the pairs to a file")
    output.mkdir(parents=True, exist_ok=True)
    journal_path, kinds = output / "journal.jsonl", ColumnKinds()
    with terminable(), lock(output):
        refuse_others(journal_path, settings)  # before the file is read, which may take minutes
        rows = tqdm(
            pairs,
            desc="Reading the pairs",
            unit="row",
            disable=None if show_progress is None else not show_progress,
            leave=False,
        )
        with closing(PairStore(output / ".pairs.sqlite", check_rows(kinds.noting(rows)))) as store:
            if not store.n_rows:
                raise InputError(f"{pairs.path} has no rows")
            if provenance is not None:
                provenance.check({"pairs": store.digest})
            with Journal(journal_path, {**settings, "pairs": store.digest}, store.n_rows) as journal:
                pending, was_finished = Rows(store, journal), False
                with stoppable() as ending:
                    was_finished = not len(pending) and _is_written(output, store, journal)
                    if not was_finished:
                        pending.judge(load, output, show_progress=show_progress, provenance=provenance)
                        _write(output, pairs, kinds, store, journal)
                n_failed = store.n_problems if ending.stopped else store.n_rows - journal.n_scored
                counts = store.n_rows, journal.n_scored, n_failed, store.n_problems
                return Outcome(*counts, ending.stopped, was_finished=was_finished)


@dataclass(frozen=True, slots=True)
class Place:
    """A row's place in its file, from 0."""

    index: int


class Rows(Pending[Place]):
    """The rows of a file that can be judged, those of one query together."""

    def __init__(self, store: PairStore, journal: Journal) -> None:
        super().__init__(journal)
        self._store = store

    def _all(self) -> Iterator[Place]:
        return map(Place, self._store.places())

    def _pair(self, one: Place) -> tuple[Query, Passage]:
        pair = self._store.pair(one.index)
        assert pair is not None  # `places` has no others
        return pair


class ColumnKinds:
    """What the columns of a file hold, seen row by row."""

    def __init__(self) -> None:
        self._kinds: dict[str, set[str]] = {}

    def noting(self, rows: Iterable[PairRow]) -> Iterator[PairRow]:
        """The rows, their columns noted."""
        for row in rows:
            for name, value in row.columns.items():
                kinds = self._kinds.setdefault(name, set())
                if value is not None:
                    kinds.add(_kind(value))
            yield row

    def names(self) -> dict[str, str]:
        """What each column is called beside `_OURS`: its own name, or with "input_" before it where we have that."""
        found: dict[str, str] = {}
        for name in self._kinds:
            other = name
            while other in _OURS or (other != name and other in self._kinds):
                other = f"input_{other}"
            found[name] = other
        return found

    def types(self) -> dict[str, str]:
        """The Arrow type of each column: text where its values are of several kinds, or objects."""
        return {name: _ARROW.get(frozenset(kinds), "string") for name, kinds in self._kinds.items()}


_ARROW = {
    frozenset({"bool"}): "bool_",
    frozenset({"int"}): "int64",
    frozenset({"float"}): "float64",
    frozenset({"int", "float"}): "float64",
}


def _kind(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return "int" if -(2**63) <= value < 2**63 else "object"
    return type(value).__name__ if isinstance(value, bool | float) else "object"


def _write(output: Path, pairs: PairFile, kinds: ColumnKinds, store: PairStore, journal: Journal) -> None:
    """Write the files of a job whose rows all have their judgment, or a problem."""
    names, types = kinds.names(), {**kinds.types(), **column_types(pairs.path)}
    columns = {"line": _OURS["line"], **{names[name]: types[name] for name in names}, **COLUMNS}
    with judgment_files(output, columns) as write:
        for place, row in enumerate(_unchanged(pairs, store)):
            judgment = journal.read(place) or Judgment.failed(place, row.problem or "").to_dict()
            own = {names[name]: value for name, value in row.columns.items()}
            write({"line": row.number, **own, **{name: judgment[name] for name in COLUMNS}})
    with replacing(output / SUMMARY) as file:
        file.write(json.dumps(_summary(store, journal)).encode() + b"\n")


def _unchanged(pairs: PairFile, store: PairStore) -> Iterator[PairRow]:
    """The rows, once more.

    Raises:
        InputError: they are not those that were judged.
    """
    changed = InputError(f"{pairs.path} was changed while its pairs were judged; give another --output to begin anew")
    n_same = 0
    for row in pairs:
        pair = None if row.problem is not None else (row.query, row.passage)
        if n_same == store.n_rows or store.pair(n_same) != pair:
            raise changed
        yield row
        n_same += 1
    if n_same < store.n_rows:
        raise changed


def _summary(store: PairStore, journal: Journal) -> dict[str, int]:
    return {"n_pairs": store.n_rows, "n_scored": journal.n_scored, "n_failed": store.n_rows - journal.n_scored}


def _is_written(output: Path, store: PairStore, journal: Journal) -> bool:
    """Whether the files are those of these judgments; of later ones there are more."""
    try:
        summary = json.loads((output / SUMMARY).read_bytes())
    except (OSError, ValueError):
        return False
    return (output / JUDGMENTS).exists() and summary == _summary(store, journal)
