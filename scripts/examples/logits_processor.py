"""Logits processors: Transformers' own decide which tokens a chain may take; the verdict's logits stay the model's.

python scripts/examples/logits_processor.py [MODEL]
"""

import sys

from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor, SuppressTokensLogitsProcessor

from rank1_hf import Rank1

PAIR = ("what carries the weight of an aircraft in flight", "The wing carries the weight of the aircraft in flight.")


def main(model: str | None = None) -> None:
    """Judge a pair three times: as it is, with a word forbidden, and without repeating four tokens either."""
    reranker = Rank1(model)
    device = str(reranker.device)
    word = reranker.encoder.chain_ids(" weight")
    forbidden = SuppressTokensLogitsProcessor(word, device=device)
    both = LogitsProcessorList([forbidden, NoRepeatNGramLogitsProcessor(4)])
    for name, processor in (("as it is", None), ("forbidden", forbidden), ("no repeats", both)):
        (judgment,) = reranker.judge([PAIR], logits_processor=processor, show_progress_bar=False)
        print(f"{name:10} {judgment.log_odds:8.2f}  {judgment.ended:7} {judgment.chain!r}")

    # by index, for some pairs alone; the same pair twice is then decoded twice
    plain, changed = reranker.judge([PAIR] * 2, logits_processor={1: forbidden}, show_progress_bar=False)
    print("the first one is as it was:", plain.chain != changed.chain)


if __name__ == "__main__":
    main(*sys.argv[1:])
