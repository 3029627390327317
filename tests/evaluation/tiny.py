"""A job with rank1-tiny, for processes that are killed; importing this is what takes long of it."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from rank1_hf.evaluation.job import run_job
from rank1_hf.evaluation.pending import Outcome
from rank1_hf.evaluation.shards import Shard
from rank1_hf.prompts.shares import pair_costs
from rank1_hf.reranker import Rank1
from rank1_hf.results.judgment import Judgment
from tests.evaluation.stub import inputs


def run_tiny(
    collection: Path, output: Path, shard: str | None = None, *, top_k: int = 15, killed_at: int | None = None
) -> Outcome:
    """Judge everything, or a shard of it, reproducibly; or as many pairs as are judged before a kill."""
    torch.set_num_threads(1)
    model = Rank1(device="cpu", dtype="float32", max_new_tokens=4, decoding="reproducible=on")
    return run_job(
        inputs(collection, top_k),
        output,
        {"model": "rank1-tiny"},
        lambda: model if killed_at is None else Killed(model, killed_at),
        batch_size=8,
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
