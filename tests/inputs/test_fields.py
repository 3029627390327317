"""Names and values of fields."""

from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from rank1_hf.inputs import fields
from rank1_hf.inputs.textfiles import InputError


@pytest.mark.parametrize(
    ("columns", "names", "found"),
    [
        (["corpus_id", "Query_ID"], fields.QUERY_ID, "Query_ID"),
        (["qid", "docno", "label"], fields.QUERY_ID, "qid"),
        (["qid", "docno", "label"], fields.DOCUMENT_ID, "docno"),
        (["qid", "docno", "label", "score"], fields.GRADE, "label"),
        (["id", "_id"], fields.DOCUMENT_RECORD_ID, "_id"),
        (["text"], fields.QUERY_ID, None),
    ],
)
def test_the_usual_names_are_understood(columns: list[str], names: tuple[str, ...], found: str | None) -> None:
    assert fields.find(columns, names) == found


def test_a_missing_column_is_named_with_those_that_are_there() -> None:
    with pytest.raises(InputError, match=r"""here: no "relevance" \(or grade, .*score\); there is 'qid', 'stars'"""):
        fields.require(["qid", "stars"], fields.GRADE, "here")


@pytest.mark.parametrize("value", [2, 2.0, "2", "2.0", "2.", "+2", np.int64(2), np.float32(2), Decimal(2)])
def test_a_whole_grade_passes_as_number_or_text(value: object) -> None:
    grade = fields.grade_of(value, "here")
    assert (grade, type(grade)) == (2, int)


@pytest.mark.parametrize("value", [-1, "-1", "-1.0"])
def test_a_grade_may_be_negative(value: object) -> None:
    assert fields.grade_of(value, "here") == -1


WRONG: list[Any] = [
    0.9,
    "0.9",
    None,
    float("nan"),
    float("inf"),
    "",
    "high",
    "1_0",
    "\u0661",
    True,
    [],
    {},
    1e30,
    1j,
    "9" * 9999,
]


@pytest.mark.parametrize("value", WRONG)
def test_any_other_grade_is_an_error_with_place_and_value(value: object) -> None:
    with pytest.raises(InputError, match="here: a grade must be a whole number"):
        fields.grade_of(value, "here")


@pytest.mark.parametrize(
    ("value", "id_"), [("2.0", "2.0"), ("007", "007"), (7, "7"), (2.0, "2"), (10.0**20, "1" + "0" * 20)]
)
def test_an_id_is_read_as_what_it_is(value: object, id_: str) -> None:
    assert fields.id_of(value, "here") == id_


@pytest.mark.parametrize("value", [None, "", float("nan"), 2.5, True, [], "a\tb", "a\nb", "\ud800"])
def test_what_is_no_id_is_told(value: object) -> None:
    with pytest.raises(InputError, match=r"here: .*id"):
        fields.id_of(value, "here")


@pytest.mark.parametrize("value", [None, "", float("nan")])
def test_an_optional_text_that_is_empty_is_none(value: object) -> None:
    assert fields.optional_text(value, "title", "here") == ""


@pytest.mark.parametrize("value", [None, float("nan"), "nan", "high", True, []])
def test_what_is_no_score_is_told(value: object) -> None:
    with pytest.raises(InputError, match="here: a score must be a number"):
        fields.score_of(value, "here")
