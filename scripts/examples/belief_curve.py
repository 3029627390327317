"""The belief curve: what the verdict would be if the chain were closed behind each of its sentences.

python scripts/examples/belief_curve.py [MODEL]
"""

import sys

from rank1_hf import Rank1, TraceOptions

QUERY = "what carries the weight of an aircraft in flight"
PASSAGES = ["The wing carries the weight of the aircraft in flight.", "Bread is made of flour, water and salt."]


def main(model: str | None = None) -> None:
    """Judge two passages, and print their curves."""
    reranker = Rank1(model)
    pairs = [(QUERY, passage) for passage in PASSAGES]
    for judgment in reranker.judge(pairs, trace=TraceOptions(belief="sentences"), show_progress_bar=False):
        assert judgment.trace is not None
        print(f"\n{PASSAGES[judgment.index]}")
        begin = 0
        for point in judgment.trace.belief:
            sentence = "".join(judgment.trace.texts[begin : point.n_tokens]).strip()
            print(f"{point.log_odds:8.2f}  {sentence or '(before thinking)'}")
            begin = point.n_tokens
        print(f"{judgment.log_odds:8.2f}  (the verdict)")
    stats = reranker.decoder.stats
    print(
        f"\n{stats.branches} points, for {stats.branch_tokens} more tokens beside {stats.decode_tokens} of the chains"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
