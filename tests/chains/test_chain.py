"""Every path through the state machine, with made-up ids: no tokenizer, no model."""

import copy
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rank1_hf.chains.chain import Chain, ChainRules, common_prefix_length
from rank1_hf.chains.rules import DoNotThink, SteeringError
from rank1_hf.chains.steering import Steering
from tests.chains.made import CLOSE, EOS, FORCED, PROMPT, STOP, WAIT, rules, steered, think


def test_thinking_appends_tokens_and_keeps_everything_before():
    chain = Chain(PROMPT, rules(), limit=10)
    assert think(chain, 50, 51) == [3, 4]
    assert chain.tokens == [1, 2, 3, 50, 51]
    assert chain.ended is None


def test_a_close_by_the_model_ends_the_chain_and_leaves_the_marker_out_of_the_thought():
    chain = Chain(PROMPT, rules(), limit=10)
    think(chain, 50, CLOSE)
    assert chain.ended == "closed"
    assert chain.thought == (50,)
    assert chain.tokens == [1, 2, 3, 50, CLOSE]


def test_a_close_as_the_first_token_is_an_empty_thought():
    chain = Chain(PROMPT, rules(), limit=10)
    assert think(chain, CLOSE) == [3]
    assert (chain.ended, chain.thought, chain.tokens) == ("closed", (), [1, 2, 3, CLOSE])


def test_a_close_of_several_tokens_is_matched_as_a_whole():
    chain = Chain(PROMPT, rules(close=(80, 81, 82)), limit=20)
    think(chain, 80, 81, 50, 82, 81, 82)
    assert chain.ended is None
    think(chain, 80, 81, 82)
    assert chain.ended == "closed"
    assert chain.thought == (80, 81, 50, 82, 81, 82)


def test_a_close_cannot_begin_in_the_prompt():
    chain = Chain([1, 80, 81], rules(close=(80, 81, 82)), limit=20)
    think(chain, 82)
    assert chain.ended is None


def test_the_budget_forces_the_close_from_the_whole_thought():
    chain = Chain(PROMPT, rules(), limit=3)
    think(chain, 50, 51)
    assert chain.ended is None
    unchanged = chain.advance(52)
    assert (chain.ended, chain.thought) == ("budget", (50, 51, 52))
    assert chain.tokens == [1, 2, 3, 50, 51, 52, *FORCED]
    assert unchanged == 6


def test_a_close_that_is_the_last_token_the_budget_allows_counts_as_closed():
    chain = Chain(PROMPT, rules(), limit=2)
    think(chain, 50, CLOSE)
    assert chain.ended == "closed"


def test_a_budget_of_one_token():
    chain = Chain(PROMPT, rules(), limit=1)
    chain.advance(50)
    assert (chain.ended, chain.thought) == ("budget", (50,))


def test_the_context_limit_is_named_as_such():
    chain = Chain(PROMPT, rules(), limit=1, limit_reason="context")
    chain.advance(50)
    assert chain.ended == "context"


def test_eos_forces_the_close_and_is_no_part_of_the_thought():
    chain = Chain(PROMPT, rules(), limit=10)
    think(chain, 50, EOS)
    assert (chain.ended, chain.thought) == ("eos", (50,))
    assert chain.tokens == [1, 2, 3, 50, *FORCED]


def test_eos_as_the_first_token():
    chain = Chain(PROMPT, rules(), limit=10)
    assert chain.advance(EOS) == 3
    assert (chain.ended, chain.thought, chain.tokens) == ("eos", (), [1, 2, 3, *FORCED])


def test_a_forced_close_that_rewrites_the_thought_keeps_only_the_common_prefix():
    chain = Chain(PROMPT, rules(), limit=3)
    unchanged = think(chain, 50, STOP + 5, 52)[-1]  # the rules drop ids above STOP
    assert chain.tokens == [1, 2, 3, 50, 52, *FORCED]
    assert unchanged == 4


