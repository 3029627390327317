"""One set of options, taken by all methods that judge pairs."""

import pytest
import torch
from transformers import SuppressTokensLogitsProcessor

from rank1_hf import EarlyExit, Interrupted, Rank1, Rule, TraceOptions
from rank1_hf.results.judgment import Judgment
from rank1_hf.tracing import Observer
from tests import tiny_models

QUERY, PASSAGES = "how do wings carry an aeroplane?", tiny_models.TEXT.splitlines()[:3]
PASSAGE = PASSAGES[0]
INSTRUCTION = "Only passages about wings."
WAYS = {
    "judge": lambda model, **options: model.judge([(QUERY, PASSAGE)], **options)[0].log_odds,
    "judge, stream": lambda model, **options: next(model.judge([(QUERY, PASSAGE)], stream=True, **options)).log_odds,
    "rank": lambda model, **options: model.rank(QUERY, [PASSAGE], **options)[0]["log_odds"],
    "predict": lambda model, **options: model.predict([(QUERY, PASSAGE)], activation_fn=torch.nn.Identity(), **options)[
        0
    ],
    "trace": lambda model, **options: model.trace(QUERY, PASSAGE, **options).lens[-1],
    "lens": lambda model, **options: model.lens(QUERY, PASSAGE, **options).log_odds[-1],
    "stream": lambda model, **options: list(model.stream(QUERY, PASSAGE, **options))[-1].log_odds,
    "score_chain": lambda model, **options: model.score_chain(QUERY, PASSAGE, "", resume=True, **options).log_odds,
}


class Short(Rule):
    def stop(self, thought, beliefs):
        return len(thought) == 3


class Counting(Observer):
    def __init__(self) -> None:
        self.judgments: list[Judgment] = []

    def finished(self, pair, judgment):
        self.judgments.append(judgment)


@pytest.fixture
def model(checkpoint) -> Rank1:
    return Rank1(checkpoint("qwen2"), device="cpu", dtype="float32", max_new_tokens=12)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("option", ["instruction", "rule", "logits_processor", "think"])
def test_every_method_takes_every_option(model, way: str, option: str):
    (plain,) = model.judge([(QUERY, PASSAGE)], trace=True)
    options = {
        "instruction": INSTRUCTION,
        "rule": Short(),
        "logits_processor": SuppressTokensLogitsProcessor(list(plain.trace.token_ids[:2]), device="cpu"),
        "think": False,
    }
    chosen, observer = {option: options[option]}, Counting()
    query = {"text": QUERY, "instruction": INSTRUCTION} if option == "instruction" else QUERY
    expected = model.judge([(query, PASSAGE)], **({} if option == "instruction" else chosen))[0]
    assert expected.log_odds != plain.log_odds
    assert WAYS[way](model, observers=[observer], **chosen) == pytest.approx(expected.log_odds, abs=1e-4)
    assert [judgment.chain for judgment in observer.judgments] == [expected.chain]


def test_a_querys_own_instruction_goes_before_that_of_the_call(model):
    own = ({"text": QUERY, "instruction": "Birds."}, PASSAGE)
    alone = model.judge([own])[0]
    together = model.judge([own, (QUERY, PASSAGE), (QUERY, None), (" ", PASSAGE)], instruction=INSTRUCTION)
    assert together[0].log_odds == pytest.approx(alone.log_odds, abs=1e-4)
    assert together[1].n_prompt_tokens > model.judge([(QUERY, PASSAGE)])[0].n_prompt_tokens
    assert "passage must be a string" in together[2].error
    assert "query is blank" in together[3].error


