"""A chain in pieces: words or tokens, what the verdict saw of them, and where two chains diverge."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank1_hf.chains.beliefs import BeliefPoint
from rank1_hf.prompts.chain_text import cut_to_last_sentence
from rank1_hf.results.belief_curve import with_curve
from rank1_hf.viewing.pieces import belief, divergence, n_kept, pieces, uncertainty
from tests.viewing.made import judgment, trace_of, traced


@given(st.text())
def test_pieces_are_the_chain(chain):
    assert "".join(pieces(judgment(0, chain=chain))) == chain


def test_pieces_are_tokens_where_they_were_traced():
    trace = trace_of(0, ["It", " nam", "es", " wings", "."])
    assert pieces(judgment(0, chain="It names wings.", trace=trace)) == trace.texts
    assert pieces(judgment(0, chain=" It names wings.")) == [" It", " names", " wings."]


@pytest.mark.parametrize("ended", ["budget", "eos", "context"])
def test_what_a_forced_close_drops_is_not_kept(ended):
    forced = judgment(0, chain="\nIt names wings. But the weight", ended=ended)
    assert "".join(pieces(forced)[: n_kept(forced)]) == "\nIt names wings."
    whole = judgment(0, chain="\nno sentence ends here", ended=ended)
    assert n_kept(whole) == len(pieces(whole))


def test_a_chain_that_closed_itself_is_kept():
    closed = judgment(0, chain="It names wings. But the weight")
    assert n_kept(closed) == len(pieces(closed)) == 6


@given(st.text(alphabet="ab .!\n"))
def test_what_is_kept_is_what_the_prompt_contract_keeps(chain):
    forced = judgment(0, chain=chain, ended="budget", trace=trace_of(0, list(chain)))
    assert "".join(pieces(forced)[: n_kept(forced)]).strip() == cut_to_last_sentence(chain)


def test_equal_chains_do_not_part():
    assert divergence(judgment(0), judgment(0, log_odds=-1.0)) is None
    assert divergence(traced(0), traced(0)) is None


def test_chains_part_at_the_first_word_that_differs():
    a, b = judgment(0, chain="It names wings and air."), judgment(0, chain="It names wins and air.")
    assert divergence(a, b) == (2, 2)
    assert divergence(a, judgment(0, chain="It names wings")) == (3, 3)


def test_traced_chains_part_at_the_first_token_that_differs_even_if_the_text_is_the_same():
    a = judgment(0, chain="abc", trace=trace_of(0, ["ab", "c"], token_ids=[1, 2]))
    b = judgment(0, chain="abc", trace=trace_of(0, ["ab", "c"], token_ids=[1, 3]))
    assert divergence(a, b) == (1, 1)


def test_a_traced_and_an_untraced_chain_part_at_the_same_character():
    a = judgment(0, chain="It names wings.", trace=trace_of(0, ["It", " nam", "es", " wi", "ngs", "."]))
    b = judgment(0, chain="It names wins.")
    assert divergence(a, b) == (4, 2)
    assert divergence(b, a) == (2, 4)


@given(st.text(alphabet="ab "), st.text(alphabet="ab "))
def test_the_pieces_before_the_parting_are_equal_and_it_is_where_they_differ(first, second):
    a, b = judgment(0, chain=first), judgment(0, chain=second)
    parting = divergence(a, b)
    assert (parting is None) == (first == second)
    if parting is not None:
        i, j = parting
        assert pieces(a)[:i] == pieces(b)[:j]
        assert pieces(a)[i : i + 1] != pieces(b)[j : j + 1]


def test_the_belief_curve_ends_in_the_verdict():
    points = [BeliefPoint(0, -1.0), BeliefPoint(2, 0.5), BeliefPoint(3, 1.9)]
    trace = trace_of(0, ["It", " is", "."], belief=points)
    judged = judgment(0, 2.0, "It is.", trace=trace, n_chain_tokens=3)
    assert belief(judged) == belief(with_curve(judged)) == [(0, -1.0), (2, 0.5), (3, 2.0)]
    assert belief(judgment(0)) == belief(judgment(0, trace=trace_of(0, ["a"], belief=[]))) == []


def test_doubt_is_0_where_the_model_is_sure():
    trace = trace_of(0, ["a", "b", "c"], entropies=[0.0, math.log(2), 50.0], margins=[math.inf, math.log(2), 0.0])
    assert uncertainty(trace, "entropy") == pytest.approx([0.0, 0.5, 1.0])
    assert uncertainty(trace, "margin") == pytest.approx([0.0, 0.5, 1.0])
