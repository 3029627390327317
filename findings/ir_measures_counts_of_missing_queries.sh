#!/usr/bin/env bash
# ir_measures 0.4.3: NumQ and NumRel leave out the judged queries that a run lacks, over which every mean is taken.
#
# Its means are over all judged queries: one that the run lacks counts as 0, as with trec_eval -c. But its NumQ ("the
# total number of queries") and NumRel ("independent of what the system retrieved") are 0 for such a query too, where
# trec_eval -c reports all queries and all their relevant documents (m_num_q.c and m_num_rel.c have an average of their
# own for this). So a report of ir_measures says "1 query" beside means over 4.
#
# Seen: AP 0.25 = 1/4, NumQ 1, NumRel 1; there are 4 queries and 8 relevant documents.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q ir-measures==0.4.3
"$folder/venv/bin/python" - <<'PYTHON'
import ir_measures
from ir_measures import AP, NumQ, NumRel

qrels = {"q1": {"a": 1}, "q2": {"a": 1, "b": 1}, "q3": {"a": 1, "b": 1}, "q4": {"a": 1, "b": 1, "c": 1}}
run = {"q1": {"a": 1.0}}
found = ir_measures.calc_aggregate([AP, NumQ, NumRel], qrels, run)
print({str(measure): value for measure, value in found.items()})
assert found[AP] == 0.25, "the mean is over the 4 judged queries"
assert (found[NumQ], found[NumRel]) == (1, 1), "and they are counted as 1, with 1 relevant document of 8"
PYTHON
