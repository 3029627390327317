"""Write a rule of your own: force tokens, and stop chains where you like.

python scripts/examples/stop_rule.py [MODEL]
"""

import sys
from collections.abc import Sequence

from rank1_hf import Rank1, Rule
from rank1_hf.tracing import BeliefPoint


class OneSentence(Rule):
    """A chain begins with the caller's words, and ends with its first sentence."""

    def __init__(self, reranker: Rank1, opening: str) -> None:
        self._opening = reranker.encoder.chain_ids(opening)
        self._ends_sentence = reranker.encoder.ends_sentence

    def stop(self, thought: Sequence[int], beliefs: Sequence[BeliefPoint]) -> bool:  # noqa: D102, the rule's
        return self._ends_sentence(thought)

    def force(self, thought: Sequence[int], token: int) -> Sequence[int]:  # noqa: D102, the rule's
        return [token] if thought else self._opening


def main(model: str | None = None) -> None:
    """Judge two passages with the rule, and without."""
    reranker = Rank1(model)
    query = "what carries the weight of an aircraft in flight"
    passages = ["The wing carries the weight of the aircraft in flight.", "Bread is made of flour, water and salt."]
    for rule in (None, OneSentence(reranker, "\nThe passage")):
        for judgment in reranker.judge([(query, passage) for passage in passages], rule=rule, show_progress_bar=False):
            n = judgment.n_chain_tokens
            print(f"{judgment.log_odds:8.2f}  {judgment.ended:8}{n:4d} tokens  {judgment.chain!r}")


if __name__ == "__main__":
    main(*sys.argv[1:])
