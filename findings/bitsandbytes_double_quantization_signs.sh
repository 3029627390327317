#!/usr/bin/env bash
# bitsandbytes 0.50.2: double quantization can turn the sign of all 64 weights of a block.
#
# The scale of a 4-bit block is the largest absolute value in it. With compress_statistics (the default of Linear4bit; nested
# quantization "at no additional performance cost" in the documentation of Transformers) each 256 scales are stored as 8-bit
# differences from the mean scale of the layer, in steps that grow with the largest difference. A small scale comes back as
# mean plus step: it may be several times too large, and below zero, which nothing forbids. A negative scale mirrors its block.
# One weight of 3 among 16384, as the outliers of a down_proj are, is enough for a row of small weights: the score w.x of
# the row with itself comes out negative. The rows beside it, and an error averaged over the layer, look as they should.
#
# Seen, as a multiple of the exact w.x:
#   row of 0.001:  plain NF4 1.01, double quantization 4.89; neighbour 1.01, 0.99
#   row of 0.0005: plain NF4 1.01, double quantization -6.79; neighbour 1.01, 0.99
# Exits with 1 where this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 bitsandbytes==0.50.2 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PY'
import torch
from bitsandbytes.nn import Linear4bit

ROW, NEIGHBOUR = 5, 6


def outputs(weight, x, double):
    layer = Linear4bit(64, 256, bias=False, quant_type="nf4", compute_dtype=torch.float32, compress_statistics=double)
    layer.load_state_dict({"weight": weight})
    with torch.no_grad():
        return layer.to("cpu")(x)[0, [ROW, NEIGHBOUR]] / (weight[[ROW, NEIGHBOUR]] @ x[0])


def check(size):
    weight = 0.06 * torch.cos(torch.arange(256 * 64.0)).reshape(256, 64)
    weight[0, 0] = 3.0
    weight[ROW] *= size / 0.06
    x = weight[ROW : ROW + 1] / size
    plain, double = outputs(weight, x, False), outputs(weight, x, True)
    print(
        f"row of {size}: plain NF4 {plain[0]:.2f}, double quantization {double[0]:.2f};"
        f" neighbour {plain[1]:.2f}, {double[1]:.2f}"
    )
    assert all(abs(value - 1) < 0.03 for value in (plain[0], plain[1], double[1]))
    return double[0]


assert 4 < check(0.001) < 6
assert -8 < check(0.0005) < -5
PY
