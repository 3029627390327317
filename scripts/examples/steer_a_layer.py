"""Steer a layer: a forward hook adds a direction to its output, and every chain and verdict is the steered model's.

A hook sees a step: [1, tokens, hidden size], with tokens of many pairs, so it does the same at every place.

python scripts/examples/steer_a_layer.py [MODEL]
"""

import sys
from typing import Any

from rank1_hf import Observer, Rank1
from rank1_hf.tracing import Needs, Reading, WatchedPair

PAIRS = [("what carries an aircraft", passage) for passage in ("The wing carries the aircraft.", "Bread is flour.")]
LAYER = 2


class Verdicts(Observer):  # noqa: D101
    verdict_needs = Needs(hidden_states=frozenset({LAYER}))

    def __init__(self) -> None:
        self.states: dict[int, Any] = {}

    def verdict(self, pair: WatchedPair, reading: Reading) -> None:  # noqa: D102, the observer's
        self.states[pair.index] = reading.hidden_states[LAYER]


def main(model: str | None = None) -> None:
    """Find the direction from a false verdict to a true one, then add it, or take it away."""
    reranker, seen = Rank1(model, max_new_tokens=48), Verdicts()
    reranker.judge(PAIRS, observers=[seen], show_progress_bar=False)
    direction, layer = seen.states[0] - seen.states[1], reranker.model.base_model.layers[LAYER]
    for strength in (-0.5, 0.0, 0.5):
        with layer.register_forward_hook(lambda _, args, output, by=strength: output + by * direction):
            print(strength, *(f"{each.log_odds:8.2f}" for each in reranker.judge(PAIRS, show_progress_bar=False)))


if __name__ == "__main__":
    main(*sys.argv[1:])
