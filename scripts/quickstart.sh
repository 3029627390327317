#!/usr/bin/env bash
# Rerank real text with the model that ships with the package. Makes .venv at the first run.
#   PYTHON=python3.12 bash scripts/quickstart.sh [options of rank1-hf demo]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1

[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
echo "Installing into .venv (the first time this takes a few minutes) ..."
.venv/bin/python -m pip install --quiet --no-compile torch==2.13.0 -e .
exec .venv/bin/rank1-hf demo "$@"
