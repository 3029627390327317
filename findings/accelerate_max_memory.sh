#!/usr/bin/env bash
# accelerate 1.15.0: in max_memory a lower-case b means bits, and the caller's dict is rewritten in place.
#
# get_max_memory({"cpu": "20MB"}) gives 20,000,000 bytes, "20mb" and "20Mb" 2,500,000, without a word; and afterwards
# the dict that was handed over holds the numbers instead of the text.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 accelerate==1.15.0
"$folder/venv/bin/python" -W ignore - <<'PY'
from accelerate.utils import get_max_memory

for text, expected in (("20MB", 20_000_000), ("20Mb", 2_500_000), ("20mb", 2_500_000)):
    mine = {"cpu": text}
    given = get_max_memory(mine)["cpu"]
    print(f"{text}: {given} bytes; the caller's dict afterwards: {mine}")
    assert given == expected
    assert mine == {"cpu": expected}
PY
