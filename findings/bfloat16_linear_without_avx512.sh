#!/usr/bin/env bash
# torch 2.13.0: on an x86 processor without AVX-512 a linear layer in bfloat16 is faster than in float32 for one row, and
# many times slower for as few as 32.
#
# One row takes a kernel of its own, which reads half of the bytes. From some rows on PyTorch multiplies matrices, and
# oneDNN has no bfloat16 products for these processors (AVX2: all of Intel's desktops since 2021, AMD's before 2022), so a
# loop of PyTorch's runs that is not blocked. So what is right for one chat is wrong for a batch: 32 rows of a step, or a
# prompt, take several times as long as in float32. Nothing warns. `torch.ops.mkldnn._is_mkldnn_bf16_supported()` tells.
#
# Output seen (one thread, 2,048 x 2,048, medians): 1 row: bfloat16 takes 0.8 times float32's time; 32 rows: 6.5 times
set -euo pipefail
if grep -q avx512f /proc/cpuinfo || ! grep -q avx2 /proc/cpuinfo; then
    echo "this is about processors with AVX2 and without AVX-512"
    exit 0
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy
"$folder/venv/bin/python" -W ignore - <<'PY'
import statistics
import time

import torch

torch.set_num_threads(1)
weights = [torch.randn(2048, 2048) for _ in range(8)]  # more than the caches hold


def seconds(n_rows: int, dtype: torch.dtype) -> float:
    states, matrices, times = torch.randn(n_rows, 2048).to(dtype), [weight.to(dtype) for weight in weights], []
    for matrix in matrices * 3:
        start = time.perf_counter()
        torch.nn.functional.linear(states, matrix)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


one, many = (seconds(n, torch.bfloat16) / seconds(n, torch.float32) for n in (1, 32))
print(f"1 row: bfloat16 takes {one:.1f} times float32's time; 32 rows: {many:.1f} times")
assert one < 1.2 and many > 2
assert not torch.ops.mkldnn._is_mkldnn_bf16_supported()
PY