def test_a_forced_close_never_exceeds_the_context():
    doubling = ChainRules(
        (CLOSE,), frozenset({EOS}), lambda prompt, thought: [*prompt, *thought, *thought, CLOSE], lambda p, t: []
    )
    chain = Chain(PROMPT, doubling, limit=4, context=9)
    think(chain, 50, 51, 52, 53)
    assert chain.tokens == [1, 2, 3, 50, 50, CLOSE], "what stands behind the chain is whole"
    assert chain.thought == (50, 51, 52, 53)


def test_a_forced_close_that_does_not_fit_even_behind_nothing_is_refused():
    long = replace(rules(), force_close=lambda prompt, thought: [*prompt, *thought, *[50] * 9, CLOSE])
    chain = Chain(PROMPT, long, limit=1, context=9)
    with pytest.raises(SteeringError, match="force_close gives 13 tokens even for an empty chain, and only 9 fit"):
        chain.advance(50)
    assert (chain.ended, chain.thought) == (None, ())


def _raise(prompt: list[int], thought: list[int]) -> list[int]:
    raise ZeroDivisionError("half-way")


WRONG = {
    "raises": (_raise, "failed: ZeroDivisionError: half-way"),
    "none": (lambda prompt, thought: None, "must be a list of token ids, not None"),
    "text": (lambda prompt, thought: "text", "must be a list of token ids, not 'text'"),
    "bytes": (lambda prompt, thought: bytes([*prompt, CLOSE]), "must be a list of token ids, not b'"),
    "set": (lambda prompt, thought: {*prompt, CLOSE}, "must be a list of token ids, not {"),
    "empty": (lambda prompt, thought: [], "begins with the prompt"),
    "no prompt": (lambda prompt, thought: [*thought, CLOSE], "begins with the prompt"),
    "too large": (lambda prompt, thought: [*prompt, 100, CLOSE], "token id 100, and the model's ids end at 99"),
    "negative": (lambda prompt, thought: [*prompt, -1, CLOSE], "not -1"),
    "float": (lambda prompt, thought: [*prompt, 5.0, CLOSE], "not 5.0"),
    "bool": (lambda prompt, thought: [*prompt, True, CLOSE], "not True"),
}


@pytest.mark.parametrize("name", ["force_close", "rethink"])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_rewrite_that_gives_no_context_says_which_and_why(name: str, wrong: str):
    rewrite, message = WRONG[wrong]
    broken = replace(rules(), vocab_size=100, **{name: rewrite})
    chain = Chain(PROMPT, broken, limit=10, rethinks=1)
    think(chain, 50)
    with pytest.raises(SteeringError, match=f"{name}.*{re.escape(message)}"):
        chain.advance(EOS if name == "force_close" else CLOSE)
    assert (chain.ended, chain.tokens[:4]) == (None, [*PROMPT, 50])


def test_a_rewrite_leaves_the_context_closed_or_open_as_it_should():
    unclosed = replace(rules(), force_close=lambda prompt, thought: [*prompt, *thought])
    with pytest.raises(SteeringError, match=r"force_close must return .* ends with the closing marker's ids, \[90\]"):
        Chain(PROMPT, unclosed, limit=10).advance(EOS)
    closed = replace(rules(), rethink=lambda prompt, thought: [*prompt, *thought, CLOSE])
    with pytest.raises(SteeringError, match="rethink must return an open context"):
        Chain(PROMPT, closed, limit=10, rethinks=1).advance(CLOSE)


def test_a_rewrite_may_give_a_tuple_and_whatever_counts_as_a_whole_number():
    numpys = replace(rules(), force_close=lambda prompt, thought: tuple(np.array([*prompt, *thought, CLOSE])))
    chain = Chain(PROMPT, numpys, limit=10)
    think(chain, 50, EOS)
    assert chain.tokens == [*PROMPT, 50, CLOSE]
    assert {type(token) for token in chain.tokens} == {int}


