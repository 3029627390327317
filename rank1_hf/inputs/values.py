"""What the values that callers give count as: a whole number, yes or no, a list of token ids, or none at all."""

import math
import operator
from collections.abc import Iterable, Mapping, Set
from numbers import Number, Real
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


def is_number(value: object) -> bool:
    """Whether it is a real number, but no bool."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_missing(value: object) -> bool:
    """Whether an optional field says "none": None, or what tables have in an empty cell (NaN, NaT, pandas.NA)."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # pandas is not imported for this
        return True
    return isinstance(value, Number) and bool(value != value)  # only NaN differs from itself


def truth_value(name: str, value: object) -> bool:
    """A yes or no: Python's bool, or one of numpy or torch.

    Args:
        name: what it is called, for the error.
        value: what was given.

    Raises:
        TypeError: it is neither.
    """
    is_other_bool = str(getattr(value, "dtype", None)) in ("bool", "torch.bool") and not getattr(value, "shape", (1,))
    if not isinstance(value, bool) and not is_other_bool:
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return bool(value)


def token_ids(name: str, value: object, vocab_size: int | None = None) -> list[int]:
    """Token ids in their order: a list, a tuple or whatever else yields whole numbers, but no text, bytes, set or dict.

    Args:
        name: what they are called, for the error.
        value: what was given.
        vocab_size: how many ids the model knows; None: that is not checked.

    Raises:
        TypeError: it is no such list.
        ValueError: one is no whole number, or not an id of the model.
    """
    if not isinstance(value, Iterable) or isinstance(value, str | bytes | bytearray | memoryview | Set | Mapping):
        raise TypeError(f"{name} must be a list of token ids, not {value!r}")
    end = math.inf if vocab_size is None else vocab_size
    return [  # whole chains come by here at each of their beliefs: what is plainly an id is seen at once
        each if type(each) is int and 0 <= each < end else _token_id(name, each, vocab_size) for each in value
    ]


def _token_id(name: str, value: object, vocab_size: int | None) -> int:
    token = whole_number(f"a token id of {name}", value, least=0)
    if vocab_size is not None and token >= vocab_size:
        raise ValueError(f"{name} has the token id {token}, and the model's ids end at {vocab_size - 1}")
    return token


def _index(value: object) -> int | None:
    if not isinstance(value, SupportsIndex) or isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:  # numpy's bool, or an array that is no single whole number
        return None
