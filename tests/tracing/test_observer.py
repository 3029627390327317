"""Observers see every pair as full forward passes see it, and change nothing."""

import os
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from rank1_hf import Observer, Rank1
from rank1_hf.chains.chain import Chain
from rank1_hf.decoding.kv_cache import PAGE_SIZE
from rank1_hf.decoding.requests import Request
from rank1_hf.decoding.watcher import Needs, Reading
from rank1_hf.results.judgment import Judgment
from rank1_hf.tracing.observer import Observed, WatchedPair, check_observers
from tests import tiny_models
from tests.chains.made import rules
from tests.decoding.oracle import SHAPES, Oracle, assert_same
from tests.decoding.test_graphs import Recorder, recorder  # noqa: F401, a fixture
from tests.decoding.test_reproducible import decoder as reproducible_decoder

PAIRS = [("how do wings carry an aeroplane?", line) for line in tiny_models.TEXT.splitlines()[:6] if line]


class Everything(Observer):
    """Keeps all that it is given, for the heads and layers of a model."""

    def __init__(self, n_layers: int, n_heads: int) -> None:
        self.step_needs = self.verdict_needs = Needs(
            scores=True,
            logits=True,
            hidden_states=frozenset(range(n_layers)),
            attention=frozenset((i, j) for i in range(n_layers) for j in range(n_heads)),
            kv=True,
        )
        self.moments: dict[int, list[str]] = {}
        self.said: dict[int, list[int]] = {}
        self.readings: dict[int, list[tuple[tuple[int, ...], Reading, list[tuple[torch.Tensor, torch.Tensor]]]]] = {}
        self._contexts: dict[int, tuple[int, ...]] = {}

    def note(self, moment: str, pair: WatchedPair) -> None:
        self.moments.setdefault(pair.index, []).append(moment)

    def keep(self, pair: WatchedPair, context: tuple[int, ...], reading: Reading) -> None:
        assert pair.n_seen == len(context)
        kv = [reading.kv(layer) for layer in sorted(reading.hidden_states)]
        self.readings.setdefault(pair.index, []).append((context, reading, kv))

    def admitted(self, pair):
        self.note("admitted", pair)
        self._contexts[pair.index] = pair.context

    def prefilled(self, pair):
        self.note("prefilled", pair)

    def step(self, pair, token, reading):
        self.note("step", pair)
        self.said.setdefault(pair.index, []).append(token)
        self.keep(pair, self._contexts[pair.index], reading)
        self._contexts[pair.index] = pair.context

    def closed(self, pair):
        self.note(pair.ended, pair)

    def verdict(self, pair, reading):
        self.note("verdict", pair)
        self.keep(pair, pair.context, reading)

    def preempted(self, pair):
        self.note("preempted", pair)


def watched(requests: list[Request], observer: Observer) -> list[Request]:
    return [replace(request, watcher=Observed([observer], request.index, request.prompt)) for request in requests]


def everything(oracle: Oracle) -> Everything:
    return Everything(oracle.model.config.num_hidden_layers, oracle.model.config.num_attention_heads)


