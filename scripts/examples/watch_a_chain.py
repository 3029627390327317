"""Watch a chain: its tokens as they come, then how sure the model was of each.

    python scripts/examples/watch_a_chain.py [MODEL]

Needs `pip install 'rank1-hf[tracing]'` for the table.
"""

import sys

from rank1_hf import Judgment, Rank1

QUERY = "what carries the weight of an aircraft in flight"
PASSAGE = "The wing carries the weight of the aircraft in flight."


def main(model: str | None = None) -> None:
    """Think about one pair aloud, and once more for the record."""
    reranker = Rank1(model)
    for event in reranker.stream(QUERY, PASSAGE):
        if isinstance(event, Judgment):
            print(f"\n\n{event.ended}: relevant {event.label}, log_odds {event.log_odds:.2f}\n")
        else:
            print(event.text, end="", flush=True)

    frame = reranker.trace(QUERY, PASSAGE).to_pandas()
    doubtful = frame.sort_values("margin").head(5)
    print("where the model was least sure of the next token:")
    print(doubtful[["position", "text", "logprob", "alternative_text", "margin", "entropy"]].to_string(index=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
