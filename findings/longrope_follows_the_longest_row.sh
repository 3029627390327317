#!/usr/bin/env bash
# transformers 5.24.0: with "longrope" (Phi-3, Phi-4-mini) what a short text gets depends on how long the others in its
# batch are.
#
# The factors of the rotary embedding are those for short or for long contexts, and are chosen once for a forward pass,
# by its largest position. So a row of 20 tokens, padded and masked as it should be, has the same logits alone and beside
# one of 30 tokens, and quite others beside one of 40, where the model was trained on 32 (here a tiny one with random
# weights; of the published ones 4,096). Nothing warns. A reranker that batches passages by count and not by length scores
# the short ones by the long one that came with them.
#
# Output seen: largest difference of the short row's logits beside a row of 30 tokens: 0.0000; of 40 tokens: 0.8262
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" -W ignore - <<'PY'
import torch
from transformers import Phi3Config, Phi3ForCausalLM

torch.manual_seed(0)
sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 97, "pad_token_id": 0, "eos_token_id": 1}
config = Phi3Config(
    **sizes,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=256,
    original_max_position_embeddings=32,
    rope_parameters={
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 8,
        "long_factor": [1.0 + 2 * n for n in range(8)],
    },
)
model = Phi3ForCausalLM(config).eval()
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.3)
short = torch.randint(1, 97, (1, 20))
with torch.inference_mode():
    alone = model(short).logits[0]
    found = {}
    for length in (30, 40):
        ids = torch.zeros(2, length, dtype=torch.long)
        ids[0, :20], ids[1] = short[0], torch.randint(1, 97, (length,))
        mask = torch.ones_like(ids)
        mask[0, 20:] = 0
        beside = model(ids, attention_mask=mask).logits[0, :20]
        found[length] = float((beside - alone).abs().max())
        print(f"largest difference of the short row's logits beside a row of {length} tokens: {found[length]:.4f}")
assert found[30] < 1e-3 < 0.3 < found[40]
PY
