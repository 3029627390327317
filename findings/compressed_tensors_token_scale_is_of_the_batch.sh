#!/usr/bin/env bash
# compressed-tensors 0.20.0: strategy "token" quantizes a 2-D input with one scale for the whole batch.
#
# W8A8 and FP8_DYNAMIC give each token a scale of its own. compute_dynamic_scales_and_zp keeps dimensions 0 and 1 and reduces
# the others: the hidden one of (batch, tokens, hidden). Of (rows, hidden) no dimension is left to reduce, which the next line
# takes for "per tensor". A Linear gets such inputs behind a pooler (the head of a cross-encoder) and in the experts of a
# mixture, where the rows are the tokens of all documents. The document beside it with the largest activation then sets
# the step for each other one, without an error, and the same rows as (1, rows, hidden) give other values. vLLM's kernels
# have a scale per row in both cases, so what was evaluated in Transformers is not what is served.
#
# Seen, for a row whose exact value is -1.6540: alone -1.6292, beside a row 100 times as large -1.2918; as (1, rows, hidden)
# -1.6292 both times.
# Exits with 1 where this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 compressed-tensors==0.20.0
"$folder/venv/bin/python" -W ignore - 2>"$folder/errors" <<'PY' || { cat "$folder/errors"; exit 1; }
import torch
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

head = torch.nn.Sequential(torch.nn.Linear(16, 1, bias=False))
head[0].weight.data = torch.cos(torch.arange(16.0))[None]
row, neighbour = torch.sin(0.7 * torch.arange(16.0)), 100 * torch.cos(0.3 * torch.arange(16.0))
exact = (head[0].weight[0] @ row).item()
apply_quantization_config(head, QuantizationConfig(config_groups={"W8A8": ["Linear"]}))
print(head[0].quantization_scheme.input_activations.strategy, head[0].quantization_scheme.input_activations.dynamic)
head[0].weight_scale.data = head[0].weight.data.abs().amax(1, keepdim=True) / 127.5


@torch.no_grad()
def value(*rows, leading):
    return head(torch.stack(rows).reshape(*leading, len(rows), 16)).flatten()[0].item()


found = {leading: (value(row, leading=leading), value(row, neighbour, leading=leading)) for leading in ((), (1,))}
print(f"exact {exact:.4f}")
for leading, (alone, beside) in found.items():
    print(f"{len(leading) + 2}-D: alone {alone:.4f}, beside the large row {beside:.4f}")
assert all(abs(value - exact) < 0.05 for value in (*found[(1,)], found[()][0]))
assert found[(1,)][0] == found[(1,)][1]
assert abs(found[()][1] - exact) > 0.1
PY
