"""A forced close of your own: what stands behind a chain that ran out of tokens, before its verdict is read.

python scripts/examples/forced_close.py [MODEL]

A forced close is a function of token ids: the prompt and the chain so far, to the whole closed context.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace

from rank1_hf import Rank1

PAIR = ("what carries the weight of an aircraft in flight", "The wing carries the weight of the aircraft in flight.")


def main(model: str | None = None) -> None:
    """Cut a chain at 12 tokens, and close it in three ways."""
    reranker = Rank1(model, max_new_tokens=12)
    official = reranker.decoder.rules  # cuts the chain behind its last sentence
    so = reranker.encoder.chain_ids(" ... so the answer is\n")

    def where_it_is(prompt: Sequence[int], chain: Sequence[int]) -> list[int]:
        return [*prompt, *chain, *official.close]  # without the official line break too

    def with_words(prompt: Sequence[int], chain: Sequence[int]) -> list[int]:
        return [*prompt, *chain, *so, *official.close]

    for name, close in (("official", official.force_close), ("as it is", where_it_is), ("with words", with_words)):
        reranker.decoder.rules = replace(official, force_close=close)
        (judgment,) = reranker.judge([PAIR], show_progress_bar=False)
        print(f"{name:10} {judgment.log_odds:8.2f}  {judgment.ended}: {judgment.chain!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
