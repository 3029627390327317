"""The plain loop against full forward passes without any cache, which need no loop of ours."""

import math
from dataclasses import replace

import pytest
import torch
from transformers import LogitsProcessor

from rank1_hf.chains.rules import Rule
from rank1_hf.chains.steering import Steering
from rank1_hf.decoding.plain import PlainDecoder
from tests.decoding.oracle import SHAPES


@pytest.mark.parametrize("shape", SHAPES)
def test_every_token_is_the_likeliest_of_a_full_forward_pass(case, shape: str):
    _, oracle, requests, expected = case(shape)
    for request, decoded in zip(requests, expected, strict=True):
        prompt, thought, close = list(request.prompt), list(decoded.thought), list(oracle.encoder.close_ids)
        said = [int(oracle.next_logits(prompt + thought[:n]).argmax()) for n in range(len(thought) + 1)]
        assert said[:-1] == thought
        if decoded.ended == "closed":
            assert said[-1] == close[0]
        elif decoded.ended == "eos":
            assert said[-1] in oracle.eos
        else:
            assert (decoded.ended, len(thought)) == (request.limit_reason, request.limit)
        closed = prompt + thought + close if decoded.ended == "closed" else oracle.encoder.force_close(prompt, thought)
        verdict = oracle.next_logits(closed)
        assert abs(float(verdict[oracle.encoder.true_id]) - decoded.true_logit) < 1e-3
        assert abs(float(verdict[oracle.encoder.false_id]) - decoded.false_logit) < 1e-3


def test_requests_that_come_over_time(case):
    _, oracle, requests, expected = case("qwen2")
    plain = oracle.plain()
    steps = list(plain.steps([requests[0], None, requests[1]]))
    assert [[decoded.thought for decoded in step] for step in steps] == [
        [expected[0].thought],
        [],
        [expected[1].thought],
    ]


def test_a_model_that_breaks_costs_its_pair(case):
    _, oracle, requests, _ = case("qwen2")
    plain = PlainDecoder(_Broken(oracle.model), oracle.encoder.chain_rules(oracle.eos), true_id=1, false_id=2)
    decoded = plain.decode(requests[0])
    assert decoded.ended is None
    assert math.isnan(decoded.true_logit)
    assert "not finite" in decoded.error


class _Broken:
    """Gives NaN for a logit."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._model, self.device = model, model.device

    def eval(self) -> "_Broken":
        return self

    def __call__(self, *inputs, **options):
        output = self._model(*inputs, **options)
        output.logits[..., 3] = math.nan
        return output


class Shouting(LogitsProcessor):
    """Always the same token."""

    def __init__(self, token: int) -> None:
        self.token = token

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, -math.inf).index_fill(1, torch.tensor([self.token]), 0.0)


class Silent(LogitsProcessor):
    """No token at all."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, -math.inf)


class BehindThreeBeliefs(Rule):
    reads_beliefs = True

    def stop(self, thought, beliefs):
        return len(beliefs) == 3


class AfterFour(Rule):
    def stop(self, thought, beliefs):
        return len(thought) >= 4


def test_it_is_steered_as_the_engine_is(case):
    folder, oracle, requests, _ = case("qwen2")
    steered = [
        replace(requests[3], processor=Shouting(oracle.encoder.close_ids[0])),
        replace(requests[3], processor=Silent()),
        replace(requests[3], steering=Steering(rule=AfterFour())),
        replace(requests[3], steering=Steering(belief_at=lambda thought: len(thought) % 5 == 0)),
        replace(requests[3], steering=Steering(min_tokens=12)),
        replace(requests[3], steering=Steering(rule=BehindThreeBeliefs(), belief_at=lambda thought: len(thought) < 9)),
    ]
    steered = [replace(request, index=i) for i, request in enumerate(steered)]
    plain = [oracle.plain().decode(request) for request in steered]
    engine = sorted(oracle.decoder(folder).run(steered), key=lambda decoded: decoded.index)
    for ours, theirs in zip(plain, engine, strict=True):
        assert (list(ours.thought), ours.ended, ours.error) == (list(theirs.thought), theirs.ended, theirs.error)
        assert [point.n_tokens for point in ours.beliefs] == [point.n_tokens for point in theirs.beliefs]
        for a, b in zip(ours.beliefs, theirs.beliefs, strict=True):
            assert abs(a.log_odds - b.log_odds) < 1e-3
    assert len(plain[3].beliefs) > 1
    assert (plain[5].ended, len(plain[5].thought)) == ("stopped", 3), "the first call knows no belief"
