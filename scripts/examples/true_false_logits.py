"""Watch logits: an observer reads those of " true" and " false" at each token, long before the verdict asks for one.

python scripts/examples/true_false_logits.py [MODEL]
"""

import sys

from rank1_hf import Observer, Rank1
from rank1_hf.tracing import Needs, Reading, WatchedPair

PAIR = ("what carries the weight of an aircraft in flight", "The wing carries the weight of the aircraft in flight.")


class AnswerLogits(Observer):  # noqa: D101
    step_needs = verdict_needs = Needs(logits=True)

    def __init__(self, reranker: Rank1) -> None:
        self.encoder = reranker.encoder

    def step(self, pair: WatchedPair, token: int, reading: Reading) -> None:  # noqa: D102, the observer's
        self.show(self.encoder.decode([token]), reading)  # the logits that it was chosen by

    def verdict(self, pair: WatchedPair, reading: Reading) -> None:  # noqa: D102
        self.show("(the verdict)", reading)

    def show(self, text: str, reading: Reading) -> None:  # noqa: D102
        assert reading.logits is not None
        true, false = reading.logits[[self.encoder.true_id, self.encoder.false_id]].tolist()  # of the whole vocabulary
        print(f"true {true:7.2f}  false {false:7.2f}  log-odds {true - false:6.2f}  {text!r}")


def main(model: str | None = None) -> None:
    """Judge one pair, and print both logits at each token and at the verdict, whose difference is the score's."""
    reranker = Rank1(model)
    print(reranker.judge([PAIR], observers=[AnswerLogits(reranker)], show_progress_bar=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
