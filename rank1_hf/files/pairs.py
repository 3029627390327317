"""Files of pairs to judge: a query and a passage a row, and whatever columns its owner has besides.

A row that cannot be judged is a row all the same, with what is wrong with it. `PairStore` keeps the texts on disk in
the order in which they are best judged, so that a file of any size is read front to back and never held in memory.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from rank1_hf.files.completions import NAMES as NAMES_OF_COMPLETIONS
from rank1_hf.files.completions import text_with
from rank1_hf.files.rows import DELIMITERS, at, read_rows
from rank1_hf.inputs import fields
from rank1_hf.inputs.textfiles import InputError, Row, format_of
from rank1_hf.prompts.pair_text import PairError, Passage, Query, passage_text, query_text

NAMES = {name: NAMES_OF_COMPLETIONS[name] for name in ("query", "passage", "title", "instruction")}
"""What a row tells of its pair, and the columns that it usually has that in."""

_NEEDED = ("query", "passage")
_MOST_WRONG = 1000  # rows at the beginning of a file


@dataclass(frozen=True, slots=True)
class PairRow:
    """A row of a file of pairs.

    Attributes:
        number: its line, or its row in a Parquet file, from 1.
        columns: all that it has, as it came; empty where it could not be read.
        query, passage: the texts as they stand in the prompt; None where there is a problem.
        problem: why it cannot be judged, or None.
    """

    number: int
    columns: Mapping[str, Any]
    query: str | None = None
    passage: str | None = None
    problem: str | None = None


class PairFile:
    """A file of pairs, which can be read again and again: JSONL, CSV, TSV or Parquet; see `rows.read_rows`.

    Args:
        path: the file.
        names: where rows have what `NAMES` lists, if elsewhere: a column, or a path through objects and lists.

    Raises:
        InputError: there is no such name.
    """

    def __init__(self, path: Path, names: Mapping[str, str] | None = None) -> None:
        self.path = path
        self._is_csv = format_of(path) in DELIMITERS  # where an empty cell is a missing value
        self._names = names or {}
        for name in self._names:
            if name not in NAMES:
                raise InputError(f"there is no {name!r} to map a column to; there are {', '.join(NAMES)}")

    def __iter__(self) -> Iterator[PairRow]:
        """Every row that is not blank, in the file's order.

        Raises:
            InputError: the file cannot be read, or none of its columns is the query's or the passage's.
        """
        return map(self._pair_row, read_rows(self.path, self._check_columns))

    def _check_columns(self, columns: Sequence[str]) -> None:
        for name in _NEEDED:
            mapped = self._names.get(name)
            if mapped is None:
                self._require(columns, name, str(self.path))
            elif mapped.partition(".")[0] not in columns and mapped not in columns:
                raise InputError(f"{self.path}: no column {mapped!r}; there is {', '.join(map(repr, columns))}")

    def _require(self, columns: Iterable[str], name: str, where: str) -> str:
        try:
            return fields.require(columns, NAMES[name], where)
        except InputError as error:
            raise InputError(f"{error}; --map {name}=COLUMN names another") from None

    def _pair_row(self, row: Row) -> PairRow:
        columns = row.value if isinstance(row.value, Mapping) else {}
        try:
            if row.problem is not None:
                raise row.problem
            if not isinstance(row.value, Mapping):
                kind = type(row.value).__name__
                raise InputError(
                    f"{row.where}: must be an object with a query and a passage, not {kind}; write an object a line"
                )
            told = dict(self._told(columns, row.where))
            if (lacking := next((name for name in _NEEDED if told[name] == "" and self._is_csv), None)) is not None:
                raise InputError(f"{row.where}: the cell of the {lacking} is empty")
            query = query_text(text_with(told, "query", "instruction"))
            passage = passage_text(text_with(told, "passage", "title"))
        except InputError as error:
            return PairRow(row.number, columns, problem=str(error))
        except PairError as error:
            return PairRow(row.number, columns, problem=f"{row.where}: {error}")
        return PairRow(row.number, columns, query, passage)

    def _told(self, columns: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
        for name, usual in NAMES.items():
            if name in self._names:
                yield name, at(columns, self._names[name], where)
            elif name in _NEEDED:
                yield name, columns[self._require(columns, name, where)]
            elif (found := fields.find(columns, usual)) is not None:
                yield name, columns[found]


def check_rows(rows: Iterable[PairRow]) -> Iterator[PairRow]:
    """The same rows. A file whose first rows all have something wrong with them, such as another name for the query, is
    refused at once, instead of row by row.

    Raises:
        InputError: none of the first 1,000 rows, or of all where there are fewer, can be judged: what is wrong with
            the first.
    """
    rows = iter(rows)
    first = list(islice(rows, _MOST_WRONG))
    if first and all(row.problem is not None for row in first):
        raise InputError(first[0].problem)
    yield from chain(first, rows)


class PairStore:
    """The texts of a file's pairs, by their places from 0, in an SQLite file that lives as long as this object does.

    Args:
        path: the SQLite file; one that is there is replaced.
        rows: those of the file of pairs.

    Attributes:
        n_rows: how many rows there are.
        n_problems: how many of them cannot be judged.
        digest: SHA-256 over all that they say.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, rows: Iterable[PairRow]) -> None:
        self._path = path
        path.unlink(missing_ok=True)
        self.n_rows = self.n_problems = 0
        self._sha = hashlib.sha256()
        self._database = sqlite3.connect(path)
        try:
            # A file that is not read after a crash need not survive one.
            self._database.executescript(
                "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; "
                "CREATE TABLE pairs (place INTEGER PRIMARY KEY, of_query INTEGER, of_passage INTEGER, texts TEXT)"
            )
            self._database.executemany("INSERT INTO pairs VALUES (?, ?, ?, ?)", self._stored(rows))
            self._database.commit()
        except BaseException as error:
            self.close()
            if isinstance(error, sqlite3.Error):
                raise OSError(f"cannot keep the pairs in {path}: {error}") from error
            raise
        self.digest = self._sha.hexdigest()

    def places(self) -> Iterator[int]:
        """The places of the pairs, those of one query together and equal ones next to each other, so that what their
        prompts share is computed once; else in the file's order.
        """
        found = self._database.execute(
            "SELECT place FROM pairs ORDER BY MIN(place) OVER (PARTITION BY of_query), "
            "MIN(place) OVER (PARTITION BY of_query, of_passage), place"
        )
        return (place for (place,) in found)

    def pair(self, place: int) -> tuple[Query, Passage] | None:
        """The query and the passage at a place; None: it has none that can be judged."""
        found = self._database.execute("SELECT texts FROM pairs WHERE place = ?", (place,)).fetchone()
        if found is None:
            return None
        query, passage = json.loads(found[0])
        return query, passage

    def close(self) -> None:
        """Delete the file."""
        self._database.close()
        self._path.unlink(missing_ok=True)

    def _stored(self, rows: Iterable[PairRow]) -> Iterator[tuple[int, int, int, str]]:
        for place, row in enumerate(rows):
            texts = json.dumps([row.query, row.passage])
            self._sha.update(f"{texts}{json.dumps(row.columns, default=str)}\n".encode())
            self.n_rows += 1
            if row.problem is None:
                yield place, _key(row.query), _key(row.passage), texts
            else:
                self.n_problems += 1


def _key(text: str | None) -> int:
    """Tells texts apart; two that have one key are at worst judged side by side."""
    return hash(text)
