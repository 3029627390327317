"""A job with rank1-tiny, for processes that are killed; importing this is what takes long of it."""

from pathlib import Path

import torch

from rank1_hf.evaluation.job import Outcome, run_job
from rank1_hf.reranker import Rank1
from tests.evaluation.stub import inputs


def run_tiny(collection: Path, output: Path) -> Outcome:
    """Judge everything, reproducibly; in float32, which every processor is fast at."""
    torch.set_num_threads(1)
    return run_job(
        inputs(collection),
        output,
        {"model": "rank1-tiny"},
        lambda: Rank1(device="cpu", dtype="float32", max_new_tokens=4, decoding="reproducible=on"),
        batch_size=8,
        show_progress=False,
    )
