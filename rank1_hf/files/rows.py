"""The rows of a file that is a table: objects a line in JSONL, or CSV, TSV and Parquet, whose columns have names."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rank1_hf.inputs.textfiles import InputError, Row, csv_rows_or_problems, format_of, jsonl_rows, lines_or_problems

DELIMITERS: Mapping[str, str] = {"csv": ",", "tsv": "\t"}
"""What divides the cells, by what the file's name ends in."""

_PARQUET = b"PAR1"
_BATCH = 1000  # rows of a Parquet file at a time
_CUT = "put quotes around texts that contain a delimiter or a line break"


def read_rows(path: Path, check_columns: Callable[[Sequence[str]], None] = lambda columns: None) -> Iterator[Row]:
    """The rows of a file, in its order, each with its value or with what is wrong with it.

    Args:
        path: a .csv, .tsv or .parquet file, or JSONL under any other name; all but Parquet may be gzipped.
        check_columns: called with the names of the columns before the first row, where the file names them once. It
            raises what is wrong with them.

    Raises:
        InputError: the file cannot be read.
    """
    if is_parquet(path):
        return parquet_rows(path, check_columns)
    kind = format_of(path)
    return _csv_rows(path, DELIMITERS[kind], check_columns) if kind in DELIMITERS else jsonl_rows(path)


def is_parquet(path: Path) -> bool:
    """Whether a file is a Parquet file, by its first bytes; of what is no file, such as a pipe, by its name.

    Raises:
        InputError: it cannot be read.
    """
    if format_of(path) == "parquet" or not path.is_file():
        return format_of(path) == "parquet"
    try:
        with path.open("rb") as file:
            return file.read(len(_PARQUET)) == _PARQUET
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def column_types(path: Path) -> dict[str, Any]:
    """The Arrow types of a Parquet file's columns, by their names; those of other files, which have none, are not here.

    Raises:
        InputError: the file cannot be read.
    """
    if not is_parquet(path):
        return {}
    pa, pq = _pyarrow(path)
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return {field.name: getattr(field.type, "storage_type", field.type) for field in schema}


def at(value: Any, path: str, where: str) -> Any:  # noqa: ANN401
    """What stands in a record at a path through objects and lists, as in "response.choices.0.text".

    Raises:
        InputError: there is nothing.
    """
    for step in [path] if isinstance(value, Mapping) and path in value else path.split("."):
        if isinstance(value, Mapping) and step in value:
            value = value[step]
        elif isinstance(value, Sequence) and not isinstance(value, str) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            raise InputError(f"{where}: there is no {path!r}, which a field was mapped to ({step!r} is not there)")
    return value


def _csv_rows(path: Path, delimiter: str, check_columns: Callable[[Sequence[str]], None]) -> Iterator[Row]:
    rows = csv_rows_or_problems(lines_or_problems(path), str(path), delimiter=delimiter)
    header = next(rows, None)
    if header is None:
        return
    if header.problem is not None:
        raise header.problem
    columns: list[str] = header.value
    twice = [name for name in dict.fromkeys(columns) if columns.count(name) > 1]
    if twice:
        raise InputError(f"{path}: its first line names {twice[0]!r} twice; keep one of these columns")
    check_columns(columns)
    for row in rows:
        if row.problem is not None:
            yield row
        elif len(row.value) != len(columns):
            problem = (
                f"{row.where}: has {len(row.value)} cells, and the first line names {len(columns)} columns; {_CUT}"
            )
            yield Row(row.number, row.where, problem=InputError(problem))
        else:
            yield Row(row.number, row.where, dict(zip(columns, row.value, strict=True)))


def parquet_rows(path: Path, check_columns: Callable[[Sequence[str]], None] = lambda columns: None) -> Iterator[Row]:
    """Those of a Parquet file; see `read_rows`."""
    pa, pq = _pyarrow(path)
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            check_columns(file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=_BATCH):
                for value in batch.to_pylist():
                    number += 1
                    yield Row(number, f"{path}, row {number}", value)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read beyond row {number}: {error}") from error


def _pyarrow(path: Path) -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError(f"{path}: Parquet needs pyarrow; install it with: pip install 'rank1-hf[tracing]'") from None
    return pa, pq
