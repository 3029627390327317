#!/usr/bin/env bash
# trectools 0.0.50: nDCG and RBP of a re-scored run are those of the ranking before; MAP, P, RR and Rprec are of the new one.
#
# get_ndcg documents trec_eval=True (the default) as "the same as trec_eval, e.g., sort documents by score first". The
# other measures sort by it; get_ndcg only chooses the linear gain by it, and takes the rows as they stand (get_rbp too).
# read_run sorts a file as it reads it, so files look right; load_run_from_dataframe, which is the way for scores that were
# computed in Python, does not sort. Who writes a reranker's scores into the data frame of the first stage reads an
# nDCG@10 that no reranker can move, beside a MAP that moves.
#
# Seen, where the only relevant document has the highest score and stands in the last of three rows:
#   trectools: nDCG@10 0.5, RBP 0.125, MAP 1.0, P@1 1.0, RR 1.0
#   pytrec_eval: nDCG@10 1.0, MAP 1.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q trectools==0.0.50 pandas==3.1.1 numpy==2.4.6 pytrec-eval-terrier==0.5.11
"$folder/venv/bin/python" -W ignore - <<'PY'
import pandas as pd
import pytrec_eval
from trectools import TrecEval, TrecQrel, TrecRun

scores = {"x": 0.1, "y": 0.2, "a": 0.9}
qrels = TrecQrel()
qrels.qrels_data = pd.DataFrame([("q", "0", "a", 1)], columns=["query", "q0", "docid", "rel"])
run = TrecRun()
rows = [("q", "Q0", doc_id, rank, score, "reranker") for rank, (doc_id, score) in enumerate(scores.items(), 1)]
run.load_run_from_dataframe(pd.DataFrame(rows, columns=["query", "q0", "docid", "rank", "score", "system"]))

judge = TrecEval(run, qrels)
unsorted = float(judge.get_ndcg(depth=10, trec_eval=True)), float(judge.get_rbp(p=0.5)[0])
by_score = judge.get_map(), judge.get_precision(depth=1), judge.get_reciprocal_rank()
by_score = tuple(float(value) for value in by_score)
print("trectools: nDCG@10 {}, RBP {}, MAP {}, P@1 {}, RR {}".format(*unsorted, *by_score))
oracle = pytrec_eval.RelevanceEvaluator({"q": {"a": 1}}, {"ndcg_cut.10", "map"}).evaluate({"q": scores})["q"]
print("pytrec_eval: nDCG@10 {}, MAP {}".format(oracle["ndcg_cut_10"], oracle["map"]))
assert unsorted == (0.5, 0.125)
assert by_score == (1.0, 1.0, 1.0)
assert oracle == {"ndcg_cut_10": 1.0, "map": 1.0}
PY
