"""Drafts against a search through everything that has been learned."""

from hypothesis import given
from hypothesis import strategies as st

from rank1_hf.decoding.speculation import NGRAM_SIZES, Drafts

Contexts = list[list[int]]


def followers(contexts: Contexts, ngram: list[int]) -> list[int]:
    size = len(ngram)
    return [
        context[end] for context in contexts for end in range(size, len(context)) if context[end - size : end] == ngram
    ]


def search(contexts: Contexts, tokens: list[int], n_tokens: int, least_chance: float) -> list[int]:
    """The definition: what stood last behind the longest n-gram that is known, while the chance is high enough."""
    draft: list[int] = []
    chance = 1.0
    while len(draft) < n_tokens:
        context = tokens + draft
        sizes = [size for size in NGRAM_SIZES if size <= len(context)]
        known = next((f for size in sizes if (f := followers(contexts, context[-size:]))), None)
        if known is None:
            break
        n_alike = next((n for n, token in enumerate(reversed(known)) if token != known[-1]), len(known))
        chance *= n_alike / (n_alike + 1)
        if chance < least_chance:
            break
        draft.append(known[-1])
    return draft


contexts = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=30), min_size=1, max_size=4)


@given(contexts, st.integers(1, 7), st.floats(0, 1))
def test_a_draft_is_what_followed_the_longest_match_last(known: Contexts, n_tokens: int, least_chance: float):
    drafts = Drafts()
    for tokens in known:
        drafts.learn(tokens, 0)
    for tokens in known:
        assert drafts.propose(tokens, n_tokens, least_chance) == search(known, tokens, n_tokens, least_chance)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.data())
def test_a_context_may_be_learned_as_it_grows(tokens: list[int], data: st.DataObject):
    at_once, growing, n = Drafts(), Drafts(), 0
    at_once.learn(tokens, 0)
    while n < len(tokens):
        n, n_known = n + data.draw(st.integers(1, 5)), n
        growing.learn(tokens[:n], n_known)
    assert growing.propose(tokens, 7, 0.0) == at_once.propose(tokens, 7, 0.0)


def test_what_has_not_been_seen_for_long_is_forgotten_and_what_comes_again_is_kept():
    drafts = Drafts(max_ngrams=100)
    drafts.learn([1, 2, 3], 0)
    drafts.learn([4, 5, 6], 0)
    for start in range(10, 400, 10):
        drafts.learn(list(range(start, start + 10)), 0)
        drafts.learn([1, 2, 3], 0)
    assert drafts.propose([1, 2], 1, 0.9) == [3]
    assert drafts.propose([4, 5], 1, 0.0) == []
    assert len(drafts._recent) + len(drafts._older) <= 120
