"""What a file says about pairs of a query and a document: a score in a run, a grade in qrels.

Such a file is TREC's lines, a table under a line that names its columns (BEIR's qrels, a data frame's CSV), an object
`{query id: {document id: value}}` in JSON, the same within a subset and a split (what MTEB's `prediction_folder` gets),
or JSON rows. Which one it is follows from how it starts.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from rank1_hf.inputs import fields
from rank1_hf.inputs.choices import must_be_one_of
from rank1_hf.inputs.textfiles import InputError, csv_rows, parse_json, read_lines, read_text

Value = TypeVar("Value", int, float)

_ADVICE = "is the file whole?"
_IDS = (*fields.QUERY_ID, "query"), (*fields.DOCUMENT_ID, "document")
"""What the two ids of a row may be called; "query" and "document" are judgments.jsonl's names."""
_JSON = re.compile(r'\s*[\[{]\s*(["\[{\]}]|$)')


class Entry(NamedTuple):
    """What is said about a pair, unchecked, and where."""

    where: str
    query: Any
    document: Any
    value: Any


@dataclass(frozen=True)
class Content(Generic[Value]):
    """What a kind of file holds.

    Attributes:
        what: all of them, in words, for errors.
        form: its lines, in words, for errors.
        columns: of a line without a header: the places of query, document and value, by the number of columns.
        names: what the value may be called.
        check: gives the value, or raises `InputError`.
        others: the end of an error about a line that has the columns of another kind of file, by their number.
    """

    what: str
    form: str
    columns: Mapping[int, tuple[int, int, int]]
    names: tuple[str, ...]
    check: Callable[[object, str], Value]
    others: Mapping[int, str] = field(default_factory=dict)


def read_values(
    path: Path, content: Content[Value], split: str | None = None, subset: str | None = None
) -> dict[str, dict[str, Value]]:
    """Query id -> document id -> value, in the file's order.

    Args:
        path: the file.
        content: what it holds.
        split, subset: of a file of MTEB's that has several. No split: "test", or the only one.

    Raises:
        InputError: the file cannot be read, or what it says of a pair.
    """
    return gather(_entries(path, content, split, subset), content.check)


def gather(entries: Iterable[Entry], check: Callable[[object, str], Value]) -> dict[str, dict[str, Value]]:
    """Query id -> document id -> value.

    Raises:
        InputError: an id or a value is none, or two entries of one pair differ.
    """
    values: dict[str, dict[str, Value]] = {}
    ids: dict[str, str] = {}  # one string for each id, however often it occurs
    for where, query, document, given in entries:
        value, id_ = check(given, where), fields.id_of(document, where)
        of_query = values.setdefault(fields.id_of(query, where), {})
        if of_query.setdefault(ids.setdefault(id_, id_), value) != value:
            raise InputError(
                f"{where}: document {id_} for the second time under query {query}, with {given}; before it had "
                f"{of_query[id_]}"
            )
    return values


def row_entries(rows: Iterable[tuple[str, Mapping[str, Any]]], content: Content[Any]) -> Iterator[Entry]:
    """The entries of rows that name their columns.

    Raises:
        InputError: a column is missing.
    """
    for where, row in rows:
        if not isinstance(row, Mapping):
            raise InputError(f"{where}: must be an object with a query id, a document id and a {content.names[0]}")
        try:
            query, document = (fields.require(row, names, where) for names in _IDS)
        except InputError:
            _refuse_texts(row, content, where)
            raise
        yield Entry(where, row[query], row[document], row[fields.require(row, content.names, where)])


def has_subsets(path: Path) -> bool:
    """Whether a file is one of MTEB's, which has a part for each subset of its task.

    Raises:
        InputError: it cannot be read.
    """
    first = next((line for line in read_lines(path) if line.strip()), "")
    return (
        bool(_JSON.match(first)) and not _is_row(first) and _depth(parse_json(read_text(path), str(path), _ADVICE)) == 4
    )


def _entries(path: Path, content: Content[Any], split: str | None, subset: str | None) -> Iterator[Entry]:
    lines: Iterator[tuple[int, str]] = enumerate(read_lines(path), start=1)
    first = next(((number, line) for number, line in lines if line.strip()), None)
    if first is None:
        return iter(())
    lines = chain([first], lines)
    if _JSON.match(first[1]) and not _is_data(first[1], content):
        return _json_entries(str(path), first[1], lines, content, split, subset)
    return _line_entries(str(path), lines, content)


