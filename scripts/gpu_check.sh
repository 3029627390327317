#!/usr/bin/env bash
# On a machine with a CUDA GPU, in at most six minutes: what only a GPU can measure, most informative first; see
# gpu_check.py. Needs no network and installs nothing: PYTHON must have torch, transformers, accelerate, pytest and
# hypothesis; what else is missing is said.
#   PYTHON=python3.12 bash scripts/gpu_check.sh [folder for the report] [--on-cpu]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export HF_HUB_OFFLINE=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" scripts/gpu_check.py "$@"
