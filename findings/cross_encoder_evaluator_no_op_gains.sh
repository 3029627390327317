#!/usr/bin/env bash
# sentence-transformers 6.2.0: with always_rerank_positives=False, a reranker that changes nothing gains over its own base.
#
# CrossEncoderRerankingEvaluator reports the first stage ("base") and the reranked list of samples with "documents". The
# base appends the positives that the first stage missed below the list, so they count in the ideal DCG and among AP's
# relevant documents. With False, which the documentation calls "more realistic", the reranked list is judged as if these
# positives did not exist. The difference that is printed and written to the model card ("Base -> Reranked") is then the
# recall that the first stage lacks, not the work of the reranker; neither figure of the pair is comparable to the other.
#
# Seen, for a model whose scores keep the order of 100 documents, 1 of 3 positives first among them, 2 not retrieved:
#   False: ndcg@10 1.0, base 0.469; map 1.0, base 0.35
#   True:  ndcg@10 0.469, base 0.469; map 0.35, base 0.35
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 sentence-transformers==6.2.0 transformers==5.24.0
"$folder/venv/bin/python" -W ignore - <<'PY'
from types import SimpleNamespace

import numpy as np
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

documents = [f"passage {place}" for place in range(100)]
samples = [{"query": "q", "positive": ["passage 0", "missed", "missed too"], "documents": documents}]


class SameOrder:
    """What the evaluator asks of a CrossEncoder: scores, and a card to write to."""

    model_card_data = SimpleNamespace(set_evaluation_metrics=lambda *args: None)

    def predict(self, pairs, **options):
        place_of = {text: place for place, text in enumerate([*documents, "missed", "missed too"])}
        return np.array([-float(place_of[text]) for _, text in pairs])


found = {}
for always in (False, True):
    evaluator = CrossEncoderRerankingEvaluator(samples, always_rerank_positives=always, write_csv=False)
    found[always] = {name: round(float(value), 3) for name, value in evaluator(SameOrder()).items()}
    print(always, found[always])
assert (found[False]["ndcg@10"], found[False]["base_ndcg@10"]) == (1.0, 0.469)
assert (found[False]["map"], found[False]["base_map"]) == (1.0, 0.35)
assert found[True]["ndcg@10"] == found[True]["base_ndcg@10"] == 0.469
assert found[True]["map"] == found[True]["base_map"] == 0.35
PY