def test_a_rewrite_cannot_change_the_chain_by_its_arguments():
    def emptying(prompt: list[int], thought: list[int]) -> list[int]:
        context = [*prompt, *thought, CLOSE]
        prompt.clear()
        thought.clear()
        return context

    chain = Chain(PROMPT, replace(rules(), force_close=emptying), limit=10)
    think(chain, 50, EOS)
    assert (chain.tokens, chain.thought) == ([*PROMPT, 50, CLOSE], (50,))


def test_what_fails_when_a_chain_is_made_is_raised_at_its_first_step():
    broken, again = replace(rules(), force_close=_raise), [50, EOS]
    for options in ({"steering": Steering(stops_behind_given=True)}, {"generated": again}):
        chain = Chain(PROMPT, broken, limit=10, **options)
        with pytest.raises(SteeringError, match="force_close failed: ZeroDivisionError"):
            chain.advance(50)


@pytest.mark.parametrize(("seam", "fits"), [(0, False), (1, True)])
def test_where_markers_are_tokenized_with_their_neighbours_the_seam_may_differ(seam: int, fits: bool):
    close = (80, CLOSE)
    merged = ChainRules(close, frozenset(), lambda p, t: [1, 2, 4, *t, 81, CLOSE], lambda p, t: [], 100, seam)
    chain = Chain(PROMPT, merged, limit=1)
    if fits:
        chain.advance(50)
        assert chain.tokens == [1, 2, 4, 50, 81, CLOSE]
    else:
        with pytest.raises(SteeringError, match="begins with the prompt"):
            chain.advance(50)


def test_a_rewrite_that_only_shortens_leaves_one_token_to_feed():
    prompt = [*PROMPT, CLOSE]
    chain = Chain(prompt, replace(rules(), force_close=lambda prompt, thought: list(prompt)), limit=10)
    think(chain, 50)
    assert chain.advance(EOS) == len(prompt) - 1
    assert chain.tokens == prompt


def test_rethinking_puts_wait_in_the_place_of_the_close_so_many_times():
    chain = Chain(PROMPT, rules(), limit=20, rethinks=2)
    assert think(chain, 50, CLOSE)[-1] == 4
    assert chain.tokens == [1, 2, 3, 50, WAIT]
    think(chain, 51, CLOSE)
    assert chain.ended is None
    think(chain, 52, CLOSE)
    assert chain.ended == "closed"
    assert chain.thought == (50, WAIT, 51, WAIT, 52)
    assert chain.tokens == [1, 2, 3, 50, WAIT, 51, WAIT, 52, CLOSE]


def test_no_rethinking_beyond_the_limit():
    chain = Chain(PROMPT, rules(), limit=3, rethinks=5)
    think(chain, 50, 51, CLOSE)
    assert (chain.ended, chain.thought) == ("closed", (50, 51))


def test_a_forced_close_is_not_rethought():
    chain = Chain(PROMPT, rules(), limit=2, rethinks=5)
    think(chain, 50, 51)
    assert chain.ended == "budget"


def test_a_second_thought_that_repeats_the_pieces_of_a_close_needs_all_of_them():
    chain = Chain(PROMPT, rules(close=(80, 81)), limit=20, rethinks=1)
    think(chain, 50, 80, 81)
    assert chain.tokens == [1, 2, 3, 50, WAIT]
    think(chain, 81)
    assert chain.ended is None


def test_advancing_a_chain_that_has_ended_is_an_error():
    chain = Chain(PROMPT, rules(), limit=5)
    chain.advance(CLOSE)
    with pytest.raises(RuntimeError, match="verdict"):
        chain.advance(50)


def test_a_limit_below_one_token_is_an_error():
    with pytest.raises(ValueError, match="at least 1"):
        Chain(PROMPT, rules(), limit=0)


