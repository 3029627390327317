#!/usr/bin/env bash
# repro_eval 0.5.0: Kendall's tau of two rankings depends on what the documents are called.
#
# KTU ("compares the document orderings of the original and reproduced runs") replaces each document by its place in the
# alphabetical union of both runs and correlates these numbers rank by rank. Kendall's tau of two orderings needs the ranks
# document by document; the two agree only where the original run happens to stand in alphabetical order, as the d1, d2, d3
# of examples do. Real ids are not in the order of relevance. So runs that differ by one swap of neighbours get a tau
# anywhere from 0.8 to -0.4, a reversed ranking can get +0.6, and both move when the corpus is given other ids. Equal runs
# get 1 in any case, so nothing looks wrong. It hurts whoever judges by KTU whether a reranking was reproduced, or whether
# another dtype or batch size kept it.
#
# Seen, over all ways to name five documents (scipy.stats.kendalltau of the ranks is 0.8 and -1.0):
#   first two swapped: [-0.4, 0.0, 0.4, 0.8]
#   reversed: [-1.0, -0.6, -0.2, 0.2, 0.6]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q repro-eval==0.5.0 scipy==1.17.1 numpy==2.4.6 pandas==3.1.1
"$folder/venv/bin/python" -W ignore - <<'PY'
from itertools import permutations

from repro_eval.measure.document_order import KTU
from scipy.stats import kendalltau

original = [0, 1, 2, 3, 4]


def run(documents):
    return {"q": {document: -float(rank) for rank, document in enumerate(documents)}}


def taus(other):
    """KTU of the same two rankings under each naming of the documents."""
    namings = permutations("abcde")
    return sorted({round(KTU(run([n[d] for d in original]), run([n[d] for d in other])), 6) for n in namings})


for what, other, expected in (
    ("first two swapped", [1, 0, 2, 3, 4], [-0.4, 0.0, 0.4, 0.8]),
    ("reversed", [4, 3, 2, 1, 0], [-1.0, -0.6, -0.2, 0.2, 0.6]),
):
    ranks = kendalltau(original, [other.index(document) for document in original]).statistic
    found = taus(other)
    print(f"{what}: {found}; of the ranks {ranks:.1f}")
    assert found == expected
    assert abs(ranks - (0.8 if what == "first two swapped" else -1.0)) < 1e-9
PY
