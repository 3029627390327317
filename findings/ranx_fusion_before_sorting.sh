#!/usr/bin/env bash
# ranx 0.3.21: fuse() ranks by insertion where a Run was filled by add_score, until somebody evaluates that Run.
#
# Run.add_score only marks the run as unsorted; evaluate() and save() sort it in place, fuse() does not. The methods that
# read ranks (rrf, isr, log_isr, rbc, bordafuse, condorcet) and the norms "rank" and "borda" take the order of the
# underlying dict for the ranking. The order of a first stage's candidates, or of a file, is then fused instead of the
# scores. A Run made from a dict is sorted at once, so it depends on how the run was built, and on what was called before:
# the same line gives another fused ranking after an evaluation of its inputs, which ought to change nothing.
#
# Seen, for two runs that both rank "z" first:
#   fused before: ['x', 'y', 'z'], MRR 0.3333333333333333
#   fused after the runs were evaluated: ['z', 'y', 'x'], MRR 1.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ranx==0.3.21 numba==0.68.1 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PY'
from ranx import Qrels, Run, evaluate, fuse

qrels = Qrels({"q": {"z": 1}})
runs = [Run(name="first"), Run(name="second")]
for run in runs:
    for doc_id, score in (("x", 1.0), ("y", 2.0), ("z", 3.0)):
        run.add_score("q", doc_id, score)


def fused():
    found = fuse(runs, method="rrf")
    return list(found["q"]), evaluate(qrels, found, "mrr")


before = fused()
print("fused before: {}, MRR {}".format(*before))
for run in runs:
    assert evaluate(qrels, run, "mrr") == 1.0
after = fused()
print("fused after the runs were evaluated: {}, MRR {}".format(*after))
assert before == (["x", "y", "z"], 1 / 3)
assert after == (["z", "y", "x"], 1.0)
PY