@torch.inference_mode()
def assert_read_as_by_a_full_forward_pass(observer: Everything, oracle: Oracle, model: torch.nn.Module) -> int:
    """Every reading, against Transformers' eager attention over the whole context. Returns how many there were."""
    n_readings = 0
    for context, reading, kv in (each for of_pair in observer.readings.values() for each in of_pair):
        n_readings += 1
        outputs = []
        hooks = [
            layer.register_forward_hook(lambda module, args, output, outputs=outputs: outputs.append(output[0, -1]))
            for layer in model.model.layers
        ]
        full = model(input_ids=torch.tensor([context]), output_attentions=True, use_cache=True)
        for hook in hooks:
            hook.remove()
        close = {"atol": 1e-4, "rtol": 1e-4}
        torch.testing.assert_close(reading.logits, full.logits[0, -1], **close)
        for layer, (states, weights) in enumerate(zip(outputs, full.attentions, strict=True)):
            torch.testing.assert_close(reading.hidden_states[layer], states, **close)
            read = torch.stack([reading.attention[layer, head] for head in range(weights.shape[1])])
            torch.testing.assert_close(read, weights[0, :, -1], **close)
            keys, values = kv[layer]
            window = full.past_key_values.layers[layer].keys.shape[2]  # a sliding layer keeps no more
            assert keys.shape[1] == values.shape[1] == len(context)
            torch.testing.assert_close(keys[:, -window:], full.past_key_values.layers[layer].keys[0], **close)
            torch.testing.assert_close(values[:, -window:], full.past_key_values.layers[layer].values[0], **close)
        probabilities = reading.logits.double().softmax(-1)
        best, ids = reading.logits.topk(2)
        assert reading.scores.token == ids[0]
        assert reading.scores.alternative == ids[1]
        assert reading.scores.margin == pytest.approx(float(best[0] - best[1]), abs=1e-5)
        assert reading.scores.logprob == pytest.approx(float(probabilities[ids[0]].log()), abs=1e-5)
        assert reading.scores.entropy == pytest.approx(
            -float((probabilities * probabilities.clamp(min=1e-300).log()).sum()), abs=1e-4
        )
    return n_readings


@pytest.fixture
def eager(case) -> Callable[[str], torch.nn.Module]:
    return lambda shape: Oracle.load(case(shape)[0]).model.__class__.from_pretrained(
        case(shape)[0], dtype=torch.float32, attn_implementation="eager"
    )


@pytest.mark.parametrize("shape", ["qwen2", "mistral-sliding", "llama-one-kv-head", "qwen2-repeats-itself"])
def test_what_is_read_is_what_a_full_forward_pass_computes(case, eager, shape: str):
    folder, oracle, requests, expected = case(shape)
    observer = everything(oracle)
    decoder = oracle.decoder(folder, step_overhead_tokens=24)
    assert_same(list(decoder.run(watched(requests[:4], observer), max_rows=2)), expected[:4])
    n_tokens = sum(len(result.thought) + (result.ended != "budget") for result in expected[:4])
    assert assert_read_as_by_a_full_forward_pass(observer, oracle, eager(shape)) == n_tokens + 4


FEW = SHAPES if "RANK1_SLOW" in os.environ else ["qwen2", "mistral-sliding", "pieces"]
"""The shapes of rows that are preempted, or draft."""

CASES = [*product([{}], SHAPES), *product([{"kv_cache_tokens": 400}, {"step_overhead_tokens": 64}], FEW)]


@pytest.mark.parametrize(("options", "shape"), CASES, ids=str)
def test_chains_are_as_without_observers_and_tokens_come_in_order(case, shape: str, options: dict[str, int]):
    folder, oracle, requests, expected = case(shape)
    observer = everything(oracle)
    assert_same(list(oracle.decoder(folder, **options).run(watched(requests, observer), max_rows=4)), expected)
    for result in expected:
        said, n_thought = observer.said[result.index], len(result.thought)
        assert said[:n_thought] == list(result.thought)
        assert len(said) - n_thought == {"closed": len(oracle.encoder.close_ids), "eos": 1, "budget": 0}[result.ended]
        moments = observer.moments[result.index]
        lived = [moment for moment in moments if moment not in ("admitted", "prefilled", "preempted")]
        assert lived == ["step"] * len(observer.said[result.index]) + [result.ended, "verdict"]
        n_admitted = moments.count("admitted")
        assert moments[0] == "admitted"
        assert n_admitted == moments.count("preempted") + 1
        assert 1 <= moments.count("prefilled") <= n_admitted
        assert moments.index("prefilled") < moments.index("step")


