#!/usr/bin/env bash
# Triton's interpreter (TRITON_INTERPRET=1) computes with the bit patterns of bfloat16 numbers as if they were integers.
#
# Versions: triton 3.7.1, numpy 2.4.6, torch 2.13.0 (3.9.0 does the same).
# Behaviour: nothing is refused and nothing is warned about. `-x` of 1.0 (0x3F80) is the bit pattern 0xC080, which is
#   -4.0, and the product of two unit matrices has 0x3F80 * 0x3F80 = 264257536 where it should have 1. float16 and
#   float32 are right. Values that are cast to float32 before anything is computed with them are right as well.
# What follows: a kernel for bfloat16 is tested in the interpreter in float16, or it is written so that it casts first.
# Output seen:
#   torch.float16: -1 is -1.0, unit matrix times itself has 1.0
#   torch.bfloat16: -1 is -4.0, unit matrix times itself has 264257536.0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 triton==3.7.1 numpy==2.4.6
cat >"$folder/kernels.py" <<'PYTHON'
import torch
import triton
import triton.language as tl


@triton.jit
def negate(source, target):
    lane = tl.arange(0, 16)
    tl.store(target + lane, -tl.load(source + lane))


@triton.jit
def square(source, target):
    lane = tl.arange(0, 16)
    place = lane[:, None] * 16 + lane[None, :]
    matrix = tl.load(source + place)
    tl.store(target + place, tl.dot(matrix, matrix))


found = {}
for dtype in (torch.float16, torch.bfloat16):
    negated, product = torch.zeros(16, dtype=dtype), torch.zeros(16, 16)
    negate[(1,)](torch.ones(16, dtype=dtype), negated)
    square[(1,)](torch.eye(16, dtype=dtype), product)
    found[dtype] = negated[0].item(), product[0, 0].item()
    print(f"{dtype}: -1 is {negated[0].item()}, unit matrix times itself has {product[0, 0].item()}")
assert found[torch.float16] == (-1.0, 1.0)
assert found[torch.bfloat16] == (-4.0, 264257536.0)
PYTHON
TRITON_INTERPRET=1 "$folder/venv/bin/python" "$folder/kernels.py"
