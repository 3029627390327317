"""The vLLM peer, run by the Python of an environment that has vLLM: workloads in, outcomes out, a line of JSON each.

It follows the recipe of the rank1 model card: greedy, up to " true" or " false" behind `</think>`, the score from the
log-probabilities of the last token; chains without an answer are closed and read in a second call.
It imports nothing of this project.
"""

import argparse
import json
import os
import sys
import time
from typing import Any

STOP = ["</think> true", "</think> false"]


def main() -> None:
    """Load, then answer until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever vLLM prints is a message, not an answer
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--max-tokens", type=int, required=True, help="prompt and chain together")
    options = parser.parse_args()

    import vllm

    model = vllm.LLM(options.model, dtype=options.dtype, max_model_len=options.max_tokens, tensor_parallel_size=1)
    print(json.dumps({"version": vllm.__version__}), file=answers, flush=True)
    for line in sys.stdin:
        model.reset_prefix_cache()  # or the second repeat would find the prompts of the first
        print(json.dumps(judge(model, **json.loads(line))), file=answers, flush=True)


def judge(model: Any, closes: bool, items: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: ANN401
    """Judge every pair.

    Args:
        model: a `vllm.LLM`.
        closes: whether the model ends its chains itself; otherwise every chain has exactly its `limit`.
        items: `prompt` (token ids) and `limit` of each pair.
    """
    from vllm import SamplingParams, TokensPrompt

    tokenizer = model.get_tokenizer()
    answer_ids = [tokenizer(answer, add_special_tokens=False).input_ids[0] for answer in (" true", " false")]
    start = time.perf_counter()
    settings = [
        SamplingParams(
            temperature=0,
            max_tokens=item["limit"],
            logprob_token_ids=answer_ids,  # cheaper than the most likely 20 of every step
            stop=STOP if closes else None,
            ignore_eos=not closes,
            skip_special_tokens=False,
        )
        for item in items
    ]
    prompts = [TokensPrompt(prompt_token_ids=item["prompt"]) for item in items]
    outputs = [output.outputs[0] for output in model.generate(prompts, settings, use_tqdm=False)]
    closed = [closes and output.stop_reason in STOP for output in outputs]
    last = [output.logprobs[-1] for output in outputs]

    left = [index for index, is_closed in enumerate(closed) if not is_closed]
    if left:
        endings = [f"\n{cut_to_last_sentence(outputs[index].text)}\n</think>" for index in left]
        forced = [
            TokensPrompt(
                prompt_token_ids=items[index]["prompt"] + tokenizer(ending, add_special_tokens=False).input_ids
            )
            for index, ending in zip(left, endings, strict=True)
        ]
        verdict = SamplingParams(
            temperature=0, max_tokens=1, logprob_token_ids=answer_ids, allowed_token_ids=answer_ids
        )
        for index, output in zip(left, model.generate(forced, verdict, use_tqdm=False), strict=True):
            last[index] = output.outputs[0].logprobs[-1]
    seconds = time.perf_counter() - start
    n_marker_tokens = len(tokenizer("</think> true", add_special_tokens=False).input_ids)
    return {
        "seconds": seconds,
        "first_seconds": seconds,
        "log_odds": [known[answer_ids[0]].logprob - known[answer_ids[1]].logprob for known in last],
        "chain_tokens": [
            len(output.token_ids) - n_marker_tokens * is_closed
            for output, is_closed in zip(outputs, closed, strict=True)
        ],
        "n_closed": sum(closed),
    }


def cut_to_last_sentence(chain: str) -> str:
    """The official code's repair of an unfinished chain."""
    text = chain.rstrip()
    if not text.endswith((".", "!", "?")):
        end = max(text.rfind(mark) for mark in ".!?")
        if end != -1:
            text = text[: end + 1]
    return text.strip()


if __name__ == "__main__":
    main()
