"""What the values that callers give count as: a whole number, or none at all."""

import operator
from numbers import Number
from typing import SupportsIndex


def whole_number(name: str, value: object, *, least: int) -> int:
    """A whole number: whatever Python takes for an index, so numpy's integers too, but no bool.

    Args:
        name: what it is called, for the error.
        value: what was given.
        least: the smallest that makes sense.

    Raises:
        ValueError: it is none, or smaller.
    """
    number = _index(value)
    if number is None or number < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")
    return number


def is_whole_number(value: object, *, least: int) -> bool:
    """Whether `whole_number` takes it."""
    number = _index(value)
    return number is not None and number >= least


def is_missing(value: object) -> bool:
    """Whether an optional field says "none": None, or what tables have in an empty cell (NaN, NaT, pandas.NA)."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # pandas is not imported for this
        return True
    return isinstance(value, Number) and bool(value != value)  # only NaN differs from itself


def _index(value: object) -> int | None:
    if not isinstance(value, SupportsIndex) or isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:  # numpy's bool, or an array that is no single whole number
        return None
