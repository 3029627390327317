#!/usr/bin/env bash
# ir_measures 0.4.3 with its gdeval provider: ERR@10 is 0 for query ids such as PLAIN-1.
#
# gdeval.pl takes the digits of a topic and drops what stands before them; what it gives back is then looked up under
# the whole id and not found. The same run with the id 1 has ERR@10 0.9375 / 2^... (see below): the same documents and
# grades give another number, and nothing is raised.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
command -v perl > /dev/null || { echo "needs perl"; exit 1; }
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ir-measures==0.4.3
"$folder/venv/bin/python" - <<'PY'
import ir_measures
from ir_measures import ERR

for query in ("1", "PLAIN-1"):
    value = ir_measures.calc_aggregate([ERR @ 10], {query: {"a": 4}}, {query: {"a": 2.0, "b": 1.0}})[ERR @ 10]
    print(f"query {query}: ERR@10 {value}")
    assert (value > 0) == (query == "1")
PY
