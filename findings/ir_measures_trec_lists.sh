#!/usr/bin/env bash
# ir_measures 0.4.3: of a list of trec_eval's names the first is taken alone, if it has a cutoff, and the others vanish.
#
# trec_eval writes several cutoffs of one measure as P.5,10, which parse_trec_measure reads so. What is no number among
# them it leaves out. Seen: "recall_100,map" is [R@100], and "P.5,x" is [P@5], without a word. The other way round,
# "map,recall_100", is a ValueError.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ir-measures==0.4.3
"$folder/venv/bin/python" - <<'PY'
from ir_measures import parse_trec_measure

for names, expected in (("P.5,10", ["P@5", "P@10"]), ("recall_100,map", ["R@100"]), ("P.5,x", ["P@5"])):
    found = [str(measure) for measure in parse_trec_measure(names)]
    print(f"{names}: {found}")
    assert found == expected
try:
    found = parse_trec_measure("map,recall_100")
except ValueError as error:
    print(f"map,recall_100: {error}")
else:
    raise SystemExit(f"map,recall_100: {found}")
PY
