"""Sample chains: draw 16 of one pair, each by its own seed, and average their scores.

python scripts/examples/sample_chains.py [MODEL]
"""

import sys
from statistics import mean, stdev

import torch
from transformers import LogitsProcessor

from rank1_hf import Rank1

PAIR = ("what carries the weight of an aircraft in flight", "The wing carries the weight of the aircraft in flight.")


class Sampler(LogitsProcessor):  # type: ignore[misc]
    """Draws each token: the likeliest after adding Gumbel noise is a sample of the softmax. A new one repeats it."""

    def __init__(self, seed: int, temperature: float = 1.0) -> None:
        self._generator, self._temperature = torch.Generator().manual_seed(seed), temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: D102, Transformers' own
        noise = -torch.empty(scores.shape).exponential_(generator=self._generator).log()
        return scores / self._temperature + noise.to(scores.device)


def main(model: str | None = None) -> None:
    """Judge the pair greedily, and by samples; where the model is sure of itself, all seeds give the same chain."""
    reranker = Rank1(model)
    print(f"greedy {reranker.judge([PAIR], show_progress_bar=False)[0].score:.3f}")
    by_seed = {seed: Sampler(seed) for seed in range(16)}
    samples = reranker.judge([PAIR] * 16, logits_processor=by_seed, show_progress_bar=False)
    scores, chains = ([getattr(each, name) for each in samples] for name in ("score", "chain"))
    print(f"{len(set(chains))} different chains of 16: {mean(scores):.3f} +- {stdev(scores):.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
