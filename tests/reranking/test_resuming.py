"""Chains that an interrupt left unfinished go on, and come to what they would have come to."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

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


def interrupted(model: Rank1, after: int, **options: Any) -> list[Judgment]:
    """What is kept where Ctrl-C comes behind so many steps."""
    run = model.decoder.run

    def stopped(requests: Any, *, on_step: Callable[[Stats], None], **more: Any) -> Iterator[Any]:
        n_steps = 0

        def step(stats: Stats) -> None:
            nonlocal n_steps
            on_step(stats)
            n_steps += 1
            if n_steps == after:
                raise KeyboardInterrupt

        return run(requests, on_step=step, **more)

    model.decoder.run = stopped  # type: ignore[method-assign]
    try:
        with pytest.raises(Interrupted) as caught:
            model.judge(PAIRS, show_progress_bar=False, **options)
    finally:
        model.decoder.run = run  # type: ignore[method-assign]
    return caught.value.judgments


def n_generated(model: Rank1) -> int:
    return model.stats.decode_tokens + model.stats.accepted_tokens


def assert_same(found: Sequence[Judgment], expected: Sequence[Judgment]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.log_odds == pytest.approx(other.log_odds, abs=1e-4)
        assert replace(one, score=0.0, log_odds=0.0, trace=None) == replace(other, score=0.0, log_odds=0.0, trace=None)


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
    assert_same(load(engine="plain").judge(PAIRS[:2], resume_from=kept), expected[:2])


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
    assert "unfinished judgment of pair 0 has a prompt of" in str(other[0].error)
    assert other[1].error is None
    (foreign,) = model.judge(PAIRS[:1], resume_from=[replace(kept[0], unfinished=(1, 10**6))])
    assert "ids that the model has not" in str(foreign.error)
    with pytest.raises(TypeError, match="resume_from takes judgments"):
        model.judge(PAIRS, resume_from=["chain"])
    with pytest.raises(TypeError, match="stream takes no resume_from"):
        model.stream(*PAIRS[0], resume_from=kept)


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
