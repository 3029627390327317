"""Minimal thinking: what does a longer chain change? The same pairs without thinking, as they are, and made to go on.

python scripts/examples/minimal_thinking.py [MODEL]
"""

import sys

from rank1_hf import Rank1

QUERY = "what carries the weight of an aircraft in flight"
PASSAGES = ["The wing carries the weight of the aircraft in flight.", "Bread is made of flour, water and salt."]
LEAST = 40  # tokens: a chain that would close earlier goes on with "Wait"


def main(model: str | None = None) -> None:
    """Judge both passages three times."""
    pairs = [(QUERY, passage) for passage in PASSAGES]
    usual = Rank1(model, max_new_tokens=128)
    patient = Rank1(model, max_new_tokens=128, min_thinking_tokens=LEAST)
    runs = {
        "no thinking": usual.judge(pairs, think=False, show_progress_bar=False),
        "as it is": usual.judge(pairs, show_progress_bar=False),
        f"at least {LEAST}": patient.judge(pairs, show_progress_bar=False),
    }
    for name, judgments in runs.items():
        for judgment in judgments:
            waits = judgment.chain.count("\nWait")
            print(f"{name:12} {judgment.log_odds:8.2f}  {judgment.n_chain_tokens:4d} tokens, {waits} times Wait")


if __name__ == "__main__":
    main(*sys.argv[1:])
