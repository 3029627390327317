"""The fields of records, by the names that they usually have, and their values, checked.

Every reader of files, datasets and collections asks here, so that all of them understand the same names and refuse the
same values.
"""

import math
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from numbers import Number
from typing import Any

from rank1_hf.inputs.choices import did_you_mean
from rank1_hf.inputs.textfiles import InputError
from rank1_hf.inputs.values import is_missing

# The first name is what an error calls the field. Case does not count, and "-" is as good as "_".
QUERY_ID = ("query-id", "qid", "queryid", "topic-id")
DOCUMENT_ID = ("corpus-id", "doc-id", "docid", "docno", "document-id", "documentid", "did", "passage-id", "pid")
QUERY_RECORD_ID = ("_id", "id", *QUERY_ID)
DOCUMENT_RECORD_ID = ("_id", "id", *DOCUMENT_ID)
GRADE = ("relevance", "grade", "label", "rel", "judgment", "judgement", "score")
SCORE = ("score", "relevance-score", "similarity")
CANDIDATES = ("corpus-ids", "doc-ids", "docids", "docnos", "document-ids")
INSTRUCTION = ("instruction",)
TITLE = ("title",)
TEXT = ("text", "contents", "content", "passage")
QUERY_TEXT = ("text", "query", "question")

_LARGEST_GRADE = 1_000_000  # trec_eval keeps a counter for every grade up to the largest
_WHOLE = re.compile(r"[+-]?[0-9]+(\.0*)?")
_NO_ID = re.compile("[\t\r\n\ud800-\udfff]")  # a TREC file cannot hold them


def find(columns: Iterable[str], names: tuple[str, ...]) -> str | None:
    """The column that has the first of these names that occurs, or None."""
    return _find(tuple(columns), names)


def require(columns: Iterable[str], names: tuple[str, ...], where: str) -> str:
    """The column that has one of these names.

    Raises:
        InputError: there is none.
    """
    columns = tuple(columns)
    found = _find(columns, names)
    if found is None:
        others = f" (or {', '.join(names[1:])})" if names[1:] else ""
        there = ", ".join(map(repr, columns)) or "nothing"
        raise InputError(f'{where}: no "{names[0]}"{others}; there is {there}{nearest(columns, names)}')
    return found


def nearest(columns: Iterable[str], names: tuple[str, ...]) -> str:
    """The end of a sentence that asks whether a column is meant that is spelled much like one of these names."""
    known = [str(column) for column in columns]
    return next(filter(None, (did_you_mean(name, known) for name in names)), "")


def optional_text(value: object, name: str, where: str) -> str:
    """The text of an optional field, "" where it is missing.

    Raises:
        InputError: it is something else than text.
    """
    if is_missing(value) or value == "":
        return ""
    if not isinstance(value, str):
        raise InputError(f'{where}: "{name}" must be a string, not {value!r}')
    return value


def id_of(value: object, where: str) -> str:
    """An id as text. A number with nothing behind its point is a whole one that pandas made a float.

    Raises:
        InputError: there is none, or it is no id.
    """
    if is_missing(value) or value == "":
        raise InputError(f"{where}: an id is missing")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError(f"{where}: an id must be a string or a whole number, not {value!r}")
    text = str(value)
    if _NO_ID.search(text):
        raise InputError(f"{where}: the id {text!r} has a character that no run can hold")
    return text


def grade_of(value: object, where: str) -> int:
    """A grade: a whole number, as a number or as text such as "1" or "1.0".

    Raises:
        InputError: it is something else.
    """
    number: Any = None if isinstance(value, bool) else value
    with suppress(ValueError, OverflowError, TypeError):  # which int raises for NaN, infinity and complex numbers
        if isinstance(value, str) and _WHOLE.fullmatch(value):
            number = int(value.partition(".")[0])
        if isinstance(number, Number):
            grade: Any = int(number)  # type: ignore[call-overload]
            if grade == number and abs(grade) <= _LARGEST_GRADE:
                return int(grade)
    raise InputError(f"{where}: a grade must be a whole number (up to {_LARGEST_GRADE:,}), not {value!r}")


def score_of(value: object, where: str) -> float:
    """A score: a number, or text that is one.

    Raises:
        InputError: it is something else, or NaN.
    """
    try:
        score = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        score = math.nan
    if math.isnan(score):
        raise InputError(f"{where}: a score must be a number, not {value!r}")
    return score


@lru_cache(maxsize=256)
def _find(columns: tuple[Any, ...], names: tuple[str, ...]) -> str | None:
    known = {str(column).strip().lower().replace("_", "-"): column for column in reversed(columns)}
    return next((known[name] for name in (each.replace("_", "-") for each in names) if name in known), None)
