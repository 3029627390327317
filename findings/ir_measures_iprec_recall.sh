#!/usr/bin/env bash
# ir_measures 0.4.3: the recall of IPrec is rounded to two decimals, and the value is that of another recall.
#
# The name goes to pytrec_eval as iprec_at_recall_{recall:.2f}; the result is given back under the name that was asked
# for. Seen, where 24 of 100 relevant documents lead and the next stands at rank 51: IPrec@0.244 takes 25 of them, so by
# its definition it is 0.7937, as IPrec@0.25 is; it is given as 1.0, which is IPrec@0.24, without a word.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ir-measures==0.4.3 pytrec-eval-terrier==0.5.11
"$folder/venv/bin/python" - <<'PY'
import ir_measures

relevant = [True] * 24 + [False] * 26 + [True] * 76 + [False] * 74  # 100 relevant ones
qrels = {"q": {str(n): 1 for n, hit in enumerate(relevant) if hit}}
run = {"q": {str(n): -float(n) for n in range(len(relevant))}}


def definition(recall):
    found = [sum(relevant[:n]) for n in range(1, len(relevant) + 1)]
    return max(hits / n for n, hits in enumerate(found, 1) if hits >= recall * 100)


for recall in (0.24, 0.244, 0.25):
    (result,) = ir_measures.iter_calc([ir_measures.IPrec @ recall], qrels, run)
    print(f"IPrec@{recall}: {result.measure} {result.value:.4f}, by its definition {definition(recall):.4f}")
    assert (result.value > definition(recall) + 0.2) == (recall == 0.244)
PY
