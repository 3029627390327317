"""Tokens per second of this package and of `generate()`, for the same pairs. Copy it, and put in your own.

python scripts/bench.py [MODEL]
"""

import sys
import time

from transformers import AutoModelForCausalLM

from rank1_hf import Rank1
from rank1_hf.files.beir import SAMPLE, read_beir
from rank1_hf.models.loading import EMBEDDED_MODEL, eos_ids

N_PAIRS, MAX_NEW_TOKENS = 32, 256


def main(name: str = str(EMBEDDED_MODEL)) -> None:
    """One query and the first passages of a collection, all in one batch."""
    collection = read_beir(SAMPLE)
    query, documents = next(iter(collection.queries.values())), list(collection.corpus.values())
    pairs = [(query, document.passage) for document in documents[:N_PAIRS]]
    ours = Rank1(name, max_new_tokens=MAX_NEW_TOKENS)
    theirs = AutoModelForCausalLM.from_pretrained(name, dtype=ours.model.dtype, device_map=ours.model.device)
    tokenizer, close = ours.tokenizer, list(ours.encoder.close_ids)
    prompts = {"input_ids": [list(ours.encode(*pair).ids) for pair in pairs]}
    batch = tokenizer.pad(prompts, padding_side="left", return_tensors="pt").to(theirs.device)
    eos = [*eos_ids(theirs, tokenizer), *(close if len(close) == 1 else [])]
    stop = {} if len(close) == 1 else {"stop_strings": ours.encoder.markers.close, "tokenizer": tokenizer}

    def judge() -> int:
        return sum(judgment.n_chain_tokens for judgment in ours.judge(pairs, show_progress_bar=False))

    def generate() -> int:
        ids = theirs.generate(**batch, max_new_tokens=MAX_NEW_TOKENS, do_sample=False, eos_token_id=eos, **stop)
        return sum(length(row) for row in ids[:, batch.input_ids.shape[1] :].tolist())

    def length(row: list[int]) -> int:  # up to `</think>`, as ours counts
        ends = (place for place in range(len(row)) if row[place] in eos or row[place : place + len(close)] == close)
        return next(ends, len(row))

    for label, decode in (("rank1_hf", judge), ("generate()", generate)):
        decode()  # warms up
        start = time.perf_counter()
        n_tokens = decode()
        seconds = time.perf_counter() - start
        print(f"{label:10} {n_tokens / seconds:6.0f} tokens/s ({n_tokens} tokens in {N_PAIRS} chains)")


if __name__ == "__main__":
    main(*sys.argv[1:])
