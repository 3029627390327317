"""Documents from files and pipes: .txt (a line each), .jsonl, .csv and .tsv, read line by line.

Whatever is wrong with an input is an `InputError` that names the file and the line, so that it can be mended. What a
document *says* is not judged here: empty and strange texts are the reranker's to report, one pair at a time.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from rank1_hf.inputs import fields
from rank1_hf.inputs.textfiles import (
    InputError,
    csv_rows,
    format_of,
    lines_of,
    parse_json,
    read_jsonl,
    read_lines,
    read_text,
)
from rank1_hf.inputs.values import is_missing

__all__ = ["Document", "InputError", "document_of", "read_file", "read_jsonl", "read_lines", "read_stream", "read_text"]


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it was given.

    Attributes:
        text: what it says.
        title: "" where it has none.
        id: "" where it has none.
        where: the place in its file or dataset, for what is said about it.
    """

    text: str
    title: str = ""
    id: str = ""
    where: str = field(default="", compare=False)

    @property
    def passage(self) -> dict[str, str]:
        """The passage as `Rank1` takes it."""
        return {"title": self.title, "text": self.text}


def read_file(path: Path, file_format: str | None = None) -> Iterator[Document]:
    """The documents of a file.

    Args:
        path: the file.
        file_format: "txt", "jsonl", "csv" or "tsv"; None: what the file's name ends in, before any .gz.

    Raises:
        InputError: the file or one of its lines cannot be read.
    """
    parse = _parser(file_format or format_of(path), str(path))
    yield from parse(read_lines(path), str(path))


def read_stream(stream: BinaryIO, file_format: str, name: str = "standard input") -> Iterator[Document]:
    """The documents of an open binary stream.

    Raises:
        InputError: one of its lines cannot be read.
    """
    return _parser(file_format, name)(lines_of(stream, name), name)


def _parse_txt(lines: Iterable[str], name: str) -> Iterator[Document]:
    return (Document(line.rstrip("\r\n")) for line in lines if line.strip())


def _parse_jsonl(lines: Iterable[str], name: str) -> Iterator[Document]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{name}, line {number}"
            yield document_of(parse_json(line, where), where)


def document_of(
    value: Any,  # noqa: ANN401
    where: str,
    text_names: tuple[str, ...] = fields.TEXT,
    id_names: tuple[str, ...] = fields.DOCUMENT_RECORD_ID,
) -> Document:
    """The document that a JSON value is: a string, or an object with "text" and optional "title" and "_id" or "id".

    Args:
        value: the value.
        where: where it stands, for the error.
        text_names: what the field of the text may be called.
        id_names: what the field of the id may be called.

    Raises:
        InputError: it is neither.
    """
    if isinstance(value, str):
        return Document(value, where=where)
    if not isinstance(value, dict):
        raise InputError(f'{where}: must be a string or an object with a string "text"')
    name = fields.find(value, text_names)
    text = value.get(name)
    if not isinstance(text, str):
        has = ", ".join(map(repr, value)) or "nothing"
        meant = "" if name else fields.nearest(value, text_names)
        raise InputError(f'{where}: must be a string or an object with a string "text" (it has {has}){meant}')
    title = value.get(fields.find(value, fields.TITLE))
    id_ = value.get(fields.find(value, id_names))
    return Document(
        text,
        fields.optional_text(title, "title", where),
        "" if is_missing(id_) or id_ == "" else fields.id_of(id_, where),
        where,
    )


def _parse_csv(lines: Iterable[str], name: str, *, delimiter: str = ",") -> Iterator[Document]:
    rows = csv_rows(lines, name, delimiter=delimiter)
    _, columns = next(rows, ("", fields.TEXT))  # of an empty file, which has no rows either
    if fields.find(columns, fields.TEXT) is None:
        raise InputError(f'{name}: no column "text"; the first line must name the columns (it has {columns})')
    for where, cells in rows:
        if len(cells) != len(columns):
            raise InputError(
                f"{where}: not as many columns as the first line names; put quotes around texts with a delimiter"
            )
        yield document_of(dict(zip(columns, cells, strict=True)), where)


_PARSERS: dict[str, Callable[[Iterable[str], str], Iterator[Document]]] = {
    "txt": _parse_txt,
    "jsonl": _parse_jsonl,
    "csv": _parse_csv,
    "tsv": partial(_parse_csv, delimiter="\t"),
}


def _parser(file_format: str, name: str) -> Callable[[Iterable[str], str], Iterator[Document]]:
    if file_format not in _PARSERS:
        raise InputError(
            f"{name}: {file_format!r} is not a format that can be read; use txt, jsonl, csv or tsv "
            "(--format says which it is where the file's name does not)"
        )
    return _PARSERS[file_format]
