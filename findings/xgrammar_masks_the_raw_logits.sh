#!/usr/bin/env bash
# xgrammar 0.2.9 in transformers 5.24.0: the "unprocessed" logits of generate() are masked by the grammar.
#
# output_logits=True is documented to return the unprocessed scores of the language modeling head, output_scores=True the
# processed ones. generate() keeps no copy: the tensor that it hands to the processors is the one that it returns as logits.
# The processors of transformers answer with a new tensor; xgrammar.contrib.hf.LogitsProcessor masks the one that it is
# given. So in greedy search and sampling both results are the masked one, and in beam search, which makes a log softmax
# first, logits are what they are called. Who forces a judge to say "true" or "false" by a grammar and reads from logits how
# sure the model was over its whole vocabulary gets 1 for the two together, whatever it would have said instead.
#
# Seen, as the probability of "true" or "false" in the softmax of logits, for a random model of 8 tokens:
#   greedy: free 0.26, with the grammar 1.00; 2 beams: free 0.26, with the grammar 0.26
# Exits with 1 where this has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 xgrammar==0.2.9
"$folder/venv/bin/python" -W ignore - <<'PY'
import torch
import xgrammar
from transformers import Qwen2Config, Qwen2ForCausalLM
from xgrammar.contrib.hf import LogitsProcessor

VOCABULARY = ["true", "false", "yes", "no", " ", "a", "b", "</s>"]
sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
torch.manual_seed(0)
model = Qwen2ForCausalLM(Qwen2Config(**sizes, num_key_value_heads=2, vocab_size=len(VOCABULARY))).eval()
tokens = xgrammar.TokenizerInfo(VOCABULARY, stop_token_ids=[7])
grammar = xgrammar.GrammarCompiler(tokens).compile_grammar('root ::= "true" | "false"')
prompt = torch.tensor([[5, 6]])


def answer_mass(processors, num_beams):
    output = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), logits_processor=processors, num_beams=num_beams,
        max_new_tokens=1, do_sample=False, pad_token_id=7, eos_token_id=7, return_dict_in_generate=True,
        output_logits=True,
    )
    return output.logits[0][0].softmax(-1)[:2].sum().item()


for name, num_beams in (("greedy", 1), ("2 beams", 2)):
    free, masked = answer_mass([], num_beams), answer_mass([LogitsProcessor(grammar)], num_beams)
    print(f"{name}: free {free:.2f}, with the grammar {masked:.2f}")
    assert 0.1 < free < 0.5
    assert abs(masked - (1 if num_beams == 1 else free)) < 1e-6
PY
