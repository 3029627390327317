"""A job with rank1-tiny, for processes that are killed; importing this is what takes long of it."""

import os
import signal
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch

from rank1_hf.decoding.stats import Stats
from rank1_hf.evaluation.batch import run_batch
from rank1_hf.evaluation.job import run_job
from rank1_hf.evaluation.pending import Outcome
from rank1_hf.evaluation.shards import Shard
from rank1_hf.files.pairs import PairFile
from rank1_hf.prompts.shares import pair_costs
from rank1_hf.reranker import Rank1
from rank1_hf.reranking import call
from rank1_hf.results.judgment import Judgment
from tests.evaluation.stub import inputs


def run_tiny(
    collection: Path, output: Path, shard: str | None = None, *, top_k: int = 15, killed_at: int | None = None
) -> Outcome:
    """Judge everything, or a shard of it, reproducibly; or as many pairs as are judged before a kill."""
    torch.set_num_threads(1)
    model = Rank1(device="cpu", dtype="float32", max_new_tokens=4, decoding="reproducible=on,batch_size=8")
    return run_job(
        inputs(collection, top_k),
        output,
        {"model": "rank1-tiny"},
        lambda: model if killed_at is None else Killed(model, killed_at),
        shard=None if shard is None else Shard.parse(shard),
        costs=lambda pairs: pair_costs(pairs, model.pair_encoder),
        show_progress=False,
    )


class Killed:
    """Judges as a model does, until its process is killed."""

    def __init__(self, model: Rank1, after: int) -> None:
        self._model, self._after = model, after

    def judge(self, pairs: Any, **options: Any) -> Iterator[Judgment]:
        for number, judgment in enumerate(self._model.judge(pairs, **options)):
            if number == self._after:
                os.kill(os.getpid(), signal.SIGKILL)
            yield judgment


def run_counted(
    path: Path,
    output: Path,
    counts: Path,
    *,
    killed_at: int | None = None,
    by: signal.Signals = signal.SIGKILL,
    **options: Any,
) -> Outcome:
    """Judge a file of pairs in float32. The last line of `counts` is how many tokens this process has decoded by now.

    Args:
        path: the file.
        output: the folder of the job.
        counts: a file to which it is appended.
        killed_at: the step at which the process kills itself.
        by: what with.
        options: those of `Rank1`.
    """
    torch.set_num_threads(1)
    model = _model(**options)
    run, n_steps, n_before = type(model.decoder).run.__get__(model.decoder), 0, _n_decoded(model.stats)
    with counts.open("ab", buffering=0) as file:

        def counted(requests: Any, *, on_step: Any, **more: Any) -> Any:
            def step(stats: Stats) -> None:
                nonlocal n_steps
                file.write(b"%9d\n" % (_n_decoded(stats) - n_before))
                on_step(stats)
                n_steps += 1
                if n_steps == killed_at:
                    os.kill(os.getpid(), by)

            return run(requests, on_step=step, **more)

        model.decoder.run = counted  # type: ignore[method-assign]
        return run_batch(PairFile(path), output, {"model": "rank1-tiny"}, lambda: model, show_progress=False)


@cache
def _model(**options: Any) -> Rank1:
    return Rank1(device="cpu", dtype="float32", decoding="batch_size=8", **options)


def _n_decoded(stats: Stats) -> int:
    return stats.decode_tokens + stats.accepted_tokens


def run_counted_keeping_every_step(*arguments: Any, **options: Any) -> Outcome:
    """The same, where a kill costs one step."""
    call._KEEP_SECONDS = 0.0
    return run_counted(*arguments, **options)
