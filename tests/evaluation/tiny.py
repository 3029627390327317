"""A job with rank1-tiny, for processes that are killed; importing this is what takes long of it."""

from pathlib import Path

import torch

from rank1_hf.evaluation.job import run_job
from rank1_hf.evaluation.shards import Shard
from rank1_hf.prompts.shares import pair_costs
from rank1_hf.reranker import Rank1
from tests.evaluation.stub import inputs


def run_tiny(collection: Path, output: Path, shard: str | None = None, top_k: int = 15) -> None:
    """Judge everything, or a shard of it, reproducibly."""
    torch.set_num_threads(1)
    model = Rank1(device="cpu", max_new_tokens=6, decoding="reproducible=on")
    run_job(
        inputs(collection, top_k),
        output,
        {"model": "rank1-tiny"},
        lambda: model,
        batch_size=8,
        shard=None if shard is None else Shard.parse(shard),
        costs=lambda pairs: pair_costs(pairs, model.pair_encoder),
        show_progress=False,
    )
