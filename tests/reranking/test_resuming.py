"""Chains that an interrupt left unfinished go on, and come to what they would have come to."""

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LogitsProcessor

from rank1_hf import EarlyExit, Interrupted, Rank1
from rank1_hf.decoding.options import DecodingOptions
from rank1_hf.decoding.stats import Stats
from rank1_hf.reranking import call as call_module
from rank1_hf.results.judgment import Judgment

PAIRS = [(query, f"passage {n} about wings") for query in ("what flies?", "what is bread?") for n in range(3)]


@pytest.fixture(scope="module")
def load(checkpoint: Callable[..., Path]) -> Callable[..., Rank1]:
    """A model whose chains close after a few tokens each and are reopened: they have about 24 in the end."""

    @cache
    def load(decoding: str = "batch_size=3", **options: Any) -> Rank1:
        more = {"dtype": "float32", "device": "cpu", "max_new_tokens": 24, "min_thinking_tokens": 18, "rethink": 1}
        return Rank1(checkpoint("qwen2", close_scale=1.6), decoding=decoding, **{**more, **options})

    return load


@pytest.fixture(scope="module")
def expected(load: Callable[..., Rank1]) -> list[Judgment]:
    return load().judge(PAIRS, show_progress_bar=False)


def interrupted(model: Rank1, after: int, error: type[BaseException] = KeyboardInterrupt, **options: Any) -> Any:
    """What is kept where Ctrl-C, or an error, comes behind so many steps."""
    run, raised = model.decoder.run, Interrupted if error is KeyboardInterrupt else error

    def stopped(requests: Any, *, on_step: Callable[[Stats], None], **more: Any) -> Iterator[Any]:
        n_steps = 0

        def step(stats: Stats) -> None:
            nonlocal n_steps
            on_step(stats)
            n_steps += 1
            if n_steps == after:
                raise error

        return run(requests, on_step=step, **more)

    model.decoder.run = stopped  # type: ignore[method-assign]
    try:
        with pytest.raises(raised) as caught:
            model.judge(PAIRS, show_progress_bar=False, **options)
    finally:
        model.decoder.run = run  # type: ignore[method-assign]
    assert error is KeyboardInterrupt or "resume_from=error.judgments" in "".join(caught.value.__notes__)
    return caught.value.judgments


def n_generated(model: Rank1) -> int:
    return model.stats.decode_tokens + model.stats.accepted_tokens


def assert_same(found: Sequence[Judgment], expected: Sequence[Judgment]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.log_odds == pytest.approx(other.log_odds, abs=1e-4)
        assert replace(one, score=0.0, log_odds=0.0, trace=None) == replace(other, score=0.0, log_odds=0.0, trace=None)


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError, OSError])
def test_an_error_that_ends_the_call_carries_what_was_finished_and_begun(
    load: Callable[..., Rank1], expected: list[Judgment], error: type[Exception]
) -> None:
    model = load()
    kept = interrupted(model, 40, error)
    assert any(judgment.unfinished for judgment in kept)
    assert any(judgment.error is None for judgment in kept)
    before = n_generated(model)
    assert_same(model.judge(PAIRS, resume_from=kept, show_progress_bar=False), expected)
    assert n_generated(model) - before < sum(judgment.n_chain_tokens for judgment in expected) / 2


@pytest.mark.parametrize("error", [ValueError("no disk"), SystemExit(3), KeyboardInterrupt()])
def test_a_stream_function_that_fails_loses_nothing(
    load: Callable[..., Rank1], expected: list[Judgment], error: BaseException
) -> None:
    model, called = load(), list[Judgment]()

    def fail_at_the_second(judgment: Judgment) -> None:
        called.append(judgment)
        if len(called) == 2:
            raise error

    raised = Interrupted if isinstance(error, KeyboardInterrupt) else type(error)
    with pytest.raises(raised) as caught:
        model.judge(PAIRS, stream=fail_at_the_second, show_progress_bar=False)
    assert raised is Interrupted or caught.value is error
    carried = {judgment.index: judgment for judgment in caught.value.judgments}  # type: ignore[attr-defined]
    assert all(carried[judgment.index].error is None for judgment in called)
    assert_same(model.judge(PAIRS, resume_from=list(carried.values()), show_progress_bar=False), expected)


