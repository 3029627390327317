"""The engine without HTTP: who gets what, and that nobody waits for ever."""

import threading

import pytest

from rank1_hf import Judgment, Rank1
from rank1_hf.serving.engine import BusyError, Engine, EngineError
from tests.serving.conftest import PATIENCE, wait_until
from tests.serving.test_app import DOCUMENTS, QUERY


class Inbox(list[Judgment | EngineError]):
    """What one job was given, in order."""

    def judgments(self, n: int) -> dict[int, Judgment]:
        wait_until(lambda: len(self) == n)
        return {found.index: found for found in self if isinstance(found, Judgment)}


def test_every_job_gets_its_own_pairs_under_their_places(quick: Rank1):
    jobs = [[(QUERY, document) for document in DOCUMENTS[start:]] for start in range(3)]
    inboxes = [Inbox() for _ in jobs]
    expected = quick.judge(jobs[0])
    with Engine(quick, max_pairs=100) as engine:
        for pairs, inbox in zip(jobs, inboxes, strict=True):
            engine.submit(pairs, inbox.append)
        for start, inbox in enumerate(inboxes):
            found = inbox.judgments(len(jobs[start]))
            assert sorted(found) == list(range(len(jobs[start])))
            for index, judgment in found.items():
                assert judgment.chain == expected[start + index].chain
        assert (engine.n_pairs, engine.n_waiting) == (0, 0)


def test_calls_of_the_reranker_come_between_the_steps(quick: Rank1):
    pairs = [(QUERY, document) for document in DOCUMENTS]
    expected = [judgment.chain for judgment in quick.judge(pairs)]
    with Engine(quick, max_pairs=100) as engine:
        for _ in range(5):
            inbox = Inbox()
            engine.submit(pairs, inbox.append)
            assert [judgment.chain for judgment in quick.judge(pairs)] == expected
            found = inbox.judgments(len(pairs))
            assert [found[index].chain for index in range(len(pairs))] == expected


def test_a_pair_that_cannot_be_judged_is_delivered_like_the_others(quick: Rank1):
    inbox = Inbox()
    with Engine(quick, max_pairs=100) as engine:
        engine.submit([(QUERY, None), (QUERY, DOCUMENTS[0])], inbox.append)
        found = inbox.judgments(2)
    assert "must be a string" in (found[0].error or "")
    assert found[1].error is None


def test_a_job_with_no_room_is_refused_whole(quick: Rank1):
    with Engine(quick, max_pairs=2) as engine:
        with pytest.raises(BusyError, match="0 of 2"):
            engine.submit([(QUERY, "a")] * 3, Inbox().append)
        assert engine.n_pairs == 0


def test_a_cancelled_job_hears_nothing_more(endless: Rank1):
    inbox = Inbox()
    with Engine(endless, max_pairs=100) as engine:
        job = engine.submit([(QUERY, "a"), (QUERY, "b")], inbox.append)
        wait_until(lambda: endless.decoder.stats.live_rows == 2)
        engine.cancel(job)
        wait_until(lambda: endless.decoder.stats.live_rows == 0)
    assert inbox == []


def test_closing_tells_those_who_wait_once_and_ends_the_thread(endless: Rank1):
    n_threads = threading.active_count()
    first, second = Inbox(), Inbox()
    engine = Engine(endless, max_pairs=100, batch_size=1)
    engine.submit([(QUERY, "a"), (QUERY, "b")], first.append)
    engine.submit([(QUERY, "c")], second.append)
    wait_until(lambda: endless.decoder.stats.live_rows == 1)
    engine.close()
    assert [str(found) for found in first + second] == ["the server is shutting down"] * 2
    assert threading.active_count() == n_threads
    assert endless.decoder._cache.n_pages_used == 0
    with pytest.raises(EngineError, match="shutting down"):
        engine.submit([(QUERY, "a")], first.append)


def test_a_failure_of_the_loop_reaches_everybody_once_and_the_next_job_is_tried(quick: Rank1, monkeypatch):
    inboxes = [Inbox(), Inbox()]
    begun, go_on = threading.Event(), threading.Event()

    def broken(*args: object, **options: object) -> None:
        begun.set()
        go_on.wait(PATIENCE)
        raise RuntimeError("broken")

    with Engine(quick, max_pairs=100) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(quick.decoder, "steps", broken)
            engine.submit([(QUERY, "a"), (QUERY, "b")], inboxes[0].append)
            begun.wait(PATIENCE)
            engine.submit([(QUERY, "c")], inboxes[1].append)
            go_on.set()
            wait_until(lambda: all(inboxes))
        assert [str(found) for inbox in inboxes for found in inbox] == [
            "the model has failed; the server's log says why"
        ] * 2
        assert not engine.is_healthy
        again = Inbox()
        engine.submit([(QUERY, DOCUMENTS[0])], again.append)
        assert again.judgments(1)[0].error is None
        assert engine.is_healthy
