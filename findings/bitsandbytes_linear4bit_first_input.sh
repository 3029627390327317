#!/usr/bin/env bash
# bitsandbytes 0.50.2: a Linear4bit computes for ever in the dtype of the first input that it sees.
#
# Without compute_dtype, of which its documentation says nothing, forward() takes the dtype of the first input, if that is
# float32 or bfloat16, and asks no more. After one call in bfloat16 each float32 input is rounded to bfloat16, multiplied there
# and handed back as float32, so its dtype tells nothing. On the way the float32 bias is rounded in place, and stays so in
# state_dict(). A warm-up or one request in bfloat16 thus changes all later results in float32, and two replicas of one
# checkpoint differ by what they were asked first. float16 is not kept for later inputs, but the bias is rounded to it as well.
#
# Seen, for a float32 input whose exact result is 64.115625, as result, bias, dtype of the bias in state_dict():
#   fresh: 64.115623, 0.10000000, torch.float32
#   after a call in torch.bfloat16: 64.000000, 0.10009766, torch.bfloat16
#   after a call in torch.float16: 64.115601, 0.09997559, torch.float32
# Exits with 1 where this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 bitsandbytes==0.50.2 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - 2>"$folder/errors" <<'PY' || { cat "$folder/errors"; exit 1; }
import torch
from bitsandbytes.nn import Linear4bit

x = torch.full((1, 64), 1 + 2**-12)


def after(first=None):
    layer = Linear4bit(64, 1, quant_type="nf4", compress_statistics=False)
    layer.load_state_dict({"weight": torch.ones(1, 64), "bias": torch.tensor([0.1])})
    layer = layer.to("cpu")
    with torch.no_grad():
        if first is not None:
            layer(x.to(first))
        result = layer(x)
    bias = layer.bias.item(), layer.state_dict()["bias"].dtype
    print(f"{'fresh' if first is None else f'after a call in {first}'}: {result.item():.6f}, {bias[0]:.8f}, {bias[1]}")
    assert result.dtype == torch.float32
    return result.item(), *bias


result, bias, dtype = after()
assert abs(result - 64.115625) < 1e-5 and abs(bias - 0.1) < 1e-8 and dtype == torch.float32
assert after(torch.bfloat16) == (64.0, torch.tensor(0.1).bfloat16().item(), torch.bfloat16)
result, bias, dtype = after(torch.float16)
assert abs(result - 64.1156) < 1e-5 and bias == torch.tensor(0.1).half().item() and dtype == torch.float32
PY