def test_what_fails_once_all_is_judged_loses_nothing(load: Callable[..., Rank1], expected: list[Judgment]) -> None:
    model, query, passages = load(), PAIRS[0][0], [passage for _, passage in PAIRS[:3]]
    with pytest.raises(ZeroDivisionError) as caught:
        model.predict(PAIRS, activation_fn=lambda log_odds: 1 / 0)  # type: ignore[arg-type, return-value]
    n_before = n_generated(model)
    assert_same(model.judge(PAIRS, resume_from=caught.value), expected)
    with pytest.raises(ZeroDivisionError) as caught:
        model.rank(query, passages, activation_fn=lambda log_odds: 1 / 0, resume_from=expected[:3])  # type: ignore[arg-type, return-value]
    assert_same(caught.value.judgments, expected[:3])  # type: ignore[attr-defined]
    assert n_generated(model) == n_before


def test_only_what_can_go_on_says_that_it_can(load: Callable[..., Rank1]) -> None:
    model = load()

    def fail(judgment: Judgment) -> None:
        raise ValueError("no disk")

    with pytest.raises(ValueError, match="no disk") as caught:
        model.score_chains(PAIRS[:1], ["It flies."], stream=fail)
    assert len(caught.value.judgments) == 1  # type: ignore[attr-defined]
    assert "resume_from" not in "".join(getattr(caught.value, "__notes__", []))


def test_a_call_that_goes_on_and_is_interrupted_again_loses_nothing_of_what_it_was_given(
    load: Callable[..., Rank1], expected: list[Judgment]
) -> None:
    model = load("batch_size=2")
    first = interrupted(model, 60)
    assert {judgment.index for judgment in first if judgment.error is None}
    again = interrupted(model, 1, resume_from=first)
    assert [one.index for one in again] == [one.index for one in first]
    assert [one for one in again if one.error is None] == [one for one in first if one.error is None]
    for one, before in zip(again, first, strict=True):
        assert one.unfinished[: len(before.unfinished)] == before.unfinished
    assert_same(model.judge(PAIRS, resume_from=again, show_progress_bar=False), expected)


def test_however_often_it_is_interrupted_the_chains_are_the_same_and_nothing_is_thought_twice(
    load: Callable[..., Rank1], expected: list[Judgment]
) -> None:
    model = load()
    before = n_generated(model)
    model.judge(PAIRS, show_progress_bar=False)
    n_undisturbed = n_generated(model) - before
    before = n_generated(model)
    kept: list[Judgment] = []
    for after in (7, 12, 9):
        kept = interrupted(model, after, resume_from=kept)
        for judgment in kept:
            if judgment.unfinished:
                assert expected[judgment.index].chain.startswith(judgment.chain)
                assert (judgment.ended, judgment.label) == (None, None)
                assert "interrupted after" in str(judgment.error)
            else:
                assert_same([judgment], [expected[judgment.index]])
    assert any(judgment.unfinished for judgment in kept)
    assert any(not judgment.unfinished for judgment in kept)
    assert_same(model.judge(PAIRS, resume_from=kept, show_progress_bar=False), expected)
    assert n_generated(model) - before <= n_undisturbed + 3 * 3  # the step that was interrupted, of three rows


def test_in_reproducible_mode_the_bits_are_the_same(load: Callable[..., Rank1]) -> None:
    model = load("reproducible=on,batch_size=3")
    expected = model.judge(PAIRS, show_progress_bar=False)
    for after in (15, 40):  # within the first chains, and within others
        kept = interrupted(model, after)
        assert any(judgment.unfinished for judgment in kept)
        assert model.judge(PAIRS, resume_from=kept, show_progress_bar=False) == expected


def test_the_plain_engine_goes_on_with_what_the_other_has_begun(
    load: Callable[..., Rank1], expected: list[Judgment]
) -> None:
    kept = [judgment for judgment in interrupted(load(), 9) if judgment.index < 2]
    assert_same(load("", engine="plain").judge(PAIRS[:2], resume_from=kept), expected[:2])


def test_unfinished_judgments_say_so_as_json(load: Callable[..., Rank1], expected: list[Judgment]) -> None:
    kept = interrupted(load(), 7)
    assert [judgment.to_dict()["unfinished"] for judgment in kept] == [judgment.unfinished for judgment in kept]
    assert "unfinished" not in expected[0].to_dict()


