"""Tables of pairs: a pandas frame, an Arrow table, a `datasets.Dataset`, or whatever else has columns by name.

None of these libraries is imported here. A table is asked for its columns and for nothing else.
"""

from collections.abc import Iterable, Mapping, Sized
from typing import Any, Protocol

from rank1_hf.prompts.pair_text import Passage, Query

QUERY, PASSAGE = "query", "passage"


class Table(Protocol):
    """What every table has."""

    def __len__(self) -> int:
        """How many rows there are."""

    def __getitem__(self, name: str, /) -> Any:  # noqa: ANN401
        """A column."""


class TablePairs(list[tuple[Query, Passage]]):
    """The pairs of a table's rows, in their order.

    Attributes:
        row_labels: the index of a pandas frame; None: the table has no labels.
    """

    def __init__(self, pairs: Iterable[tuple[Query, Passage]], row_labels: Any = None) -> None:  # noqa: ANN401
        super().__init__(pairs)
        self.row_labels = row_labels


def is_table(value: object) -> bool:
    """Whether this has columns by name and a length. A dataset that is streamed has none: it is rows, as they come."""
    return isinstance(value, Sized) and not isinstance(value, Mapping) and _column_names(value) is not None


def pairs_of(table: Any) -> TablePairs:  # noqa: ANN401
    """The pairs in the columns "query" and "passage"; other columns are not looked at.

    Raises:
        ValueError: one of them is missing, and the message names those that are there; or it is there twice.
    """
    names = _column_names(table) or []
    missing = [name for name in (QUERY, PASSAGE) if name not in names]
    if missing:
        raise ValueError(
            f"the table has no column {' and no column '.join(map(repr, missing))} (it has "
            f"{', '.join(map(str, names)) or 'none'}); name its columns {QUERY!r} and {PASSAGE!r}"
        )
    twice = [name for name in (QUERY, PASSAGE) if names.count(name) > 1]
    if twice:
        raise ValueError(f"the table has more than one column {' and '.join(map(repr, twice))}; keep one of each")
    columns = (_values(table[name]) for name in (QUERY, PASSAGE))
    return TablePairs(zip(*columns, strict=True), table.index if hasattr(type(table), "iloc") else None)


def _column_names(table: object) -> list[Any] | None:
    """Those of Arrow and datasets (`column_names`), or of pandas and Polars (`columns`)."""
    for attribute in ("column_names", "columns"):
        if hasattr(type(table), attribute):  # of its type, since a frame has its columns as attributes too
            return list(getattr(table, attribute))
    return None


def _values(column: Any) -> Iterable[Any]:  # noqa: ANN401
    """Python's own values, which iterating over an Arrow column does not give."""
    values: Iterable[Any] = column.to_pylist() if hasattr(column, "to_pylist") else column
    return values
