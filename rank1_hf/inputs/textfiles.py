"""Text files as people have them: plain or gzipped, in UTF-8, UTF-16 or UTF-32.

What a file is follows from its first bytes, not from its name. Whatever cannot be read is an `InputError` that names
the file and the line, so that it can be mended.
"""

import csv
import gzip
import io
import json
import shlex
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

_GZIP = b"\x1f\x8b"
_LONGEST_CSV_FIELD = 2**31 - 1  # the csv module's own limit (128 kB) is less than a long passage; C's long bounds it
_MEND = "mend or remove the line"
_OF_ARRAY = "of a JSON array make one object a line, with: jq -c '.[]'"
_NO_TEXT = {
    _GZIP: "gzipped twice; unpack it once, with: gzip -dc",
    b"PK\x03\x04": "a zip archive or an Excel workbook; unpack it, or save it as CSV in UTF-8",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it with: zstd -d",
    b"BZh91AY&SY": "compressed with bzip2; unpack it with: bunzip2 -k",
    b"\xfd7zXZ\x00": "compressed with xz; unpack it with: unxz -k",
    b"PAR1": "a Parquet file; a collection's folder may hold such files, one folder for each part",
}


class InputError(ValueError):
    """An input cannot be read; the message names the file and the line, and says what to do."""


Skip = Callable[[InputError], None]
"""Takes what is wrong with one line or row; those behind it are read all the same."""


def refuse(problem: InputError) -> None:
    """A `Skip` that skips nothing."""
    raise problem


def format_of(path: Path) -> str:
    """What a file's name says that it holds: "jsonl" for documents.JSONL and for documents.jsonl.gz."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    return suffixes[-1].removeprefix(".") if suffixes else ""


def read_text(path: Path) -> str:
    """A whole file's text.

    Raises:
        InputError: it cannot be read.
    """
    return "".join(read_lines(path))


def read_lines(path: Path, skip: Skip = refuse) -> Iterator[str]:
    """A file's lines with their ends, one at a time. See `lines_of`.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    with stream:
        yield from lines_of(stream, str(path), skip)


