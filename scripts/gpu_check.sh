#!/usr/bin/env bash
# On a machine with a CUDA GPU, in under nine minutes: the GPU tests (graphs, 4-bit and 8-bit, running out of memory,
# reproducible bits, offload), the planner against measured memory with the shapes of a 7B and a 14B model, and the
# benchmark with the shape of the 7B. Leaves tests.txt, planner.json and .md, benchmark.json and .md.
# Needs no network and installs nothing: PYTHON must have torch, transformers, accelerate, pytest and hypothesis, and
# for the quantized models bitsandbytes.
#   PYTHON=python3.12 bash scripts/gpu_check.sh [folder for the report]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-python3}"
report="${1:-scripts/reports/gpu}"
export HF_HUB_OFFLINE=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

"$python" -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "gpu_check.sh needs a CUDA GPU")'
mkdir -p "$report"
# Each part may fail without costing the others; all outcomes decide the exit status.
status=0
timeout 150 "$python" -m pytest -rA -q -m gpu -p no:cacheprovider 2>&1 | tee "$report/tests.txt" || status=1
timeout 80 "$python" scripts/planner_check.py --config qwen2.5-7b qwen2.5-14b --output "$report" || status=1
timeout 300 "$python" scripts/benchmark.py --config qwen2.5-7b --dtype bfloat16 --workload ragged long-query \
  --pairs 512 --repeats 1 --batch-sizes 256 --peer-pairs generate=64 --output "$report" || status=1
exit "$status"
