#!/usr/bin/env bash
# ir_measures 0.4.3: RR and RR@10 break the same tie in opposite directions.
#
# RR goes to pytrec_eval, which puts the greater document id first; RR@10 goes to a port of MS MARCO's script, which puts
# the lesser one first. Neither keeps the run's order. So of two documents of equal score, in a ranking far shorter than
# ten, RR@10 is not RR. Seen: RR 1.0, RR@10 0.5 where the relevant document has the greater id; 0.5 and 1.0 otherwise.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ir-measures==0.4.3 pytrec-eval-terrier==0.5.11
"$folder/venv/bin/python" - <<'PY'
import ir_measures
from ir_measures import RR

run = {"q": {"a": 1.0, "b": 1.0}}
for relevant, expected in (("a", (0.5, 1.0)), ("b", (1.0, 0.5))):
    values = ir_measures.calc_aggregate([RR, RR @ 10], {"q": {relevant: 1}}, run)
    print(f"{relevant} is relevant: RR {values[RR]}, RR@10 {values[RR @ 10]}")
    assert (values[RR], values[RR @ 10]) == expected
PY