def _line_entries(name: str, lines: Iterator[tuple[int, str]], content: Content[Any]) -> Iterator[Entry]:
    number, first = next(lines)
    header, commas = (None, False) if _is_data(first, content) else _header(first)
    if commas:
        rows = csv_rows(chain([first], (line for _, line in lines)), name, number, skip_spaces=True)
        _, header = next(rows)
    columns, expected = content.columns, content.form
    if header is not None:
        _refuse_texts(header, content, f"{name}, line {number}")
        query, document, value = (
            header.index(fields.require(header, names, f"{name}, line {number}"))
            for names in (fields.QUERY_ID, fields.DOCUMENT_ID, content.names)
        )
        columns = {len(header): (query, document, value)}
        expected = f"{len(header)} columns, as its first line"
    if not commas:
        lines = lines if header else chain([(number, first)], lines)
        rows = ((f"{name}, line {number}", _columns(line, columns)) for number, line in lines if line.strip())
    for where, cells in rows:
        places = columns.get(len(cells))
        if places is None:
            other = "" if header else content.others.get(len(cells), "")
            raise InputError(f"{where}: must be: {expected}; it has {len(cells)} columns{other}")
        yield Entry(where, *(cells[place] for place in places))


def _is_data(line: str, content: Content[Any]) -> bool:
    """Whether a line without a header's help is an entry; its ids may look like anything."""
    cells = _columns(line, content.columns)
    try:
        content.check(cells[content.columns[len(cells)][2]], "")
    except (KeyError, InputError):
        return False
    return True


def _header(line: str) -> tuple[list[str] | None, bool]:
    """The names of the columns, if a line is one that names them, and whether commas divide it."""
    by_commas = [cell.strip().strip('"') for cell in line.split(",")]
    for cells, commas in ((by_commas, True), (_columns(line, ()), False)):
        if fields.find(cells, fields.QUERY_ID) or fields.find(cells, fields.DOCUMENT_ID) or _has_texts(cells):
            return cells, commas
    return None, False


def _has_texts(columns: Iterable[str]) -> bool:
    """Whether columns are those of queries or documents: an id and a text."""
    columns = tuple(columns)
    return all(
        fields.find(columns, names)
        for names in ((*fields.QUERY_RECORD_ID, *fields.DOCUMENT_RECORD_ID), (*fields.TEXT, *fields.QUERY_TEXT))
    )


def _refuse_texts(columns: Iterable[str], content: Content[Any], where: str) -> None:
    """Refuse columns of queries or documents, which say nothing of pairs.

    Raises:
        InputError: they are such.
    """
    columns = tuple(columns)
    is_of_pairs = all(fields.find(columns, names) for names in _IDS) or fields.find(columns, content.names)
    if not is_of_pairs and _has_texts(columns):
        has = ", ".join(map(repr, columns))
        raise InputError(f"{where}: these look like queries or documents ({has}), not {content.what}")


def _columns(line: str, counts: Iterable[int]) -> list[str]:
    """The columns of a line: what tabs alone divide, if these are as many as they can be, or tabs and spaces."""
    by_tabs = line.rstrip("\r\n").split("\t")
    return by_tabs if len(by_tabs) in counts else re.split(r"[ \t]+", line.strip(" \t\r\n"))


def _json_entries(
    name: str,
    first: str,
    lines: Iterable[tuple[int, str]],
    content: Content[Any],
    split: str | None,
    subset: str | None,
) -> Iterator[Entry]:
    if _is_row(first):
        rows = ((f"{name}, line {number}", line) for number, line in lines if line.strip())
        return row_entries(((where, parse_json(line, where)) for where, line in rows), content)
    value = parse_json("".join(line for _, line in lines), name, _ADVICE)
    if isinstance(value, list):
        return row_entries(((f"{name}, row {number}", row) for number, row in enumerate(value, 1)), content)
    return _object_entries(_run_of(value, name, split, subset), name)


def _is_row(line: str) -> bool:
    """Whether a line is an object of its own, with fields that are values."""
    try:
        value = parse_json(line, "")
    except InputError:
        return False  # the first line of an object that has several
    return isinstance(value, dict) and any(not isinstance(field, dict | list | None) for field in value.values())


def _object_entries(value: Mapping[str, Any], name: str) -> Iterator[Entry]:
    for query, documents in value.items():
        if not isinstance(documents, dict):
            raise InputError(f"{name}, query {query}: must be an object {{document id: value}}, not {documents!r:.50}")
        for document, given in documents.items():
            yield Entry(f"{name}, query {query}, document {document}", query, document, given)


def _run_of(value: dict[str, Any], name: str, split: str | None, subset: str | None) -> Mapping[str, Any]:
    """The object {query id: {document id: value}} in a file that may have one for each subset and split."""
    value.pop("mteb_model_meta", None)
    if _depth(value) != 4:
        return value
    if list(value) == ["default"]:  # how MTEB calls the part of a task without subsets
        subset = "default"
    part: dict[str, Any] = _part(value, subset, "default", "--subset", name)
    return dict(_part(part, split, "test", "--split", name))


def _part(parts: dict[str, Any], wanted: str | None, usual: str, option: str, name: str) -> Any:  # noqa: ANN401
    """The part that was asked for; where none was, the only one or the usual one."""
    found = wanted or (next(iter(parts)) if len(parts) == 1 else usual)
    if found not in parts:
        raise InputError(f"{name}: {must_be_one_of(option, wanted, parts)}")
    return parts[found]


def _depth(value: object) -> int:
    """How many objects lie in each other."""
    return 1 + max(map(_depth, value.values()), default=0) if isinstance(value, dict) else 0
