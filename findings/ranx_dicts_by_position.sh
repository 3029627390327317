#!/usr/bin/env bash
# ranx 0.3.21: evaluate() with plain dicts compares the n-th query of the run with the n-th query of the qrels.
#
# Its documentation takes a dict of dicts for either argument. It checks that both have the same query ids, as sets, and
# then throws the ids away: utils.python_dict_to_typed_list keeps x.values() in the order of insertion. So a run whose
# queries stand in another order, as those of a reranker that sorts its input by length, is judged by the wrong qrels. A
# Qrels object is sorted by id as text ("10" before "2"): beside it even a dict in the order of the qrels file is misjudged.
# No error or warning tells of it, and the low values look like those of a poor model. Qrels with Run is right.
#
# Seen, for a run that ranks the one relevant document of each query first:
#   dict, dict in the same order: 1.0
#   dict, dict in another order: 0.0
#   Qrels, dict in the order of the qrels: 0.0
#   Qrels, Run: 1.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ranx==0.3.21 numba==0.68.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PY'
from ranx import Qrels, Run, evaluate

qrels = {"2": {"a": 1}, "10": {"b": 1}}
run = {"2": {"a": 2.0, "x": 1.0}, "10": {"b": 2.0, "y": 1.0}}
other_order = dict(reversed(run.items()))
found = {
    "dict, dict in the same order": evaluate(qrels, run, "ndcg@10"),
    "dict, dict in another order": evaluate(qrels, other_order, "ndcg@10"),
    "Qrels, dict in the order of the qrels": evaluate(Qrels(qrels), run, "ndcg@10"),
    "Qrels, Run": evaluate(Qrels(qrels), Run(other_order), "ndcg@10"),
}
for how, value in found.items():
    print(f"{how}: {value}")
assert list(found.values()) == [1.0, 0.0, 0.0, 1.0]
PY
