"""Prompt lookup against a search through the whole context."""

from hypothesis import given
from hypothesis import strategies as st

from rank1_hf.decoding.speculation import NGRAM_SIZES, PromptLookup


def search(tokens: list[int], n_tokens: int) -> list[int]:
    for size in NGRAM_SIZES:
        for start in range(len(tokens) - size - 1, -1, -1):
            if tokens[start : start + size] == tokens[-size:]:
                return tokens[start + size : start + size + n_tokens]
    return []


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 8), st.data())
def test_a_draft_is_what_followed_the_last_match(tokens: list[int], n_tokens: int, data: st.DataObject):
    lookup, n = PromptLookup(), 0
    while n < len(tokens):
        n += data.draw(st.integers(1, 5))
        assert lookup.propose(tokens[:n], n_tokens) == search(tokens[:n], n_tokens)


def test_a_rewritten_context_is_looked_through_anew():
    lookup = PromptLookup()
    lookup.propose([1, 2, 3, 4, 5, 1, 2], 3)
    assert lookup.propose([1, 2, 9, 1, 2], 3) == [9, 1, 2]
