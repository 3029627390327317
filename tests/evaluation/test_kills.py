"""How little thinking a kill costs: jobs with the embedded model in float32, killed while chains are thought."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.test_batch import lines, write_pairs
from tests.evaluation.tiny import run_counted, run_counted_keeping_every_step

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.evaluation.tiny"])

QUERIES = ("what carries the weight of an aircraft in flight", "what is bread made of")


def pairs(n: int) -> list[dict[str, Any]]:
    return [
        {"id": i, "query": QUERIES[i % 2], "passage": f"The wing {i} carries passage {i} of bread."} for i in range(n)
    ]


def n_decoded(counts: Path) -> int:
    """How many tokens a process has decoded."""
    written = counts.read_text().splitlines() if counts.exists() else []
    return int(written[-1]) if written else 0


def assert_same(output: Path, undisturbed: Path) -> None:
    """The same chains, and scores up to what another batch rounds."""
    for one, other in zip(lines(output / "judgments.jsonl"), lines(undisturbed / "judgments.jsonl"), strict=True):
        assert one["log_odds"] == pytest.approx(other["log_odds"], abs=1e-4)
        assert one | {"score": 0, "log_odds": 0} == other | {"score": 0, "log_odds": 0}
    assert not (output / "chains.jsonl").exists()


def test_a_kill_costs_what_was_thought_since_chains_were_last_kept(tmp_path: Path) -> None:
    """In every step here. Chains are reopened on the way, and end in another process than they began in."""
    path, options = write_pairs(tmp_path / "pairs.jsonl", pairs(8)), {"max_new_tokens": 30, "min_thinking_tokens": 24}
    output, arguments = tmp_path / "killed", {"killed_at": 8, **options}
    files = path, output, tmp_path / "counts of the first"
    process = FORKS.Process(target=run_counted_keeping_every_step, args=files, kwargs=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    kept = [json.loads(line) for line in (output / "chains.jsonl").read_text().splitlines()]
    assert sum(len(ids) for line in kept[1:] for _, ids in line.values()) > 8
    run_counted(path, output, tmp_path / "counts of the second", **options)
    run_counted(path, tmp_path / "undisturbed", tmp_path / "counts", **options)
    assert_same(output, tmp_path / "undisturbed")
    n_tokens = sum(n_decoded(tmp_path / f"counts of the {each}") for each in ("first", "second"))
    assert n_tokens <= n_decoded(tmp_path / "counts") + 8  # a step of eight rows


def test_a_signal_costs_nothing_of_what_was_thought(tmp_path: Path) -> None:
    path, output = write_pairs(tmp_path / "pairs.jsonl", pairs(4)), tmp_path / "output"
    outcome = run_counted(path, output, tmp_path / "counts", killed_at=9, by=signal.SIGTERM, max_new_tokens=16)
    assert (outcome.stopped, outcome.n_scored) == (signal.SIGTERM, 0)
    (kept,) = [json.loads(line) for line in (output / "chains.jsonl").read_text().splitlines()[1:]][-1:]
    counts = [start + len(ids) for start, ids in kept.values()]
    assert sum(counts) == n_decoded(tmp_path / "counts") + 4  # with those behind the prompts
    assert run_counted(path, output, tmp_path / "more", max_new_tokens=16).n_scored == 4
    assert n_decoded(tmp_path / "more") <= 4 * 16 - sum(counts) + 4


@pytest.mark.skipif("RANK1_SLOW" not in os.environ, reason="takes minutes: RANK1_SLOW=1")
def test_twenty_kills_cost_less_than_a_twentieth_of_the_thinking(tmp_path: Path) -> None:
    """Chains of about 300 tokens, kept as often as they are; 20 kills at any time while tokens are decoded."""
    path, options = (
        write_pairs(tmp_path / "pairs.jsonl", pairs(160)),
        {"max_new_tokens": 320, "min_thinking_tokens": 290},
    )
    output, rng, n_tokens, sizes = tmp_path / "killed", random.Random(11), 0, []
    began = time.monotonic()
    run_counted(path, tmp_path / "undisturbed", tmp_path / "counts", **options)
    seconds = time.monotonic() - began
    for n in range(20):
        counts = tmp_path / f"counts {n}"
        process = FORKS.Process(target=run_counted, args=(path, output, counts), kwargs=options)
        process.start()
        while process.is_alive() and not n_decoded(counts):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, seconds / 20))
        assert process.is_alive()
        process.kill()
        process.join()
        n_tokens += n_decoded(counts)
        sizes.append((output / "chains.jsonl").stat().st_size)
    run_counted(path, output, tmp_path / "counts last", **options)
    n_tokens += n_decoded(tmp_path / "counts last")
    assert_same(output, tmp_path / "undisturbed")
    n_undisturbed = n_decoded(tmp_path / "counts")
    print(f"{n_tokens} tokens decoded with 20 kills, {n_undisturbed} without: {n_tokens / n_undisturbed:.4f}")
    assert n_tokens <= 1.05 * n_undisturbed
    assert max(sizes) < 2**20 + 2 * 8 * 320 * 6
