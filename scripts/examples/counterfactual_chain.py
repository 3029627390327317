"""Counterfactual chains: does the verdict follow from the chain? Leave a sentence out, or give it another's chain.

python scripts/examples/counterfactual_chain.py [MODEL]
"""

import re
import sys

from rank1_hf import Rank1

QUERY = "what carries the weight of an aircraft in flight"
RELEVANT = "The wing carries the weight of the aircraft in flight."
OTHER = "Bread is made of flour, water and salt."


def main(model: str | None = None) -> None:
    """Score chains that the model has not thought."""
    reranker = Rank1(model)
    relevant, other = reranker.judge([(QUERY, RELEVANT), (QUERY, OTHER)], show_progress_bar=False)
    print(f"{relevant.log_odds:8.2f}  the chain as it was thought")
    silent = reranker.judge([(QUERY, RELEVANT)], think=False, show_progress_bar=False)[0]
    print(f"{silent.log_odds:8.2f}  without thinking")

    sentences = re.findall(r"[^.!?]*[.!?]+|[^.!?]+$", relevant.chain)
    for left_out, sentence in enumerate(sentences):
        chain = "".join(sentences[:left_out] + sentences[left_out + 1 :])
        scored = reranker.score_chain(QUERY, RELEVANT, chain)
        print(f"{scored.log_odds:8.2f}  without: {sentence.strip()}")

    swapped = reranker.score_chain(QUERY, RELEVANT, other.chain)
    print(f"{swapped.log_odds:8.2f}  with the chain of the other passage")
    resumed = reranker.score_chain(QUERY, RELEVANT, sentences[0], resume=True)
    print(f"{resumed.log_odds:8.2f}  thinking on from the first sentence ({resumed.n_chain_tokens} tokens)")


if __name__ == "__main__":
    main(*sys.argv[1:])