def test_equal_pairs_share_what_was_thought(load: Callable[..., Rank1], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.reranking.test_resuming.PAIRS", [PAIRS[0], PAIRS[1], PAIRS[0]])
    kept = interrupted(load(), 7)
    assert [judgment.index for judgment in kept] == [0, 1, 2]
    assert kept[2] == kept[0].at(2)


def test_scores_and_rankings_go_on_too(load: Callable[..., Rank1], expected: list[Judgment]) -> None:
    model = load()
    passages = [passage for _, passage in PAIRS[:3]]
    kept = [judgment for judgment in interrupted(model, 9) if judgment.index < 3]
    scores = [judgment.score for judgment in expected[:3]]
    n_tokens = model.decoder.stats.decode_tokens
    assert model.predict(PAIRS[:3], resume_from=iter(expected[:3])) == pytest.approx(scores, abs=1e-4)
    model.rank(PAIRS[0][0], passages, resume_from=iter(expected[:3]))
    assert model.decoder.stats.decode_tokens == n_tokens, "an iterator is taken whole"
    assert model.predict(PAIRS[:3], resume_from=kept) == pytest.approx(scores, abs=1e-4)
    for hit in model.rank(PAIRS[0][0], passages, resume_from=kept):
        assert hit["score"] == pytest.approx(scores[hit["corpus_id"]], abs=1e-4)


def test_a_stream_that_is_interrupted_has_what_is_unfinished(
    load: Callable[..., Rank1], expected: list[Judgment], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load()

    def keep(self: Any, *, now: bool = False) -> None:
        if not now and sum(len(live.chain.generated) for live in self._live.values()) > 20:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(call_module.Call, "keep", keep)
        with pytest.raises(Interrupted) as caught:
            list(model.judge(PAIRS, stream=True))
    assert all(judgment.unfinished for judgment in caught.value.judgments)
    assert_same(model.judge(PAIRS, resume_from=caught.value.judgments), expected)


@pytest.mark.parametrize("steering", [{"rule": EarlyExit()}, {"trace": True}])
def test_where_something_may_keep_a_state_of_its_own_a_chain_begins_anew(
    load: Callable[..., Rank1], steering: dict[str, Any]
) -> None:
    model = load()
    kept = [judgment for judgment in interrupted(model, 7, **steering) if judgment.unfinished]
    before = n_generated(model)
    expected = model.judge(PAIRS, **steering)
    n_undisturbed = n_generated(model) - before
    assert_same(model.judge(PAIRS, resume_from=kept, **steering), expected)
    assert n_generated(model) - before == 2 * n_undisturbed


def test_what_belongs_to_another_pair_or_model_is_told(load: Callable[..., Rank1]) -> None:
    model = load()
    kept = interrupted(model, 7)
    other = model.judge([("what flies high?", "x"), PAIRS[1]], resume_from=kept)
    assert "the judgment of pair 0 in resume_from is of another pair" in str(other[0].error)
    assert other[1].error is None
    (foreign,) = model.judge(PAIRS[:1], resume_from=[replace(kept[0], unfinished=(1, 10**6))])
    assert "ids that the model has not" in str(foreign.error)
    with pytest.raises(TypeError, match="resume_from takes judgments"):
        model.judge(PAIRS, resume_from=["chain"])
    with pytest.raises(TypeError, match="stream takes no resume_from"):
        model.stream(*PAIRS[0], resume_from=kept)


class Longer(LogitsProcessor):
    """Asks for chains of its length, and changes nothing."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        return scores


@pytest.mark.parametrize("finishes", [True, False])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"instruction": "q"}),
        ({"instruction": "Only wings."}, {"instruction": "Only bread."}),  # of the same length
        ({}, {"think": False}),
        ({}, {"trace": True}),
        ({}, {"rule": EarlyExit()}),
        ({"rule": EarlyExit(4.0)}, {"rule": EarlyExit(5.0)}),
        ({"logits_processor": Longer(3)}, {"logits_processor": Longer(4)}),
        ({"logits_processor": {0: Longer(3), 1: Longer(3)}}, {}),
    ],
)
def test_a_judgment_of_other_options_is_told_and_never_taken(
    load: Callable[..., Rank1], before: dict[str, Any], after: dict[str, Any], finishes: bool
) -> None:
    model = load()
    kept = model.judge(PAIRS[:2], **before) if finishes else interrupted(model, 7, **before)[:2]
    assert all(bool(judgment.unfinished) != finishes for judgment in kept)
    for judgment in model.judge(PAIRS[:2], resume_from=kept, **after):
        assert f"the judgment of pair {judgment.index} in resume_from" in str(judgment.error)
    if finishes:
        assert model.judge(PAIRS[:2], resume_from=kept, **before) == kept


def test_a_judgment_of_another_place_budget_or_model_is_told(
    load: Callable[..., Rank1], expected: list[Judgment]
) -> None:
    for model in (load(max_new_tokens=23), load(rethink=2), load(min_thinking_tokens=17), load(dtype="bfloat16")):
        assert all("of other options" in str(judgment.error) for judgment in model.judge(PAIRS, resume_from=expected))
    turned = load().judge(PAIRS[::-1], resume_from=expected)
    assert all("of another pair" in str(judgment.error) for judgment in turned)


def test_what_a_file_has_lost_is_not_trusted_and_what_a_pickle_keeps_is(
    load: Callable[..., Rank1], expected: list[Judgment]
) -> None:
    fields = expected[0].to_dict()
    assert "fingerprint" not in fields
    (lost,) = load().judge(PAIRS[:1], resume_from=[Judgment(**fields)])
    assert "does not say whose it is" in str(lost.error)
    pickled = pickle.loads(pickle.dumps(expected))  # as the processes of num_gpus do it
    before = n_generated(load())
    assert load().judge(PAIRS, resume_from=pickled) == expected
    assert n_generated(load()) == before


def test_what_a_cache_had_can_be_resumed_from(load: Callable[..., Rank1], tmp_path: Path) -> None:
    cached = load(cache=tmp_path / "scores.db")
    cached.judge(PAIRS[:2])
    hits = cached.judge(PAIRS[:2])
    assert all(judgment.cached for judgment in hits)
    assert load().judge(PAIRS[:2], resume_from=hits) == hits


def test_an_interrupt_in_the_body_of_a_loop_costs_nothing_that_was_yielded(
    load: Callable[..., Rank1], expected: list[Judgment]
) -> None:
    model, done = load(), list[Judgment]()
    try:
        for judgment in model.judge(PAIRS, stream=True):
            done.append(judgment)
            if len(done) == 3:
                raise KeyboardInterrupt
    except KeyboardInterrupt as interrupt:
        done += getattr(interrupt, "judgments", [])
    found = model.judge(PAIRS, resume_from=done)
    assert_same(found, expected)
    assert [found[judgment.index] for judgment in done] == done


AT_EXIT = """
import sys
from rank1_hf import Rank1

model = Rank1(sys.argv[1], device="cpu", max_new_tokens=8, decoding="batch_size=1")
pairs = [("what flies?", "wings"), ("what flies?", "bread")]
open_ones = [model.judge(pairs, stream=True), model.stream(*pairs[0])]
open_ones.append(model.score_chains(pairs, ["It is.", "It is."], stream=True))
print(*(type(next(each)).__name__ for each in open_ones))
"""


def test_streams_that_are_not_read_to_their_end_leave_an_exit_in_peace(checkpoint: Callable[..., Path]) -> None:
    script = [sys.executable, "-c", AT_EXIT, str(checkpoint("qwen2"))]
    done = subprocess.run(script, capture_output=True, text=True, timeout=150, check=True)
    assert done.stdout.split() == ["Judgment", "TokenEvent", "Judgment"]
    assert "Exception ignored" not in done.stderr
    assert "Error" not in done.stderr


def test_a_keeper_is_told_of_every_chain_and_asked_for_each(
    load: Callable[..., Rank1], expected: list[Judgment], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_module, "_KEEP_SECONDS", 0.0)

    class Keeper:
        def __init__(self, known: Mapping[int, Sequence[int]]) -> None:
            self.known, self.kept = known, dict[int, list[int]]()

        def generated(self, index: int) -> Sequence[int]:
            return self.known.get(index, ())

        def keep(self, generated: Mapping[int, Sequence[int]]) -> None:
            for index, ids in generated.items():
                assert list(ids[: len(self.kept.get(index, []))]) == self.kept.get(index, [])
                self.kept[index] = list(ids)

    model, first = load(), Keeper({})
    assert_same(model.judge(PAIRS, keeper=first), expected)
    assert first.kept.keys() == set(range(len(PAIRS)))
    before = n_generated(model)
    second = Keeper({index: ids[:-2] for index, ids in first.kept.items()})
    assert_same(model.judge(PAIRS, keeper=second), expected)
    assert second.kept == first.kept
    assert n_generated(model) - before <= 4 * len(PAIRS)


def test_a_cache_still_counts_where_chains_are_kept(
    load: Callable[..., Rank1], expected: list[Judgment], tmp_path: Path
) -> None:
    cached = load(cache=tmp_path / "scores.db")
    kept = interrupted(cached, 9)
    found = cached.judge(PAIRS, resume_from=kept)
    assert_same(found, expected)
    assert all(judgment.cached for judgment in cached.judge(PAIRS))


def test_the_switches_of_the_engine_change_nothing_of_it(load: Callable[..., Rank1], expected: list[Judgment]) -> None:
    kept = interrupted(load(), 9)
    for decoding in ("speculate=off", "share_prefixes=off,overlap=on", "kv_cache_tokens=160,batch_size=8"):
        assert_same(load(str(DecodingOptions.parse(decoding))).judge(PAIRS, resume_from=kept), expected)
