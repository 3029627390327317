"""Plots: how long chains are, how belief moves along them, and what thinking changes in the verdicts.

python scripts/examples/draw_plots.py [MODEL [FOLDER]]

Writes lengths.svg, beliefs.svg and agreement.svg. Needs `pip install 'rank1-hf[plots]'`.
"""

import sys
from pathlib import Path

from rank1_hf import Rank1, TraceOptions
from rank1_hf.viewing import plots

QUERY = "what carries the weight of an aircraft in flight"
PASSAGES = [
    "The wing carries the weight of the aircraft in flight.",
    "Bread is made of flour, water and salt.",
    "In flight the pressure under a wing is higher than the pressure above it.",
    "A ship carries its weight through the water.",
]


def main(model: str | None = None, folder: str = ".") -> None:
    """Judge some passages, with thinking and without, and draw."""
    pairs = [(QUERY, passage) for passage in PASSAGES]
    reranker = Rank1(model, max_new_tokens=64)
    thinking = reranker.judge(pairs, trace=TraceOptions(belief=4), show_progress_bar=False)
    short = Rank1(model, max_new_tokens=16).judge(pairs, show_progress_bar=False)
    silent = reranker.judge(pairs, think=False, show_progress_bar=False)
    plots.chain_lengths({"64 tokens": thinking, "16 tokens": short}).savefig(Path(folder, "lengths.svg"))
    plots.belief_curves(thinking).savefig(Path(folder, "beliefs.svg"))
    plots.agreement(silent, thinking, ("without thinking", "with")).savefig(Path(folder, "agreement.svg"))
    print("to look at:", *(str(Path(folder, f"{name}.svg")) for name in ("lengths", "beliefs", "agreement")))


if __name__ == "__main__":
    main(*sys.argv[1:])
