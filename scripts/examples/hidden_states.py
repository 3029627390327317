"""Watch hidden states: an observer keeps a layer's state at every token, and shows where along a chain it turns.

python scripts/examples/hidden_states.py [MODEL]
"""

import sys

import torch

from rank1_hf import Observer, Rank1
from rank1_hf.tracing import Needs, Reading, WatchedPair

PAIR = ("what carries the weight of an aircraft in flight", "The wing carries the weight of the aircraft in flight.")
LAYER = 2  # from 0; with output_hidden_states Transformers has it as hidden_states[LAYER + 1]


class LayerStates(Observer):  # noqa: D101
    step_needs = Needs(hidden_states=frozenset({LAYER}))

    def __init__(self) -> None:
        self.states: list[torch.Tensor] = []

    def step(self, pair: WatchedPair, token: int, reading: Reading) -> None:  # noqa: D102, the observer's
        self.states.append(reading.hidden_states[LAYER].float().cpu())  # of many pairs: by pair.index


def main(model: str | None = None) -> None:
    """Judge one pair, and print how far the layer moves from token to token."""
    observer = LayerStates()
    trace = Rank1(model).trace(*PAIR, observers=[observer])
    states = torch.stack(observer.states)[: len(trace.texts) + 1]  # at the prompt's last token, then at the chain's
    cosines = torch.cosine_similarity(states[1:], states[:-1])
    print(f"layer {LAYER}: {len(states)} states; the largest turns are at")
    for cosine, place in zip(*(each.tolist() for each in cosines.topk(3, largest=False)), strict=True):
        print(f"{cosine:8.3f}  {trace.texts[place]!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
