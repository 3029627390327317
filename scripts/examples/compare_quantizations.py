"""Compare quantizations: the same pairs by the checkpoint as it is and by 8-bit and 4-bit weights, side by side.

python scripts/examples/compare_quantizations.py [MODEL [FOLDER]]

Writes for each a page with both runs (8bit.html) and a plot of their verdicts (8bit.svg) into the folder. Needs
`pip install 'rank1-hf[plots]'`. scripts/quantization_agreement.py has the figures for many pairs.
"""

import sys
from pathlib import Path
from typing import Literal

from rank1_hf import Rank1
from rank1_hf.viewing import plots
from rank1_hf.viewing.pieces import divergence

QUERY = "what carries the weight of an aircraft in flight"
PASSAGES = ["The wing carries the weight of the aircraft in flight.", "A ship carries its weight through the water."]
KINDS: tuple[Literal["8bit", "4bit"], ...] = ("8bit", "4bit")


def main(model: str | None = None, folder: str = ".") -> None:
    """Judge the same pairs three times, and show where the chains diverge."""
    pairs = [(QUERY, passage) for passage in PASSAGES]
    exact = Rank1(model).judge(pairs, trace=True, show_progress_bar=False)
    for kind in KINDS:
        judgments = Rank1(model, quantization=kind).judge(pairs, trace=True, show_progress_bar=False)
        print(kind)
        for one, other in zip(exact, judgments, strict=True):
            parting = divergence(one, other)
            where = "never" if parting is None else f"at token {parting[0]}"
            print(f"{one.log_odds:8.2f} -> {other.log_odds:8.2f}  chains diverge {where}: {PASSAGES[one.index]}")
        exact.to_html(page := Path(folder, f"{kind}.html"), other=judgments, names=("as it is", kind))
        plots.agreement(exact, judgments, ("as it is", kind)).savefig(page.with_suffix(".svg"))
        print(f"to look at: {page}, {page.with_suffix('.svg')}")


if __name__ == "__main__":
    main(*sys.argv[1:])
