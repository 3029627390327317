#!/usr/bin/env python3
"""How much faster pairs are verified than decoded: the same pairs of the sample of Cranfield, in this process.

    python scripts/verify_speed.py --model CHECKPOINT --pairs 16 --batch-size 1

Both are timed once, decoding first, after a pair that warms the model up.
"""

import argparse
import json
import time
from collections.abc import Callable
from itertools import islice
from typing import TypeVar

from rank1_hf import Rank1
from rank1_hf.files.beir import SAMPLE, read_beir
from rank1_hf.files.trec import read_run

_T = TypeVar("_T")


def main() -> None:
    """Time both, and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a hub name or a checkpoint folder; without it the embedded model")
    parser.add_argument("--pairs", type=int, default=16, help="how many (16)")
    parser.add_argument("--batch-size", type=int, help="how many decode together at most; without it what is fast")
    parser.add_argument("--max-new-tokens", type=int, default=512, help="the budget of a chain (512)")
    parser.add_argument("--dtype", default="float32", help="float32, float16 or bfloat16 (float32)")
    options = parser.parse_args()

    collection, run = read_beir(SAMPLE), read_run(SAMPLE / "bm25.trec")
    every = ((query, document) for query, documents in run.items() for document in documents)
    pairs = [(collection.queries[query], collection.corpus[document].passage) for query, document in every]
    pairs = list(islice(pairs, options.pairs))
    model = Rank1(options.model, dtype=options.dtype, max_new_tokens=options.max_new_tokens)
    model.judge(pairs[:1], show_progress_bar=False)

    decoding, judgments = timed(lambda: model.judge(pairs, batch_size=options.batch_size, show_progress_bar=False))
    records = [
        {"query": pairs[each.index][0], "passage": pairs[each.index][1], "completion": each.chain, "score": each.score}
        | {"ended": each.ended}
        for each in judgments
    ]
    verifying, found = timed(lambda: model.verify(records, show_progress_bar=False))
    measured = {
        "pairs": len(pairs),
        "prompt_tokens": sum(each.n_prompt_tokens for each in judgments) / len(pairs),
        "chain_tokens": sum(each.n_chain_tokens for each in judgments) / len(pairs),
        "decoding_seconds": round(decoding, 2),
        "verifying_seconds": round(verifying, 2),
        "times_as_fast": round(decoding / verifying, 2),
        "agree": found.summary.n_agree,
    }
    print(json.dumps(measured))


def timed(call: Callable[[], _T]) -> tuple[float, _T]:
    """Seconds on the clock, and what a call gives."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    main()
