"""Tokens per second of this package and of `generate()`: `python scripts/bench.py [MODEL [PAIRS TOKENS]]`. Copy it."""

import sys
import time

from transformers import AutoModelForCausalLM

from rank1_hf import EMBEDDED_MODEL, Rank1
from rank1_hf.files.beir import SAMPLE, read_beir
from rank1_hf.models.loading import eos_ids

if sys.argv[1:2] in (["-h"], ["--help"]):
    sys.exit(__doc__)
name, collection = sys.argv[1] if sys.argv[1:] else str(EMBEDDED_MODEL), read_beir(SAMPLE)
n_pairs, max_new_tokens = map(int, sys.argv[2:] or (32, 256))
query, documents = next(iter(collection.queries.values())), list(collection.corpus.values())
pairs = [(query, document.passage) for document in documents[:n_pairs]]
ours = Rank1(name, max_new_tokens=max_new_tokens)
theirs = AutoModelForCausalLM.from_pretrained(name, dtype=ours.model.dtype, device_map=ours.model.device)
prompts = ours.tokenizer.pad({"input_ids": [list(ours.encode(*pair).ids) for pair in pairs]}, padding_side="left")
inputs = prompts.convert_to_tensors("pt").to(theirs.device)
close, eos = list(ours.encoder.close_ids), list(eos_ids(theirs, ours.tokenizer))
options = {"eos_token_id": eos + close, "max_new_tokens": max_new_tokens, "do_sample": False}
if len(close) > 1:  # `</think>` in several tokens
    options |= {"eos_token_id": eos, "stop_strings": ours.encoder.markers.close, "tokenizer": ours.tokenizer}
for label in ("rank1_hf", "generate()") * 2:  # the first round warms up
    start, ends = time.perf_counter(), []
    if label == "rank1_hf":
        ends = [judgment.n_chain_tokens for judgment in ours.judge(pairs, show_progress_bar=False)]
    else:
        for row in theirs.generate(**inputs, **options)[:, inputs.input_ids.shape[1] :].tolist():  # padded at its end
            found = (n for n in range(len(row)) if row[n] in eos or row[n : n + len(close)] == close)
            ends.append(next(found, len(row)))
    print(f"{label:10} {sum(ends) / (time.perf_counter() - start):6.0f} tokens/s ({sum(ends)} in {n_pairs} chains)")
