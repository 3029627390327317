"""Ten minutes with rank1: rerank a small collection, look at one chain and its belief curve, write it all as a page.

python scripts/examples/ten_minutes.py [MODEL [PAGE]]
"""

import sys
from itertools import islice

from rank1_hf import Rank1, TraceOptions
from rank1_hf.evaluation.metrics import ndcg
from rank1_hf.files.beir import SAMPLE, read_beir
from rank1_hf.files.trec import read_run


def main(model: str | None = None, page: str = "ten_minutes.html") -> None:
    """Go through it step by step."""
    # 1. A collection: queries, documents, judgments (qrels), and a first stage's ranking.
    collection, run = read_beir(SAMPLE), read_run(SAMPLE / "bm25.trec")
    bm25 = {query: dict(islice(run[query].items(), 10)) for query in islice(run, 3)}
    places = [(query, document) for query, scores in bm25.items() for document in scores]
    pairs = [(collection.queries[query], collection.corpus[document].passage) for query, document in places]
    # 2. Rerank: the model thinks about every pair, and its scores order the documents.
    judgments = Rank1(model, max_new_tokens=128).judge(pairs, trace=TraceOptions(belief="sentences"))
    judged = list(zip(places, judgments, strict=True))
    reranked = {query: {d: each.log_odds for (q, d), each in judged if q == query} for query in bm25}
    qrels = {query: collection.qrels[query] for query in bm25}
    print(f"nDCG@10  BM25 {ndcg(qrels, bm25):.4f}  reranked {ndcg(qrels, reranked):.4f}")
    # 3. One chain, of the passage that the model scored highest, and its belief: the verdict behind each sentence.
    best = max(judgments, key=lambda judgment: judgment.log_odds)
    print(f"\n{pairs[best.index][0]}\n-> {collection.corpus[places[best.index][1]].title}\n{best.chain.strip()}")
    for point in best.trace.belief if best.trace is not None else []:
        print(f"after {point.n_tokens:3d} tokens  log_odds {point.log_odds:6.2f}")
    print(f"the verdict       log_odds {best.log_odds:6.2f}, relevant: {best.label}")
    judgments.to_html(page)  # 4. a page with every pair, chain and curve, which needs no network
    print(f"to look at: {page}")


if __name__ == "__main__":
    main(*sys.argv[1:])