def test_given_chains_take_instructions_and_a_ranking_traces(model):
    scored = model.score_chains([(QUERY, PASSAGE)], ["It is."], instruction=INSTRUCTION)[0]
    same = model.score_chain({"text": QUERY, "instruction": INSTRUCTION}, PASSAGE, "It is.")
    assert scored.log_odds == pytest.approx(same.log_odds, abs=1e-4)
    assert all(judgment.trace for judgment in model.rank(QUERY, PASSAGES, trace=True).judgments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.predict([(QUERY, PASSAGE)], trace=True), "predict takes no trace: .*use judge"),
        (lambda model: model.lens(QUERY, PASSAGE, trace=True), "lens takes no trace: .*use judge"),
        (lambda model: model.trace(QUERY, PASSAGE, trace=True), "trace takes no trace"),
        (lambda model: model.rank(QUERY, PASSAGES, stream=True), "rank takes no stream=True: judge"),
        (lambda model: model.stream(QUERY, PASSAGE, stream=True), "stream takes no stream=True"),
        (lambda model: model.score_chain(QUERY, PASSAGE, "It.", rule=Short()), "score_chain takes no rule: .*resume"),
        (lambda model: model.score_chains([(QUERY, PASSAGE)], ["It."], think=False), "score_chains takes no think"),
        (lambda model: model.stream(QUERY, PASSAGE, observers=["me"]), "an observer is an object"),
        (lambda model: model.judge([(QUERY, PASSAGE)], ruel=Short()), r"an unexpected .*; did you mean 'rule'"),
        (lambda model: model.rank(QUERY, PASSAGES, topk=2), r"an unexpected .*; did you mean 'top_k'"),
        (
            lambda model: model.predict([(QUERY, PASSAGE)], temperature=0),
            "takes no temperature: .* give a logits_proc",
        ),
        (lambda model: model.predict([(QUERY, PASSAGE)], xyz=0), r"predict\(\) got an unexpected .* 'xyz'$"),
        (lambda model: model.judge([(QUERY, PASSAGE)], max_new_tokens=5), r"takes no max_new_tokens, .* Rank1\(max"),
        (lambda model: model.judge([(QUERY, PASSAGE)], rule=EarlyExit), r"; write EarlyExit\(\)$"),
        (lambda model: model.judge([(QUERY, PASSAGE)], observers=[Counting]), r"; write Counting\(\)$"),
        (lambda model: model.predict([(QUERY, PASSAGE)], instruction=5), "an instruction is text, not 5"),
        (lambda model: model.judge([(QUERY, PASSAGE)], stream="yes"), "stream is a function that .*, not 'yes'"),
        (lambda model: model.score_chain(QUERY, PASSAGE, "It.", stream=True), "score_chain takes no stream=True"),
        (lambda model: model.judge([(QUERY, PASSAGE)], observers=Counting()), r"give a list: \[obs\]"),
        (lambda model: model.judge([(QUERY, PASSAGE)], observers=5), r"a list of observers, as in \[obs\], not 5"),
        (lambda model: model.judge([(QUERY, PASSAGE)], observers=Counting), "a list of observers"),
        (lambda model: model.judge([(QUERY, PASSAGE)], observers="me"), "a list of observers"),
        (lambda model: model.judge([(QUERY, PASSAGE)], resume_from="chains.jsonl"), "takes a list of judgments"),
        (lambda model: model.judge([(QUERY, PASSAGE)], resume_from=[5]), "takes judgments, as Interrupted"),
        (lambda model: model.judge([(QUERY, PASSAGE)], resume_from=Judgment.failed(0, "")), "a list of judgments"),
        (lambda model: model.judge([(QUERY, PASSAGE)], stream=True, resume_from=ValueError()), "a list of judgments"),
        (lambda model: model.judge([(QUERY, PASSAGE)], trace="sentences"), r"True, False or TraceOptions\(\.\.\.\)"),
        (lambda model: model.judge([(QUERY, PASSAGE)], trace=1), "trace is True, False or .*, not 1"),
        (lambda model: model.rank(QUERY, PASSAGES, trace=TraceOptions), "trace is True, False or"),
        (lambda model: model.trace(QUERY, PASSAGE, lens="no"), "lens of a trace must be True or False, not 'no'"),
        (lambda model: model.judge([(QUERY, PASSAGE)], think=None), "think is True or False, not None"),
        (lambda model: model.predict([(QUERY, PASSAGE)], think="no"), "think is True or False, not 'no'"),
        (lambda model: model.rank(QUERY, PASSAGES, think=0), "think is True or False, not 0"),
        (lambda model: model.judge([(QUERY, PASSAGE)], keeper="a file"), "a keeper has the methods generated and keep"),
        (lambda model: model.score_chain(QUERY, PASSAGE, "It.", resume="no"), "resume must be True or False, not 'no'"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(model, call, message: str):
    with pytest.raises(TypeError, match=message):
        call(model)
    assert model.decoder.stats.steps == 0


def test_none_is_no_observer_nothing_to_resume_and_no_trace(model):
    (expected,) = model.judge([(QUERY, PASSAGE)])
    (judgment,) = model.judge([(QUERY, PASSAGE)], observers=None, resume_from=None, trace=None)
    assert judgment == expected
    assert model.score_chain(QUERY, PASSAGE, "It is.", resume_from=None, observers=None).error is None


def test_an_interrupt_can_be_resumed_from_as_it_was_caught(model):
    (expected,) = model.judge([(QUERY, PASSAGE)])
    n_steps = model.decoder.stats.steps
    assert model.judge([(QUERY, PASSAGE)], resume_from=Interrupted([expected])) == [expected]
    assert model.decoder.stats.steps == n_steps


def test_observers_may_come_from_a_generator(model):
    observer = Counting()
    model.rank(QUERY, [PASSAGE], observers=(each for each in [observer]))
    assert len(observer.judgments) == 1


@pytest.mark.parametrize("close", ["forced", None])
def test_a_chain_that_goes_on_is_not_closed(model, close):
    with pytest.raises(ValueError, match=r"leave out close=.*, or resume"):
        model.score_chain(QUERY, PASSAGE, "It is.", resume=True, close=close)
    assert model.decoder.stats.steps == 0


class Misspelt(Rule):
    def stops(self, thought, beliefs):
        return True


class MisspeltToo(Observer):
    def on_step(self, pair, token, reading):
        raise AssertionError


def test_a_subclass_that_is_never_called_is_warned_of_once(model):
    with pytest.warns(UserWarning, match="Misspelt overrides no method of Rule, .* for_pair, stop, force") as warned:
        model.judge([(QUERY, PASSAGE), (QUERY, PASSAGES[1])], rule=Misspelt())
    assert [warning.filename for warning in warned] == [__file__]
    with pytest.warns(UserWarning, match="MisspeltToo overrides .* admitted, prefilled, step, .* preempted") as warned:
        model.rank(QUERY, [PASSAGE], observers=[MisspeltToo()])
    assert len(warned) == 1


@pytest.mark.parametrize(
    ("base", "name", "meant"),
    [
        (Rule, "reads_belief", "reads_beliefs"),
        (EarlyExit, "read_belief", "reads_beliefs"),
        (Rule, "beliefs_at", "belief_at"),
        (Observer, "step_need", "step_needs"),
        (Counting, "verdicts_needs", "verdict_needs"),
    ],
)
def test_an_attribute_that_is_nearly_one_of_the_base_is_refused(base: type, name: str, meant: str):
    with pytest.raises(TypeError, match=rf"Mine\.{name} has no meaning; did you mean '{meant}'\?"):
        type("Mine", (base,), {name: True})


@pytest.mark.parametrize("name", ["belief_at", "_step_needs", "beliefs", "steps", "stops", "needs", "verdicts"])
def test_other_attributes_are_the_callers_own(name: str):
    type("Mine", (EarlyExit, Observer), {name: 3})


def test_who_overrides_something_is_not_warned_of(model, recwarn):
    class Later(Observer):
        def __init__(self) -> None:
            self.finished = lambda pair, judgment: None

    model.judge([(QUERY, PASSAGE)], observers=[Later(), Counting(), Observer()], rule=type("Shorter", (Short,), {})())
    assert not [each for each in recwarn if "overrides" in str(each.message)]


@pytest.mark.parametrize("key", [1, -1, "0", None])
def test_a_processor_for_a_pair_that_there_is_not_is_refused(model, key: object):
    with pytest.raises(ValueError, match=f"logits_processor has one for pair {key!r}, and there are 1 pairs"):
        model.judge([(QUERY, PASSAGE)], logits_processor={key: lambda ids, scores: scores})


def test_two_rules_are_refused(model):
    with pytest.raises(ValueError, match="early_exit is a rule by itself"):
        model.rank(QUERY, PASSAGES, top_k=1, early_exit="top_k", rule=EarlyExit())


STREAMS = WAYS | {
    "score_chains": lambda model, **options: model.score_chains([(QUERY, PASSAGE)], ["It is."], **options)[0].log_odds,
}


@pytest.mark.parametrize("way", [way for way in STREAMS if way != "judge, stream"])
def test_every_method_calls_who_streams(model, way: str):
    judgments: list[Judgment] = []
    log_odds = STREAMS[way](model, stream=judgments.append)
    assert [judgment.log_odds for judgment in judgments] == [pytest.approx(log_odds, abs=1e-4)]


CHAINS = ["It is.", "It is not. And", "The pass", "It is."]


@pytest.mark.parametrize(("chains", "close"), [(None, "given"), (CHAINS, "given"), (CHAINS, "forced")])
def test_who_streams_gets_each_judgment_once_as_it_finishes(model, chains: list[str] | None, close: str):
    pairs = [*((QUERY, passage) for passage in PASSAGES), (QUERY, None)]
    seen: list[Judgment] = []
    steps: list[int] = []

    def see(judgment: Judgment) -> None:
        seen.append(judgment)
        steps.append(model.decoder.stats.steps)

    options = {"stream": see, "batch_size": 1, "trace": True}
    call = (
        (lambda **o: model.judge(pairs, **o))
        if chains is None
        else (lambda **o: model.score_chains(pairs, chains, close=close, **o))
    )
    returned = call(**options)
    assert sorted(seen, key=lambda each: each.index)[:3] == returned[:3]
    assert [each.index for each in returned] == [0, 1, 2, 3]
    assert "passage must be a string" in returned[3].error
    assert len(set(steps)) > 2
    if chains is not None:
        assert [each.chain for each in returned[:3]] == chains[:3]
    iterated = sorted(call(**options | {"stream": True}), key=lambda each: each.index)
    assert [(each.chain, each.log_odds) for each in iterated[:3]] == [
        (each.chain, each.log_odds) for each in returned[:3]
    ]


def test_a_function_that_streams_keeps_a_score_cache(checkpoint, tmp_path):
    cached = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=4, cache=tmp_path / "scores.db")
    cached.judge([(QUERY, PASSAGE)])
    seen: list[Judgment] = []
    cached.judge([(QUERY, PASSAGE)], stream=seen.append)
    assert [judgment.cached for judgment in seen] == [True]


@pytest.mark.parametrize(
    "watch",
    [
        lambda model: model.judge([(QUERY, PASSAGE)], trace=True),
        lambda model: model.judge([(QUERY, PASSAGE)], observers=[Observer()]),
        lambda model: model.rank(QUERY, [PASSAGE], trace=True),
        lambda model: model.score_chains([(QUERY, PASSAGE)], ["It is."], trace=True),
        lambda model: model.trace(QUERY, PASSAGE),
        lambda model: model.lens(QUERY, PASSAGE),
        lambda model: model.stream(QUERY, PASSAGE),
    ],
)
def test_what_the_plain_loop_does_not_tell_is_refused(checkpoint, watch):
    plain = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=4, engine="plain")
    with pytest.raises(ValueError, match="engine='plain' has no traces and no observers"):
        watch(plain)
