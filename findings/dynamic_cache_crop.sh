#!/usr/bin/env bash
# transformers 5.17.0 and 5.24.0: DynamicCache.crop(n), which kept the first n tokens, raises; and the argument of a
# model's forward that takes the cache has another name.
#
# In 5.17 crop(5) leaves 5 of 8 tokens, and forward has `past_key_values`. In 5.24 crop(5) is a ValueError, crop takes
# the negative number of tokens to remove, and forward has `cache`. What works in both: crop(-3), and handing the cache
# over as the fourth positional argument.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 5.17.0 5.24.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install -q torch==2.13.0 "transformers==$version"
    "$folder/$version/bin/python" -W ignore - "$version" <<'PY'
import inspect
import sys

import torch
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM


def cache_of(n_tokens):
    cache = DynamicCache()
    cache.update(torch.zeros(1, 2, n_tokens, 4), torch.zeros(1, 2, n_tokens, 4), 0)
    return cache


is_old = sys.argv[1] == "5.17.0"
cache = cache_of(8)
try:
    cache.crop(5)
    print(sys.argv[1], "crop(5) leaves", cache.get_seq_length())
    assert is_old and cache.get_seq_length() == 5
except ValueError as error:
    print(sys.argv[1], "crop(5):", error)
    assert not is_old
cache = cache_of(8)
cache.crop(-3)
assert cache.get_seq_length() == 5
fourth = list(inspect.signature(Qwen2ForCausalLM.forward).parameters)[4]
print(sys.argv[1], "the fourth argument of forward is", fourth)
assert fourth == ("past_key_values" if is_old else "cache")
sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
model = Qwen2ForCausalLM(Qwen2Config(**sizes, num_key_value_heads=2)).eval()
cache = DynamicCache()
model(torch.tensor([[1, 2, 3]]), None, None, cache)
assert cache.get_seq_length() == 3
PY
done
