#!/usr/bin/env bash
# beir 2.2.0: NDCG@k and MRR@k of one run are means over different queries, and over different documents.
#
# evaluate() divides by the queries that pytrec_eval found in the run and the qrels; evaluate_custom() (mrr, recall_cap,
# hole, top_k_accuracy) divides by all queries of the qrels. A query for which the first stage found nothing is absent
# from a run, so it leaves NDCG, MAP, Recall and P untouched and lowers MRR, R_cap and Accuracy: Recall@10 and R_cap@10,
# which are one number where no query has more than 10 relevant documents, differ, and Recall is the greater.
# Besides, evaluate() by default takes a document whose id is the query's out of the caller's run (ArguAna, Quora), as a
# log line says; evaluate_custom() does not. So MRR depends on whether evaluate() was called before it.
#
# Seen, where one of two queries is missing: NDCG@10 1.0, Recall@10 1.0, MRR@10 0.5, R_cap@10 0.5
# Seen, where the query stands before its answer: MRR@10 0.5 before evaluate(), 1.0 after
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pytrec-eval-terrier==0.5.11 numpy==2.4.6 tqdm==4.70.1
"$folder/venv/bin/pip" install -q --no-deps beir==2.2.0  # its other needs are for retrieval
"$folder/venv/bin/python" -W ignore - <<'PY'
from beir.retrieval.evaluation import EvaluateRetrieval

qrels = {"q1": {"a": 1}, "q2": {"b": 1}}
run = {"q1": {"a": 1.0}}
ndcg, _, recall, _ = EvaluateRetrieval.evaluate(qrels, run, [10])
mrr = EvaluateRetrieval.evaluate_custom(qrels, run, [10], "mrr")
capped = EvaluateRetrieval.evaluate_custom(qrels, run, [10], "recall_cap")
print(ndcg, recall, mrr, capped)
assert (ndcg["NDCG@10"], recall["Recall@10"]) == (1.0, 1.0)
assert (mrr["MRR@10"], capped["R_cap@10"]) == (0.5, 0.5)

qrels, run = {"argument": {"counter": 1}}, {"argument": {"argument": 2.0, "counter": 1.0}}
before = EvaluateRetrieval.evaluate_custom(qrels, run, [10], "mrr")
EvaluateRetrieval.evaluate(qrels, run, [10])
after = EvaluateRetrieval.evaluate_custom(qrels, run, [10], "mrr")
print("before", before, "after", after, "the run", run)
assert (before["MRR@10"], after["MRR@10"]) == (0.5, 1.0)
assert run == {"argument": {"counter": 1.0}}
PY
