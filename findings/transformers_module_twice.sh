#!/usr/bin/env bash
# Transformers 5.24.0: importing its processors puts a second module object in the place of `transformers`.
#
# transformers.processing_utils executes the package's __init__ once more when it is imported (as AutoProcessor and whatever
# imports it do, sentence-transformers among them), which sets sys.modules["transformers"] anew. Who imported the package
# before has another object than who imports it after: they share the classes, but an attribute that is set on one, by a
# test's monkeypatch for example, is not seen through the other. Seen: False, True, then "patched" beside 5.24.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" - <<'PY'
import transformers as before
from transformers import PreTrainedConfig
import transformers.processing_utils
import transformers as after

print(before is after, after.PreTrainedConfig is PreTrainedConfig)
after.__version__ = "patched"
print(after.__version__, before.__version__)
assert before is not after and after.PreTrainedConfig is PreTrainedConfig
assert before.__version__ == "5.24.0"
PY
