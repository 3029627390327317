"""How far a call is: the bar, a line a minute where there is none, and the totals."""

import io
import logging
import sys
from contextlib import suppress

import pytest

from rank1_hf import Rank1
from rank1_hf.decoding.stats import Stats
from rank1_hf.reranking.in_force import in_force
from rank1_hf.reranking.progress import Progress
from rank1_hf.results.judgment import Judgment

LOGGER = "rank1_hf.reranking.progress"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """Stands still until it is told to go on."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def judged(**fields: object) -> Judgment:
    known = {"ended": "closed", "truncated": False, "error": None} | fields
    return Judgment(0, 0.5, 0.0, True, "", 30, 5, **known)  # type: ignore[arg-type]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == LOGGER]


@pytest.fixture(autouse=True)
def at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rank1_hf")


def test_a_line_every_minute_where_there_is_no_terminal(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    stats = Stats(prefill_tokens=5_000, decode_tokens=5_000)  # of calls before, which count for nothing
    with Progress(3_000, None, stats, clock=clock) as progress:
        clock.now += 59.9
        stats.prefill_tokens += 90_000
        progress.step(stats)
        assert said(caplog) == []
        clock.now += 0.1
        stats.decode_tokens += 20_000
        stats.accepted_tokens += 10_000
        progress.step(stats)
        progress.step(stats)
        assert said(caplog) == ["0 of 3,000 pairs done, 2,000 tokens/s"]
        for _ in range(1_000):
            progress.done(judged())
        clock.now += 60
        stats.decode_tokens += 60
        progress.step(stats)
        assert said(caplog)[1:] == ["1,000 of 3,000 pairs done, 1 tokens/s, about 04:00 left"]
        clock.now += 120  # in which nothing was decoded: all came from a cache
        progress.done(judged())
        assert said(caplog)[2:] == ["1,001 of 3,000 pairs done, 0 tokens/s, about 07:59 left"]


def test_how_many_pairs_there_are_may_be_unknown(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with Progress(None, None, Stats(), clock=clock) as progress:
        clock.now += 60
        progress.done(judged())
    assert said(caplog)[0] == "1 pairs done"  # and the decoder counts no tokens
    assert said(caplog)[1].endswith("pairs/s): 0 chains closed by force, 0 passages cut, 0 from the cache, 0 failed")


def test_the_totals(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    stats = Stats()
    with Progress(8, None, stats, clock=clock) as progress:
        clock.now += 8
        stats.prefill_tokens, stats.decode_tokens = 1_500, 500
        progress.step(stats)
        for one in (
            judged(),
            judged(ended="budget", cached=True),  # nothing was closed now
            judged(ended="eos", truncated=True),
            judged(ended="context"),
            judged(ended=None, error="no memory"),
        ):
            progress.done(one)
        clock.now += 2
    assert said(caplog) == [
        "5 of 8 pairs done in 10.0 s (0.50 pairs/s): 2,000 tokens (200 tokens/s), 2 chains closed by force, "
        "1 passages cut, 1 from the cache, 1 failed"
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_call_that_is_ended_early_has_totals_too(
    clock: Clock, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    with suppress(error), Progress(2, None, Stats(), clock=clock) as progress:
        progress.done(judged())
        raise error
    assert said(caplog)[0].startswith("1 of 2 pairs done")


def test_without_a_bar_the_log_goes_on(
    clock: Clock, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(2, False, Stats(), clock=clock) as progress:
        clock.now += 60
        progress.done(judged())
    minute, totals = said(caplog)
    assert minute.startswith("1 of 2 pairs done, about ")
    assert totals.startswith("1 of 2 pairs done in 60.0 s ")
    assert capsys.readouterr() == ("", "")


def test_nothing_is_said_by_another_process_or_where_there_is_nothing(
    clock: Clock, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(2, False, Stats(), speaks=False, clock=clock) as progress:
        clock.now += 600
        progress.step(Stats())
        progress.done(judged())
    with Progress(0, None, Stats(), clock=clock):
        pass
    assert (said(caplog), capsys.readouterr()) == ([], ("", ""))


@pytest.mark.parametrize("show", [None, True])
def test_the_bar_counts_prompts_and_is_drawn_anew_while_no_pair_is_finished(
    clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, show: bool | None
) -> None:
    terminal = Terminal() if show is None else io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    stats = Stats(prefill_tokens=7, live_rows=2)
    with Progress(9, show, stats, clock=clock) as progress:
        bar = progress._bar
        bar.mininterval = 0  # tqdm has a clock of its own
        for _ in range(5):  # after which tqdm by itself would wait for as many before it draws again
            progress.done(judged())
        clock.now += 600
        for tokens in ("1", "2", "3"):
            stats.prefill_tokens += 600
            progress.step(stats)
            assert "5/9" in terminal.getvalue()
            assert f"{tokens} tokens/s, 2 rows" in terminal.getvalue()
        assert said(caplog) == []  # a bar is enough
    assert "5 of 9 pairs done" in said(caplog)[0]


def test_a_call_of_a_model_counts_its_prompts(checkpoint, caplog: pytest.LogCaptureFixture) -> None:
    reranker = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=4)
    judgments = reranker.judge([("wings", "air"), ("wings", "Bread."), ("wings", None)])
    n_prompt = sum(len(reranker.encode("wings", passage).ids) for passage in ("air", "Bread."))
    shared = reranker.encode("wings", "air").n_shared
    (line,) = said(caplog)
    assert line.startswith("3 of 3 pairs done in ")
    n_tokens = int(line.split("): ")[1].split(" tokens")[0])
    assert n_prompt - shared < n_tokens <= n_prompt + sum(each.n_chain_tokens for each in judgments) + 20
    n_forced = sum(each.ended not in ("closed", None) for each in judgments)
    assert line.endswith(f"{n_forced} chains closed by force, 0 passages cut, 0 from the cache, 1 failed")


def test_blank_passages_are_counted_where_there_are_any(checkpoint, caplog: pytest.LogCaptureFixture) -> None:
    reranker = Rank1(checkpoint("qwen2"), device="cpu", max_new_tokens=4)
    titled = {"title": "Wings", "text": ""}
    judgments = reranker.judge([("wings", "air"), ("wings", " \n"), ("wings", {"text": ""}), ("wings", titled)])
    assert [judgment.error for judgment in judgments] == [None] * 4
    assert ", 0 passages cut, 2 passages blank, 0 from the cache, 0 failed" in said(caplog)[0]


def test_what_is_in_force_is_logged_when_a_model_is_loaded(checkpoint, caplog: pytest.LogCaptureFixture) -> None:
    folder = checkpoint("qwen2")
    reranker = Rank1(
        folder, device="cpu", dtype="float32", decoding="kv_cache_tokens=4096,batch_size=3,kernels=off,speculate=off"
    )
    logged = [record.getMessage() for record in caplog.records if record.name == "rank1_hf.reranker"]
    assert logged == list(in_force(reranker.decoder, reranker.pair_encoder))
    model, limits, memory, engine = logged
    assert model == f"model {folder.name}, dtype float32, device cpu"
    assert limits == "context of 2,048 tokens, max_new_tokens=1024, min_thinking_tokens=0, rethink=0"
    assert memory == "KV cache of at most 4,096 tokens in pages of 64, at most 3 rows"
    assert engine == f"kernels none (PyTorch's own operations); decoding {reranker.decoder.options}"
    assert "speculate=off" in engine
    plain = Rank1(folder, device="cpu", engine="plain")
    assert list(in_force(plain.decoder, plain.pair_encoder))[2].startswith("engine plain")
