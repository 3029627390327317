"""Where the sentences of a chain end, token by token."""

import pytest

from rank1_hf.prompts.chain_text import SentenceEnds


@pytest.mark.parametrize(
    ("tokens", "ends"),
    [
        (["Yes", ".", " No", "!", " Why", "?", " So"], [2, 4, 6]),
        (["Well", "...", " Yes", ".\n\n", "No"], [2, 4]),
        (["Well", ".", ".", ".", " Yes", ".\n", "\n", "No"], [2, 6]),
        (['"', "Yes", '."', " So", ".", '"', ".", " And", ".)."], [3, 5, 9]),
        (["Really", "?!", " —", " ?"], [2]),
        (["**", "Yes", ".**", "\n"], [3]),
        (["...", "Yes", "."], [3]),
        ([".", "?"], []),
        (["It", " is", " 3.", "14", "."], []),
        (["It", " is", " 3", ".", "14", " metres", "."], [7]),
        (["In", " 1990", ".", " So"], []),  # nobody knows at the point
        (["In", " 1990", ".", "\n\n", "So"], [4]),
        (["In", " 1990", ".\n\n", "So"], [3]),
        (["東京", ".", "東京", "!"], [2, 4]),
    ],
    ids=str,
)
def test_sentences_end_once_and_not_within_a_number(tokens: list[str], ends: list[int]):
    ids = list(range(len(tokens)))
    sentence_ends = SentenceEnds(lambda given: "".join(tokens[token] for token in given))
    assert [n for n in range(len(tokens) + 1) if sentence_ends.behind(ids[:n])] == ends
