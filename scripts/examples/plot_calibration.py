"""Calibration: are passages with a score of 0.8 relevant 8 times in 10? Judges the sample of Cranfield that is here.

python scripts/examples/plot_calibration.py [MODEL [PLOT]]

The plot is an .svg, .png or .pdf, as its name says. Needs `pip install 'rank1-hf[plots]'`.
"""

import sys

from rank1_hf import Rank1
from rank1_hf.files.beir import SAMPLE, read_beir
from rank1_hf.files.trec import read_run
from rank1_hf.viewing.plots import calibration

PER_QUERY = 5  # candidates, from the top of BM25's


def main(model: str | None = None, plot: str = "calibration.svg") -> None:
    """Judge the first candidates of every query, and compare the scores with the qrels."""
    collection, run = read_beir(SAMPLE), read_run(SAMPLE / "bm25.trec")
    places = [(query, document) for query, candidates in run.items() for document in list(candidates)[:PER_QUERY]]
    reranker = Rank1(model, max_new_tokens=128)
    pairs = [(collection.queries[query], collection.corpus[document].passage) for query, document in places]
    judgments = reranker.judge(pairs)
    relevant = [collection.qrels[query].get(document, 0) > 0 for query, document in places]
    calibration(judgments, relevant).savefig(plot)

    said = [judgment.score for judgment in judgments if judgment.error is None]
    print(f"{len(said)} passages: the model says {sum(said) / len(said):.0%} are relevant,", end=" ")
    print(f"the qrels say {sum(relevant) / len(relevant):.0%}; see {plot}")


if __name__ == "__main__":
    main(*sys.argv[1:])