@pytest.mark.parametrize("end", [CLOSE, EOS])
def test_a_chain_that_ends_too_early_thinks_again_as_often_as_it_takes(end: int):
    chain = steered(min_tokens=4)
    assert think(chain, 50, end)[-1] == 4
    assert chain.tokens == [*PROMPT, 50, WAIT]
    think(chain, end)
    assert chain.tokens == [*PROMPT, 50, WAIT, WAIT]
    think(chain, 51, end)
    assert (chain.ended, chain.thought) == ("closed" if end == CLOSE else "eos", (50, WAIT, WAIT, 51))


def test_thinking_for_long_enough_is_no_rethinking():
    chain = steered(min_tokens=2, rethinks=1)
    think(chain, CLOSE, 50, CLOSE)
    assert chain.tokens == [*PROMPT, WAIT, 50, WAIT]
    think(chain, CLOSE)
    assert (chain.ended, chain.thought) == ("closed", (WAIT, 50, WAIT))


def test_a_rethink_that_adds_nothing_is_refused_where_it_would_be_asked_for_without_end() -> None:
    idle = replace(rules(), rethink=lambda prompt, thought: [*prompt, *thought])
    chain = Chain(PROMPT, idle, limit=20, rethinks=1, steering=Steering(min_tokens=1))
    with pytest.raises(SteeringError, match="must add tokens to a chain that is shorter than min_thinking_tokens"):
        think(chain, CLOSE)
    think(counted := Chain(PROMPT, idle, limit=20, rethinks=1), 50, CLOSE, CLOSE)
    assert (counted.ended, counted.thought) == ("closed", (50,))


def test_no_chain_is_kept_open_beyond_the_limit():
    chain = steered(limit=3, min_tokens=3)
    think(chain, 50, 51, CLOSE)
    assert (chain.ended, chain.thought) == ("closed", (50, 51))


def test_a_given_chain_is_continued():
    chain = steered(limit=4, given=(50, 51))
    assert (chain.tokens, chain.given_ahead(1), chain.given_ahead(9), chain.n_given_ahead) == (
        PROMPT,
        [50],
        [50, 51],
        2,
    )
    think(chain, 70, CLOSE)  # what the model would have said there does not count
    assert (chain.tokens, chain.given_ahead(9), chain.ended, chain.room) == ([*PROMPT, 50, 51], [], None, 2)
    think(chain, 52, CLOSE)
    assert (chain.ended, chain.thought) == ("closed", (50, 51, 52))


def test_a_given_chain_with_its_close_is_the_whole_chain_and_is_not_rethought():
    chain = steered(limit=4, rethinks=3, min_tokens=4, given=(50, 80, 81), close=(80, 81))
    think(chain, 70, 70, 70)
    assert (chain.ended, chain.thought, chain.tokens) == ("closed", (50,), [*PROMPT, 50, 80, 81])


def test_a_given_chain_that_uses_up_the_limit_is_closed():
    chain = steered(limit=2, given=(50, 51))
    think(chain, 70, 70)
    assert (chain.ended, chain.thought, chain.tokens) == ("budget", (50, 51), [*PROMPT, 50, 51, *FORCED])


@pytest.mark.parametrize("given", [(), (50,), (50, EOS, 51)])
def test_a_given_chain_is_closed_by_force_where_that_is_asked_for(given: tuple[int, ...]):
    chain = steered(limit=9, given=given, stops_behind_given=True)
    think(chain, *(70 for _ in given))
    assert (chain.ended, chain.thought, chain.tokens) == ("stopped", given, [*PROMPT, *given, *FORCED])
    assert chain.thought_so_far == given


def test_a_rule_is_not_asked_about_the_tokens_given():
    chain = steered(limit=9, given=(50, 51), rule=DoNotThink())
    think(chain, 70, 70)
    assert (chain.thought, chain.ended) == ((), None)
    think(chain, 70)
    assert (chain.thought, chain.ended) == ((50, 51), "stopped")