def lines_of(stream: BinaryIO, name: str, skip: Skip = refuse) -> Iterator[str]:
    """The lines of an open stream with their ends. Only line feeds divide them: JSON may hold other separators.

    Args:
        stream: it need not be seekable.
        name: for errors.
        skip: called with what is wrong with a line, which then reads as an empty one, so that numbers stay right.

    Raises:
        InputError: the stream holds no text, or ends before its time.
    """
    number = 0
    try:
        buffered = _buffered(stream)
        compressed = buffered.peek(len(_GZIP)).startswith(_GZIP)
        if compressed:
            buffered = io.BufferedReader(gzip.GzipFile(fileobj=buffered))
        head = buffered.peek(16)
        for start, kind in _NO_TEXT.items():
            if head.startswith(start):
                raise InputError(f"{name} is {kind}")
        encoding = json.detect_encoding(head[:4])
        if encoding in ("utf-16", "utf-32"):  # with a byte-order mark; without one it would say which end comes first
            # A lone surrogate is a text's fault, not the file's: the reranker reports it.
            for line in io.TextIOWrapper(buffered, encoding, errors="surrogatepass", newline="\n"):
                number += 1
                yield line
            return
        for raw in buffered:
            number += 1
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                advice = _advice(raw, name, compressed)
                skip(InputError(f"{name}, line {number}: not UTF-8 (byte {raw[error.start]:#04x}); {advice}"))
                text = ""
            yield text
    except (EOFError, OSError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{name} cannot be read beyond line {number}: {error}; is the file whole?") from error


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a file, or what is wrong with it.

    Attributes:
        number: its line, from 1; where it has several, the last of them.
        where: the same with the file's name, for what is said about it ("FILE, line 3").
        value: what it holds; None where there is a problem.
        problem: why it cannot be read, or None.
    """

    number: int
    where: str
    value: Any = None
    problem: InputError | None = None


def jsonl_rows(path: Path) -> Iterator[Row]:
    """The lines of a .jsonl file that are not blank, each with its value or with what is wrong with it.

    Raises:
        InputError: the file cannot be read.
    """
    for number, (line, problem) in enumerate(lines_or_problems(path), start=1):
        where, value = f"{path}, line {number}", None
        if problem is None:
            if not line.strip():
                continue
            try:
                value = parse_json(line, where, _OF_ARRAY if line.lstrip().startswith("[") else _MEND)
            except InputError as error:
                problem = error
        yield Row(number, where, value, problem)


def read_jsonl(path: Path, skip: Skip = refuse) -> Iterator[tuple[str, Any]]:
    """The value on each line of a .jsonl file, and where it stands ("FILE, line 3").

    Args:
        path: the file.
        skip: called with what is wrong with a line; the lines behind it are read all the same.

    Raises:
        InputError: the file cannot be read.
    """
    for row in jsonl_rows(path):
        if row.problem is not None:
            skip(row.problem)
        else:
            yield row.where, row.value


def lines_or_problems(path: Path) -> Iterator[tuple[str, InputError | None]]:
    """A file's lines with their ends, each with what is wrong with it, or None.

    Raises:
        InputError: the file cannot be read.
    """
    problems: list[InputError] = []
    for line in read_lines(path, problems.append):
        yield line, problems.pop() if problems else None


def csv_rows(
    lines: Iterable[str], name: str, first: int = 1, *, delimiter: str = ",", skip_spaces: bool = False
) -> Iterator[tuple[str, list[str]]]:
    """The rows of a CSV or TSV file that are not blank, each after where it ends ("FILE, line 3").

    Args:
        lines: the file's lines with their ends.
        name: for errors.
        first: the number of the first line.
        delimiter, skip_spaces: see `csv_rows_or_problems`.

    Raises:
        InputError: it is no CSV.
    """
    whole = ((line, None) for line in lines)
    for row in csv_rows_or_problems(whole, name, first, delimiter=delimiter, skip_spaces=skip_spaces):
        if row.problem is not None:
            raise row.problem
        yield row.where, row.value


def csv_rows_or_problems(
    lines: Iterable[tuple[str, InputError | None]],
    name: str,
    first: int = 1,
    *,
    delimiter: str = ",",
    skip_spaces: bool = False,
) -> Iterator[Row]:
    """The rows of a CSV or TSV file that are not blank, each with its cells or with what is wrong with it.

    A quote that is never closed costs the line that opens it, and reading goes on behind that line.

    Args:
        lines: the file's lines with their ends, and what is wrong with each.
        name: for errors.
        first: the number of the first line.
        delimiter: what divides cells. Where it is a tab, a line whose quotes make no sense as CSV's is divided as it
            stands, since most TSV files have no quoting.
        skip_spaces: whether spaces behind a delimiter are no part of the cell.
    """
    csv.field_size_limit(_LONGEST_CSV_FIELD)
    source = _Lines(lines)
    reader = csv.reader(source, strict=True, delimiter=delimiter, skipinitialspace=skip_spaces)
    while True:
        source.taken.clear()
        cells: list[str] = []
        problem: InputError | None = None
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            end = f"{name}, line {first - 1 + source.number}"
            problem = _csv_problem(error, f"{name}, line {first + source.number - len(source.taken)}", end)
            source.go_back_behind_first()
        number = first - 1 + source.number
        said = [each for _, each in source.taken if each is not None]
        if problem is not None and not said and delimiter == "\t":
            cells, problem = source.taken[0][0].rstrip("\r\n").split(delimiter), None
        problem = said[0] if said else problem
        if cells or problem:
            yield Row(number, f"{name}, line {number}", None if problem else cells, problem)


class _Lines:
    """Lines for the csv module, which may be read again.

    Attributes:
        number: how many lines have been taken.
        taken: those of the current row, and what is wrong with each.
    """

    def __init__(self, lines: Iterable[tuple[str, InputError | None]]) -> None:
        self._lines = iter(lines)
        self._again: deque[tuple[str, InputError | None]] = deque()
        self.number = 0
        self.taken: list[tuple[str, InputError | None]] = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self.number += 1
        self.taken.append(line)
        return line[0]

    def go_back_behind_first(self) -> None:
        """Take the current row's lines but the first again."""
        self._again.extendleft(reversed(self.taken[1:]))
        self.number -= len(self.taken) - 1
        del self.taken[1:]


def _csv_problem(error: csv.Error, start: str, end: str) -> InputError:
    if "new-line character" in str(error):
        return InputError(f"{end}: carriage returns alone divide its lines; convert it with: tr '\\r' '\\n'")
    begun = "" if start == end else f"; the row begins at {start.rpartition(', ')[2]}: is a quote left open there?"
    return InputError(f"{end}: not valid CSV ({error}){begun}")


def parse_json(text: str, where: str, advice: str = _MEND) -> Any:  # noqa: ANN401
    """The value that a text is in JSON.

    Args:
        text: the text.
        where: where it stands, for the error.
        advice: what to do where it is no JSON.

    Raises:
        InputError: it is no JSON, or a key stands twice in an object, with different values.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            for key, value in pairs:
                if found[key] != value:
                    raise InputError(f"{where}: {key!r} stands twice in one object, with different values")
        return found

    try:
        return json.loads(text, object_pairs_hook=unique)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        reason = str(error)
        if isinstance(error, json.JSONDecodeError):
            line = f"line {error.lineno}, " if error.lineno > 1 else ""
            reason = f"{error.msg} at {line}column {error.colno}"
        raise InputError(f"{where}: not valid JSON ({reason}); {advice}") from error


def _buffered(stream: BinaryIO) -> io.BufferedReader:
    return stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream)  # type: ignore[arg-type]


def _advice(line: bytes, name: str, compressed: bool) -> str:
    """How to mend a line that is not UTF-8."""
    try:
        line.decode("cp1252")
    except UnicodeDecodeError:
        encoding = "ISO-8859-1"  # which has a character for every byte
    else:
        encoding = "WINDOWS-1252"
    unpack = f"gzip -dc {shlex.quote(name)} | " if compressed else ""
    file = "" if compressed else f" {shlex.quote(name)}"
    return (
        "if only this line is damaged, mend or remove it; if the whole file is in another encoding, convert it, for "
        f"example with: {unpack}iconv -f {encoding} -t UTF-8{file} > converted"
    )