def test_preemption_is_seen(case):
    folder, oracle, requests, expected = case("qwen2")
    observer = everything(oracle)
    decoder = oracle.decoder(folder, kv_cache_tokens=5 * PAGE_SIZE)
    long_thinkers = [d for d in sorted(expected, key=lambda d: -len(d.thought))[:2] for _ in range(4)]
    rows = [replace(requests[d.index], index=i, n_shared=0) for i, d in enumerate(long_thinkers)]
    again = [replace(d, index=i) for i, d in enumerate(long_thinkers)]
    assert_same(list(decoder.run(watched(rows, observer))), again)
    for result in again:
        n_thought = len(result.thought)
        assert observer.said[result.index][:n_thought] == list(result.thought)
        assert len(observer.said[result.index]) <= n_thought + 1, "a step was seen twice"
    assert sum(moments.count("preempted") for moments in observer.moments.values()) == decoder.stats.preemptions > 0


def test_reproducible_bits_are_the_same_with_observers(case):
    folder, oracle, requests, _ = case("qwen2")
    expected = list(reproducible_decoder(oracle, folder, torch.bfloat16).run(requests, max_rows=4))
    seen = reproducible_decoder(oracle, folder, torch.bfloat16).run(watched(requests, everything(oracle)), max_rows=4)
    assert list(seen) == expected


