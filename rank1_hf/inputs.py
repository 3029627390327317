"""Documents from files and pipes: .txt (a line each), .jsonl and .csv, read line by line.

Whatever is wrong with an input is an `InputError` that names the file and the line, so that it can be mended. What a
document *says* is not judged here: empty and strange texts are the reranker's to report, one pair at a time.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rank1_hf.values import is_missing

_LONGEST_CSV_FIELD = 2**31 - 1  # the csv module's own limit (128 kB) is less than a long passage; C's long bounds it


class InputError(ValueError):
    """An input cannot be read; the message names the file and the line, and says what to do."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it was given.

    Attributes:
        text: what it says.
        title: "" where it has none.
        id: "" where it has none.
    """

    text: str
    title: str = ""
    id: str = ""

    @property
    def passage(self) -> dict[str, str]:
        """The passage as `Rank1` takes it."""
        return {"title": self.title, "text": self.text}


def read_file(path: Path, file_format: str | None = None) -> Iterator[Document]:
    """The documents of a file.

    Args:
        path: the file.
        file_format: "txt", "jsonl" or "csv"; None: what the file's name ends in.

    Raises:
        InputError: the file or one of its lines cannot be read.
    """
    parse = _parser(file_format or path.suffix.removeprefix(".").lower(), str(path))
    yield from parse(read_lines(path), str(path))


def read_stream(stream: BinaryIO, file_format: str, name: str = "standard input") -> Iterator[Document]:
    """The documents of an open binary stream.

    Raises:
        InputError: one of its lines cannot be read.
    """
    return _parser(file_format, name)(_lines(stream, name), name)


def read_text(path: Path) -> str:
    """A whole file's text.

    Raises:
        InputError: it cannot be read.
    """
    return "".join(read_lines(path))


def read_lines(path: Path) -> Iterator[str]:
    """A file's lines with their ends, one at a time.

    Raises:
        InputError: the file cannot be read, or a line of it.
    """
    with _open(path) as stream:
        yield from _lines(stream, str(path))


def read_jsonl(path: Path, skip: Callable[[InputError], None]) -> Iterator[tuple[str, Any]]:
    """The value on each line of a .jsonl file, and where it stands ("FILE, line 3").

    Args:
        path: the file.
        skip: called with what is wrong with a line; the lines behind it are read all the same.

    Raises:
        InputError: the file cannot be opened.
    """
    with _open(path) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                value = _json(_decoded(line, number, str(path)), where)
            except InputError as error:
                skip(error)
            else:
                yield where, value


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _lines(stream: BinaryIO, name: str) -> Iterator[str]:
    """Decoded lines with their ends. Only line feeds divide them: JSON may hold other separators unescaped."""
    return (_decoded(line, number, name) for number, line in enumerate(stream, start=1))


def _decoded(line: bytes, number: int, name: str) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name}, line {number}: not UTF-8 (byte {line[error.start]:#04x}); save it as UTF-8, "
            "for example with: iconv -f ISO-8859-1 -t UTF-8"
        ) from error


def _parse_txt(lines: Iterable[str], name: str) -> Iterator[Document]:
    return (Document(line.rstrip("\r\n")) for line in lines if line.strip())


def _parse_jsonl(lines: Iterable[str], name: str) -> Iterator[Document]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{name}, line {number}"
            yield document_of(_json(line, where), where)


def _json(line: str, where: str) -> Any:  # noqa: ANN401
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise InputError(f"{where}: not valid JSON ({reason}); mend or remove the line") from error


def document_of(value: Any, where: str) -> Document:  # noqa: ANN401
    """The document that a JSON value is: a string, or an object with "text" and optional "title" and "_id" or "id".

    Args:
        value: the value.
        where: where it stands, for the error.

    Raises:
        InputError: it is neither.
    """
    if isinstance(value, str):
        return Document(value)
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise InputError(f'{where}: must be a string or an object with a string "text"')
    title = value.get("title")
    title = "" if is_missing(title) else title or ""
    if not isinstance(title, str):
        raise InputError(f'{where}: "title" must be a string')
    identifier = value.get("_id", value.get("id"))
    return Document(value["text"], title, "" if identifier is None else str(identifier))


def _parse_csv(lines: Iterable[str], name: str) -> Iterator[Document]:
    csv.field_size_limit(_LONGEST_CSV_FIELD)
    rows = csv.DictReader(lines, strict=True)
    try:
        if "text" not in (rows.fieldnames or ["text"]):
            raise InputError(
                f'{name}: no column "text"; the first line must name the columns (it has {rows.fieldnames})'
            )
        for row in rows:
            if None in row or row["text"] is None:
                raise InputError(
                    f"{name}, line {rows.line_num}: not as many columns as the first line names; "
                    "put quotes around texts that contain commas"
                )
            yield Document(row["text"], row.get("title") or "", row.get("id") or "")
    except csv.Error as error:
        raise InputError(f"{name}, line {rows.line_num}: not valid CSV ({error})") from error


_PARSERS: dict[str, Callable[[Iterable[str], str], Iterator[Document]]] = {
    "txt": _parse_txt,
    "jsonl": _parse_jsonl,
    "csv": _parse_csv,
}


def _parser(file_format: str, name: str) -> Callable[[Iterable[str], str], Iterator[Document]]:
    if file_format not in _PARSERS:
        raise InputError(
            f"{name}: {file_format!r} is not a format that can be read; use txt, jsonl or csv "
            "(--format says which it is where the file's name does not)"
        )
    return _PARSERS[file_format]
