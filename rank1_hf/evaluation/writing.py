"""How the files of a job are written: each beside its name, and put there whole."""

import base64
import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime, time
from pathlib import Path
from time import monotonic
from typing import IO, Any

JUDGMENTS, TABLE = "judgments.jsonl", "judgments.parquet"
_ROWS = 1000  # of a row group of the table
_SYNC_SECONDS = 1.0  # how long a line may wait for the disk while others follow


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that is put at its path when it is whole and on the disk; until then, what was there stays."""
    new = path.with_name(f"{path.name}.new")
    try:
        with new.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


class AppendedFile:
    """A file that grows by whole lines: each is one system call, and is on the disk about a second later.

    Args:
        path: the file.
        end: where its last whole line ends; what is behind it goes.

    Attributes:
        end: the same, now.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, end: int) -> None:
        self._path, self.end = path, end
        self._file = path.open("ab", buffering=0)
        self._file.truncate(end)
        self._last_sync = monotonic()

    def append(self, line: bytes) -> int:
        """Add a line. Gives where it starts.

        Raises:
            OSError: there is no room for it (the disk is full); the file is as it was before.
        """
        if self._file.write(line) != len(line):
            self._file.truncate(self.end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        start, self.end = self.end, self.end + len(line)
        if monotonic() - self._last_sync >= _SYNC_SECONDS:
            self.sync()
        return start

    def sync(self) -> None:
        """Bring all lines to the disk."""
        os.fsync(self._file.fileno())
        self._last_sync = monotonic()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def json_line(record: Mapping[str, Any]) -> bytes:
    """A line of a .jsonl file. What JSON has not, as dates of a Parquet file, becomes text; NaN becomes null."""
    try:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False, default=as_text)
    except ValueError:
        text = json.dumps(finite(record), ensure_ascii=False, allow_nan=False, default=as_text)
    # A lone surrogate becomes \udXXX, which is JSON's own escape.
    return f"{text}\n".encode("utf-8", "backslashreplace")


@contextmanager
def judgment_files(folder: Path, columns: Mapping[str, Any]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Write judgments.jsonl, and where pyarrow is installed judgments.parquet, from records that are handed over one
    at a time.

    Args:
        folder: where.
        columns: those of a record, in order, and their Arrow types, or the names of these in pyarrow; a list of one
            type stands for lists, a dict for structs.

    Yields:
        What takes a record.
    """
    with replacing(folder / JUDGMENTS) as lines, _table(folder / TABLE, columns) as add:

        def write(record: Mapping[str, Any]) -> None:
            lines.write(json_line(record))
            add(record)

        yield write


@contextmanager
def _table(path: Path, columns: Mapping[str, Any]) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A Parquet file that is written in groups of rows; nothing where pyarrow is not installed."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        yield lambda record: None
        return
    types = {name: _arrow_type(type_) for name, type_ in columns.items()}
    schema = pa.schema(types)
    waiting: list[Mapping[str, Any]] = []

    with replacing(path) as file, pq.ParquetWriter(file, schema) as table:

        def flush() -> None:
            cells = {name: [_cell(row.get(name), type_) for row in waiting] for name, type_ in types.items()}
            table.write_table(pa.table([pa.array(cells[name], type_) for name, type_ in types.items()], schema=schema))
            waiting.clear()

        def add(record: Mapping[str, Any]) -> None:
            waiting.append(record)
            if len(waiting) == _ROWS:
                flush()

        yield add
        flush()


def _arrow_type(type_: Any) -> Any:  # noqa: ANN401
    import pyarrow as pa

    if isinstance(type_, str):
        return getattr(pa, type_)()
    if isinstance(type_, list):
        return pa.list_(_arrow_type(type_[0]))
    return pa.struct({name: _arrow_type(each) for name, each in type_.items()}) if isinstance(type_, dict) else type_


def _cell(value: Any, type_: Any) -> Any:  # noqa: ANN401
    """A value as its column takes it: a column of text has other values as JSON, and no lone surrogates."""
    if value is None or str(type_) not in ("string", "large_string"):
        return value
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=as_text)
    return text.encode("utf-8", "replace").decode()


def as_text(value: object) -> str:
    """A value that JSON has not, as text."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if isinstance(value, date | datetime | time) else str(value)


def finite(value: Any) -> Any:  # noqa: ANN401
    """The same with None for each number that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
