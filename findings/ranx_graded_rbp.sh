#!/usr/bin/env bash
# ranx 0.3.21: rank-biased precision of graded qrels goes beyond 1.
#
# Its documentation defines RBP with "r_i is either 0 or 1, whether the i-th ranked document is non-relevant or relevant".
# _rank_biased_precision multiplies with the grade of the qrels instead, and neither scales it to 0..1 nor caps it; rel_lvl
# only drops the grades below it. On binary qrels nothing is to be seen; on TREC Deep Learning's (0 to 3) the values are up
# to three times those of cwl_eval (through ir_measures), and the mean of a measure that cannot pass 1 can be above it.
#
# Seen, for the ranking of grades 3, 2, 0 at p = 0.5: ranx 2.0, with rel_lvl 2 the same; cwl_eval and the formula 0.75.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ranx==0.3.21 numba==0.68.1 numpy==2.4.6 ir-measures==0.4.3 cwl-eval==1.0.12
"$folder/venv/bin/python" -W ignore - <<'PY'
import ir_measures
from ranx import Qrels, Run, evaluate

qrels = {"q": {"a": 3, "b": 2, "c": 0}}
run = {"q": {"a": 3.0, "b": 2.0, "c": 1.0}}
by_ranx = evaluate(Qrels(qrels), Run(run), ["rbp.50", "rbp.50-l2"])
binary = ir_measures.RBP(rel=1, p=0.5)
by_cwl = ir_measures.cwl_eval.calc_aggregate([binary], qrels, run)[binary]
formula = (1 - 0.5) * (1 * 0.5**0 + 1 * 0.5**1 + 0 * 0.5**2)
print({name: float(value) for name, value in by_ranx.items()}, "cwl_eval", float(by_cwl), "formula", formula)
assert by_ranx == {"rbp.50": 2.0, "rbp.50-l2": 2.0}
assert abs(by_cwl - formula) < 1e-9
PY
