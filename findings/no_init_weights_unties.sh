#!/usr/bin/env bash
# Transformers 5.24.0: under no_init_weights, a model with tied embeddings is built untied.
#
# transformers.initialization.no_init_weights, which is there to build a model fast before its weights are loaded, puts an
# empty function in the place of PreTrainedModel.init_weights. That function also ties the weights. So the output layer
# gets a parameter of its own, num_parameters() counts the embeddings twice, and what is planned by that figure (memory, what
# fits on a GPU) is too large: for a Qwen2 of the shape of Qwen2.5-0.5B by 28%. Loading ties afterwards, as does a call of
# tie_weights(). Seen: "494032768 True", "630167424 False", "494032768 True".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0
"$folder/venv/bin/python" - <<'PY'
import torch
from transformers import AutoModelForCausalLM, Qwen2Config
from transformers.initialization import no_init_weights

config = Qwen2Config(
    vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
    num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True,
)


def about(model):
    return model.num_parameters(), model.get_output_embeddings().weight is model.get_input_embeddings().weight


with torch.device("meta"):
    usual = about(AutoModelForCausalLM.from_config(config))
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(config)
fast = about(model)
model.tie_weights()
tied = about(model)
for found in (usual, fast, tied):
    print(*found)
assert usual == tied == (494032768, True)
assert fast == (630167424, False)
PY
