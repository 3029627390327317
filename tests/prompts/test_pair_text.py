"""The texts of a pair: what they become, and what is refused."""

from types import SimpleNamespace

import pytest

from rank1_hf.inputs.values import is_missing
from rank1_hf.prompts.pair_text import PairError, passage_text, query_text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "must be a string, not NoneType"),
        (7, "must be a string, not int"),
        (float("nan"), "must be a string, not float"),
        (b"wings", r"is bytes, not text; decode it first.*decode\('utf-8'\)"),
        (bytearray(b"wings"), "is bytes, not text"),
        (["wings"], "must be a string, not list"),
        ([["wings"]], "must be a string, not list"),
        ("wi\ud800ngs", "is not valid Unicode: a lone surrogate.*at character 2; clean it"),
    ],
)
def test_what_is_not_text(value, message):
    with pytest.raises(PairError, match=f"the query {message}"):
        query_text(value)
    with pytest.raises(PairError, match=f"the query's 'text' {message}"):
        query_text({"text": value})
    with pytest.raises(PairError, match=f"the passage {message}"):
        passage_text(value)
    with pytest.raises(PairError, match=f"the passage's 'text' {message}"):
        passage_text({"text": value})
    if not is_missing(value):
        with pytest.raises(PairError, match=f"the query's 'instruction' {message}"):
            query_text({"text": "wings", "instruction": value})
        with pytest.raises(PairError, match=f"the passage's 'title' {message}"):
            passage_text({"title": value, "text": "air"})


def test_missing_text():
    with pytest.raises(PairError, match=r"^the query has no 'text'; it has instruction$"):
        query_text({"instruction": "be strict"})
    with pytest.raises(PairError, match=r"^the passage has no 'text'; it has id, content$"):
        passage_text({"id": 1, "content": "The wing"})
    with pytest.raises(PairError, match=r"^the passage has no 'text'; it has nothing$"):
        passage_text({})


@pytest.mark.parametrize("query", ["", "  ", "\n\t", "\u3000", {"text": " "}])
def test_a_blank_query(query):
    with pytest.raises(PairError, match="the query is blank"):
        query_text(query)


@pytest.mark.parametrize("field", ["page_content", "text", "content"])
def test_a_document_of_a_framework_is_answered_with_the_field_of_its_text(field):
    """As those of LangChain, LlamaIndex and Haystack are."""
    document = SimpleNamespace(**{field: "The wing"})
    with pytest.raises(PairError, match=rf"not SimpleNamespace; give its text, which is in its '{field}'$"):
        passage_text(document)
