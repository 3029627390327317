#!/usr/bin/env bash
# haystack-ai 3.4.1: distribution-based fusion compares raw scores with scaled ones where a retriever has one hit.
#
# DocumentJoiner's distribution_based_rank_fusion is there to bring BM25, cosine and cross-encoder scores to one scale: 0 to 1,
# three standard deviations around the mean. Of a list of one document, or of equal scores, it keeps the scores as they are
# and sorts them among the scaled ones. So the only hit of BM25, which a query with one rare word has, comes first whatever the
# other retriever says, and the only hit of a reranker that gives logits comes last, though it be both retrievers' best. With
# a second, worse hit in its list the same document gets 0.67. LlamaIndex's method of that name gives such a list 1 or 0.
#
# Seen, for the hits of a dense retriever y 0.9, z 0.1 beside:
#   x 12.0: x 12.00, y 0.67, z 0.33; x 12.0, w 3.0: y 0.67, x 0.67, z 0.33, w 0.33
#   x -2.0: y 0.67, z 0.33, x -2.00; x -2.0, w -9.0: y 0.67, x 0.67, z 0.33, w 0.33
# Exits with 1 where this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q haystack-ai==3.4.1
HAYSTACK_TELEMETRY_ENABLED=False "$folder/venv/bin/python" -W ignore - <<'PY'
from haystack import Document
from haystack.components.joiners import DocumentJoiner


def hits(scores):
    return [Document(id=name, content=name, score=score) for name, score in scores.items()]


def fused(scores):
    joiner = DocumentJoiner(join_mode="distribution_based_rank_fusion")
    found = {doc.id: doc.score for doc in joiner.run([hits({"y": 0.9, "z": 0.1}), hits(scores)])["documents"]}
    given = ", ".join(f"{name} {score}" for name, score in scores.items())
    print(f"{given}: {', '.join(f'{name} {score:.2f}' for name, score in found.items())}")
    return found


for score, worse, place in ((12.0, 3.0, 0), (-2.0, -9.0, 2)):
    alone, with_second = fused({"x": score}), fused({"x": score, "w": worse})
    assert list(alone)[place] == "x" and alone["x"] == score
    assert abs(with_second["x"] - 2 / 3) < 1e-6 and abs(alone["y"] - 2 / 3) < 1e-6
PY