class Counting(Observer):
    """Needs nothing but the tokens."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []

    def step(self, pair, token, reading):
        self.readings.append(reading)


def test_nothing_is_computed_that_nobody_asked_for(case, monkeypatch):
    folder, oracle, requests, expected = case("qwen2")

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("nobody asked for this")

    for name in ("listening", "found", "attended", "reading"):
        monkeypatch.setattr(f"rank1_hf.decoding.probe.Probe.{name}", refuse)
    observer = Counting()
    assert_same(list(oracle.decoder(folder).run(watched(requests, observer))), expected)
    assert all(
        (r.scores, r.logits, r.hidden_states, r.attention, r.kv) == (None, None, {}, {}, None)
        for r in observer.readings
    )


def test_each_observer_is_given_what_it_asked_for(case):
    folder, oracle, requests, _ = case("qwen2")
    curious, modest, counting = everything(oracle), Counting(), Counting()
    modest.step_needs = Needs(hidden_states=frozenset({1}), attention=frozenset({(0, 3)}))
    request = replace(requests[2], watcher=Observed([curious, modest, counting], requests[2].index, requests[2].prompt))
    list(oracle.decoder(folder).run([request]))
    assert {tuple(r.hidden_states) for r in modest.readings} == {(1,)}
    assert {tuple(r.attention) for r in modest.readings} == {((0, 3),)}
    assert {(r.scores, r.logits, r.kv) for r in modest.readings} == {(None, None, None)}
    assert {tuple(r.hidden_states) for r in counting.readings} == {()}


def test_observers_who_need_nothing_leave_captured_steps_alone(case, recorder: Recorder):  # noqa: F811
    folder, oracle, requests, expected = case("qwen2")
    decoder = oracle.decoder(folder)
    assert_same(list(decoder.run(watched(requests, Counting()))), expected)
    assert decoder.stats.captured_steps > decoder.stats.steps / 2


class Failing(Observer):
    """Fails at one moment of one pair."""

    def __init__(self, moment: str, index: int) -> None:
        self.seen: list[tuple[str, int]] = []
        for name in ("admitted", "prefilled", "step", "closed", "verdict", "finished"):
            setattr(
                self,
                name,
                lambda pair, *rest, name=name: self._see(name, pair, fails=(name, pair.index) == (moment, index)),
            )

    def _see(self, name: str, pair: WatchedPair, *, fails: bool) -> None:
        self.seen.append((name, pair.index))
        if fails:
            raise ZeroDivisionError("half-way")


@pytest.mark.parametrize("moment", ["admitted", "prefilled", "step", "closed", "verdict", "finished"])
def test_an_observer_that_raises_loses_its_view_of_that_pair_and_nothing_else(checkpoint, caplog, moment: str):
    reranker = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=8)
    plain = reranker.judge(PAIRS)
    failing, other = Failing(moment, 1), Failing("never", 0)
    assert reranker.judge(PAIRS, observers=[failing, other]) == plain
    assert "the observer Failing failed at pair 1" in caplog.text
    assert "ZeroDivisionError: half-way" in caplog.text
    assert [seen for seen in failing.seen if seen[1] == 1][-1] == (moment, 1)
    assert [s for s in failing.seen if s[1] != 1] == [s for s in other.seen if s[1] != 1]
    assert ("finished", 1) in other.seen


def test_finished_brings_the_judgment_that_the_caller_gets(checkpoint):
    reranker = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=8)
    finished: list[Judgment] = []

    class Last(Observer):
        def finished(self, pair, judgment):
            assert pair.index == judgment.index
            finished.append(judgment)

    judgments = reranker.judge([*PAIRS, PAIRS[0]], observers=[Last()])
    assert sorted(finished, key=lambda judgment: judgment.index) == judgments[:-1]


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (Needs(hidden_states=frozenset({2})), r"needs layers \[2\], and the model has layers 0 to 1"),
        (Needs(attention=frozenset({(-1, 0)})), r"needs layers \[-1\]"),
        (Needs(attention=frozenset({(0, 4)})), r"needs heads \[4\], and the model has heads 0 to 3"),
    ],
)
def test_what_the_model_does_not_have_is_refused_before_any_work(checkpoint: Callable[..., Path], needs, message: str):
    observer = Counting()
    observer.verdict_needs = needs
    with pytest.raises(ValueError, match=message):
        Rank1(checkpoint("qwen2"), device="cpu").judge(PAIRS, observers=[observer])


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (Needs(hidden_states=frozenset({2.0})), r"hidden_states=.*2\.0.*layers are whole numbers, as in \{2\}"),
        (Needs(hidden_states=frozenset({True})), "layers are whole numbers"),
        (Needs(hidden_states=frozenset({"1"})), "layers are whole numbers"),
        (Needs(hidden_states=1), "hidden_states=1; layers are whole numbers"),
        (Needs(hidden_states=[1]), "layers are whole numbers"),
        (Needs(hidden_states=None), "layers are whole numbers"),
        (Needs(attention={1}), r"attention=\{1\}; heads are \(layer, head\) in whole numbers, as in \{\(2, 0\)\}"),
        (Needs(attention=(1, 0)), "heads are"),
        (Needs(attention=frozenset({(1, 0.0)})), "heads are"),
        (Needs(attention=frozenset({(1, 0, 0)})), "heads are"),
        (Needs(attention=frozenset({(False, 0)})), "heads are"),
        (Needs(logits="no"), "logits='no'; it is True or False"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("moment", ["step_needs", "verdict_needs"])
def test_needs_of_another_type_are_refused_at_once(needs: Needs, message: str, moment: str):
    observer = Counting()
    setattr(observer, moment, needs)
    with pytest.raises(TypeError, match=f"Counting needs .*{message}"):
        check_observers([observer], n_layers=3, n_heads=4)


def test_layers_may_be_a_plain_set_of_numpys_numbers():
    observer = Counting()
    observer.step_needs = Needs(hidden_states={np.int64(1)}, attention={(np.int64(1), 0)})
    check_observers([observer], n_layers=3, n_heads=4)


def test_what_is_no_observer_is_refused(checkpoint: Callable[..., Path]):
    with pytest.raises(TypeError, match=r"subclass of rank1_hf\.tracing\.Observer"):
        Rank1(checkpoint("qwen2"), device="cpu").judge(PAIRS, observers=[print])


class Changing(Counting):
    """Asks for something else behind so many tokens of a pair."""

    def __init__(self, first: object, then: object, after: int = 3) -> None:
        super().__init__()
        self.step_needs, self.then, self.after = first, then, after

    def step(self, pair, token, reading):
        super().step(pair, token, reading)
        if len(self.readings) == self.after:
            self.step_needs = self.then


HIDDEN = Needs(hidden_states=frozenset({1}))


@pytest.mark.parametrize(("first", "then"), [(Needs(), HIDDEN), (HIDDEN, Needs()), (HIDDEN, Needs(logits=True))])
def test_needs_that_change_count_from_the_next_step_on(case, first: Needs, then: Needs):
    folder, oracle, requests, expected = case("qwen2")
    observer, other = Changing(first, then), everything(oracle)
    request = replace(requests[2], watcher=Observed([observer, other], requests[2].index, requests[2].prompt))
    decoder = oracle.decoder(folder, speculate=False)
    assert_same(list(decoder.run([request])), [expected[2]])
    assert len(observer.readings) > 4
    for at, reading in enumerate(observer.readings):
        needs = first if at < 3 else then
        assert set(reading.hidden_states) == needs.hidden_states
        assert (reading.logits is not None) == needs.logits
    assert len(other.said[2]) == len(observer.readings)


def test_needs_that_change_in_the_midst_of_a_draft_count_behind_it(case, caplog):
    folder, oracle, requests, expected = case("qwen2-repeats-itself")
    decoder = oracle.decoder(folder, step_overhead_tokens=24)
    observers = {each.index: [Changing(Needs(), HIDDEN, after=after) for after in range(1, 9)] for each in requests}
    watching = [replace(each, watcher=Observed(observers[each.index], each.index, each.prompt)) for each in requests]
    assert_same(list(decoder.run(watching, max_rows=2)), expected)
    assert decoder.stats.accepted_tokens > 0
    assert not caplog.text, "an observer has failed"
    for observer in (each for of_pair in observers.values() for each in of_pair):
        has = [bool(reading.hidden_states) for reading in observer.readings]
        assert not any(has[: observer.after])
        assert has == sorted(has), "once asked for, it is there"
        assert all(has[observer.after + 16 :])


def test_needs_are_those_of_each_call(checkpoint):
    reranker, observer = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=4), Counting()
    for needs in (Needs(), HIDDEN, Needs()):
        observer.step_needs, observer.readings = needs, []
        reranker.judge(PAIRS[:2], observers=[observer])
        assert {frozenset(reading.hidden_states) for reading in observer.readings} == {needs.hidden_states}


@pytest.mark.parametrize("wrong", [Needs(hidden_states=frozenset({9})), Needs(attention=frozenset({(0, 9)})), "all"])
def test_needs_that_become_wrong_cost_the_observer_and_no_pair(checkpoint, caplog, wrong):
    reranker = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=8)
    plain, other = reranker.judge(PAIRS[:3]), Counting()
    assert reranker.judge(PAIRS[:3], observers=[Changing(Needs(), wrong), other]) == plain
    assert "the observer Changing failed at pair" in caplog.text
    assert len(other.readings) >= sum(judgment.n_chain_tokens for judgment in plain)


def test_what_was_not_asked_for_is_named_where_it_is_read():
    asked = Reading(None, None, {1: torch.ones(1)}, {(0, 3): torch.ones(1)}, None)
    observer = Counting()
    observed = Observed([observer], 0, [5])
    chain = Chain([5], rules(), limit=4)
    for needs in (Needs(), Needs(hidden_states=frozenset({1}), attention=frozenset({(0, 3)}))):
        observer.step_needs = needs
        observed.needs(verdict=False)
        observed.notify("step", chain, 1, 7, asked)
        with pytest.raises(KeyError, match="layer 2 was not asked for: set step_needs"):
            observer.readings[-1].hidden_states[2]
        with pytest.raises(KeyError, match=r"\(layer, head\) \(1, 0\) was not asked for"):
            observer.readings[-1].attention[1, 0]
    assert observer.readings[-1].hidden_states == asked.hidden_states
