#!/usr/bin/env bash
# bitsandbytes 0.50.2: what LLM.int8 gives for one row depends on the other rows of the batch.
#
# Linear8bitLt multiplies in 16 bits the columns in which any row of the batch exceeds the threshold (6.0), and all
# others in 8. A row beside one with an outlier is therefore rounded differently from the same row alone. Seen: the
# first row's output changes with what stands beside it; with threshold 0 it does not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 bitsandbytes==0.50.2
"$folder/venv/bin/python" -W ignore - <<'PY'
import bitsandbytes as bnb
import torch

torch.manual_seed(0)
for threshold, expected in ((6.0, True), (0.0, False)):
    layer = bnb.nn.Linear8bitLt(64, 64, bias=False, has_fp16_weights=False, threshold=threshold)
    layer.load_state_dict({"weight": torch.randn(64, 64)})
    layer = layer.to("cpu")
    row = torch.randn(1, 64, dtype=torch.float16)
    loud = torch.zeros(1, 64, dtype=torch.float16)
    loud[0, 3] = 50
    alone, beside = layer(row)[0], layer(torch.cat([row, loud]))[0]
    changed = not torch.equal(alone, beside)
    print(f"threshold {threshold}: the row changes: {changed}, by {(alone - beside).abs().max():.4f} at most")
    assert changed == expected
PY