def test_a_branch_is_the_chain_closed_here_and_leaves_it_as_it_is():
    chain = steered(belief_at=lambda thought: len(thought) % 2 == 0)
    start = chain.branch()
    assert (start.ended, start.thought, start.tokens) == ("stopped", (), [*PROMPT, *FORCED])
    think(chain, 50)
    assert chain.branch() is None
    think(chain, 51)
    branch = chain.branch()
    assert (branch.ended, branch.thought, branch.tokens) == ("stopped", (50, 51), [*PROMPT, 50, 51, *FORCED])
    assert (chain.ended, chain.tokens) == (None, [*PROMPT, 50, 51])
    think(chain, CLOSE)
    assert chain.branch() is None
    assert steered().branch() is None


def test_beliefs_are_kept_in_order():
    chain = steered()
    for n_tokens in (4, 0, 2):
        chain.believe(n_tokens, 1.0)
    assert [point.n_tokens for point in chain.beliefs] == [0, 2, 4]


@given(
    tokens=st.lists(st.sampled_from([50, 51, CLOSE, EOS]), min_size=30, max_size=30),
    limit=st.integers(1, 25),
    rethinks=st.integers(0, 3),
)
def test_every_chain_ends_in_a_closed_context_within_its_limit(tokens: list[int], limit: int, rethinks: int):
    chain = Chain(PROMPT, rules(), limit=limit, rethinks=rethinks)
    for token in tokens:
        before = [*chain.tokens, token]
        unchanged = chain.advance(token)
        assert chain.tokens[:unchanged] == before[:unchanged]
        assert unchanged < len(chain.tokens)  # something is left to feed, so there are logits to go on with
        if chain.ended:
            break
    assert chain.ended is not None
    assert chain.tokens[-1] == CLOSE
    assert chain.tokens[: len(PROMPT)] == PROMPT
    assert len(chain.thought) <= limit


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3)))
def test_common_prefix_length(a: list[int], b: list[int]):
    n = common_prefix_length(a, b)
    assert a[:n] == b[:n]
    assert n in (len(a), len(b)) or a[n] != b[n]


@given(
    tokens=st.lists(st.sampled_from([50, 51, 80, 81, CLOSE, EOS]), min_size=30, max_size=30),
    limit=st.integers(1, 25),
    rethinks=st.integers(0, 3),
    min_tokens=st.integers(0, 5),
    close=st.sampled_from([(CLOSE,), (80, 81)]),
)
def test_what_the_model_has_generated_decides_all_of_a_chain(
    tokens: list[int], limit: int, rethinks: int, min_tokens: int, close: tuple[int, ...]
):
    def new(generated: list[int]) -> Chain:
        steering = Steering(min_tokens)
        return Chain(PROMPT, rules(close), limit=limit, rethinks=rethinks, steering=steering, generated=generated)

    def state(chain: Chain) -> tuple[object, ...]:
        return chain.tokens, chain.ended, chain.thought, chain.rewritten, chain.room, chain.generated

    chain = new([])
    for token in tokens:
        chain.advance(token)
        again = new(chain.generated)
        assert state(again) == state(chain)
        if chain.ended:
            assert state(new([*chain.generated, 50, CLOSE])) == state(chain)  # what is too much counts for nothing
            return
        assert again.advance(51) == copy.deepcopy(chain).advance(51)


def test_what_the_model_has_not_generated_is_known_of_a_chain():
    chain = steered(limit=4, rethinks=1)
    think(chain, 50, CLOSE)
    think(chain, 51, 52)
    assert (chain.tokens, chain.ended) == ([*PROMPT, 50, 51, 52, *FORCED], "budget")  # without WAIT
    assert chain.rewritten == [(4, 8)]
    assert steered(stops_behind_given=True).rewritten == [(3, 5)]
