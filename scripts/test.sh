#!/usr/bin/env bash
# Everything that must hold before a commit: style, types, tests. Makes .venv at the first run.
#   PYTHON=python3.12 bash scripts/test.sh [options of pytest]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1

[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet --no-compile torch==2.13.0 -e ".[test]"
.venv/bin/ruff check
.venv/bin/ruff format --check
.venv/bin/mypy
# Two workers, one thread each: more threads than cores only slow each other down. A file's tests run in one worker, which
# builds what they share once.
OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" exec .venv/bin/pytest -n 2 --dist loadfile "$@"
