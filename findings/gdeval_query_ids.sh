#!/usr/bin/env bash
# ir_measures 0.4.3 with its gdeval provider: ERR@10 is half of what it should be for query ids such as PLAIN-1.
#
# gdeval.pl keeps a topic's number and drops what stands before it. Its value comes back under the id "1", the
# query's own id gets 0, and the mean is taken over both. Seen: 0.9375 for the query 1, 0.46875 for the same query as
# PLAIN-1. Nothing is raised.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
command -v perl > /dev/null || { echo "needs perl"; exit 1; }
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ir-measures==0.4.3
"$folder/venv/bin/python" - <<'PY'
import ir_measures
from ir_measures import ERR

for query, expected in (("1", 0.9375), ("PLAIN-1", 0.46875)):
    qrels, run = {query: {"a": 4}}, {query: {"a": 2.0, "b": 1.0}}
    mean = ir_measures.calc_aggregate([ERR @ 10], qrels, run)[ERR @ 10]
    values = {metric.query_id: metric.value for metric in ir_measures.iter_calc([ERR @ 10], qrels, run)}
    print(f"query {query}: ERR@10 {mean}, by query {values}")
    assert mean == expected
PY
