"""What a caller's rule may decide, and what becomes of one that fails."""

import numpy as np
import pytest
import torch

from rank1_hf.chains.beliefs import BeliefPoint
from rank1_hf.chains.rules import DoNotThink, EarlyExit, Rule, SteeringError, rule_for_pair
from tests.chains.made import CLOSE, FORCED, PROMPT, steered, think


def test_not_to_think_closes_before_the_first_token():
    chain = steered(rule=DoNotThink())
    assert think(chain, 50) == [3]
    assert (chain.ended, chain.thought, chain.tokens) == ("stopped", (), [*PROMPT, *FORCED])


class Scripted(Rule):
    """Stops at a length, and replaces tokens."""

    def __init__(self, stop_at: int = 99, **replaced: list[int]) -> None:
        self.stop_at, self.replaced = stop_at, {int(token[1:]): ids for token, ids in replaced.items()}
        self.asked: list[list[int]] = []

    def stop(self, thought, beliefs):
        self.asked.append(list(thought))
        return len(thought) == self.stop_at

    def force(self, thought, token):
        return self.replaced.get(token, [token])


def test_a_rule_is_asked_before_every_token_and_stops_the_chain_there():
    rule = Scripted(stop_at=2)
    chain = steered(rule=rule)
    assert think(chain, 50, 51, 52) == [3, 4, 5]
    assert rule.asked == [[], [50], [50, 51]]
    assert (chain.ended, chain.thought, chain.tokens) == ("stopped", (50, 51), [*PROMPT, 50, 51, *FORCED])


def test_a_rule_puts_tokens_in_the_place_of_the_models():
    chain = steered(rule=Scripted(_50=[60, 61], _90=[62]))
    assert think(chain, 50, CLOSE, 51) == [3, 5, 6]
    assert chain.tokens == [*PROMPT, 60, 61, 62, 51]


def test_forced_tokens_may_close_the_chain_and_stop_at_the_limit():
    chain = steered(rule=Scripted(_50=[60, CLOSE, 61]))
    think(chain, 50)
    assert (chain.ended, chain.thought) == ("closed", (60,))
    chain = steered(limit=2, rule=Scripted(_50=[60, 61, 62]))
    think(chain, 50)
    assert (chain.ended, chain.thought) == ("budget", (60, 61))


def test_a_rule_that_forces_nothing_leaves_the_token():
    chain = steered(rule=Scripted(_50=[]))
    think(chain, 50)
    assert chain.tokens == [*PROMPT, 50]


def test_a_rule_that_fails_says_which_and_how():
    chain = steered(rule=Scripted(_50=["x"]))
    with pytest.raises(SteeringError, match="rule Scripted failed: ValueError"):
        think(chain, 50)


def test_every_pair_has_the_rule_unless_it_gives_each_its_own():
    class Counting(Rule):
        def for_pair(self, index):
            return {0: self, 1: Scripted(), 2: EarlyExit()}[index]

    rule = Counting()
    assert Scripted.for_pair(rule, 5) is rule
    assert rule_for_pair(rule, 0) is rule
    assert isinstance(rule_for_pair(rule, 1), Scripted)
    with pytest.raises(SteeringError, match="reads the same beliefs"):
        rule_for_pair(rule, 2)
    with pytest.raises(SteeringError, match="rule Counting failed: KeyError"):
        rule_for_pair(rule, 3)


@pytest.mark.parametrize(
    ("log_odds", "stops"),
    [
        ([], False),
        ([9.0], False),  # the start counts for nothing
        ([9.0, 5.0], False),
        ([0.0, 5.0, 4.1], True),
        ([0.0, -5.0, -4.1], True),
        ([0.0, -5.0, 5.0], False),
        ([0.0, 5.0, 4.0], False),
        ([0.0, 1.0, 5.0, 6.0], True),
        ([0.0, 5.0, 6.0, 1.0], False),
    ],
)
def test_an_early_exit_wants_settled_beliefs(log_odds: list[float], stops: bool):
    beliefs = [BeliefPoint(3 * i, value) for i, value in enumerate(log_odds)]
    assert EarlyExit(log_odds=4.0, sentences=2).stop([50], beliefs) is stops


@pytest.mark.parametrize("answer", ["no", "", float("nan"), 0, 1, [], np.array([True, False])], ids=repr)
def test_a_rule_that_says_neither_yes_nor_no_to_stopping_has_failed(answer: object):
    class Vague(Rule):
        def stop(self, thought, beliefs):
            return answer

    with pytest.raises(SteeringError, match="rule Vague failed: TypeError: what stop returns must be True or False"):
        steered(rule=Vague()).advance(50)


def test_a_rule_without_an_answer_does_not_stop():
    class Silent(Rule):
        def stop(self, thought, beliefs):
            thought.count(50)

    steered(rule=Silent()).advance(50)


@pytest.mark.parametrize("yes", [True, np.True_, np.float32(5) > 4, torch.tensor(5) > 4])
def test_a_rule_may_say_yes_as_numpy_and_torch_do(yes: object):
    class Stopping(Rule):
        def stop(self, thought, beliefs):
            return yes

    chain = steered(rule=Stopping())
    think(chain, 50)
    assert chain.ended == "stopped"


@pytest.mark.parametrize(
    "thresholds",
    [
        {"log_odds": 0.0},
        {"log_odds": float("nan")},
        {"log_odds": "4"},
        {"log_odds": None},
        {"log_odds": True},
        {"log_odds": [4]},
        {"sentences": 0},
        {"sentences": "2"},
        {"sentences": 2.0},
    ],
    ids=repr,
)
def test_thresholds_that_make_no_sense_are_refused(thresholds):
    with pytest.raises(ValueError, match="log_odds above 0 and at least 1 sentence"):
        EarlyExit(**thresholds)
