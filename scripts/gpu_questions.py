"""Questions that only a GPU can answer, each answered in a line of its own as soon as it is.

    python scripts/gpu_questions.py --config qwen2.5-7b --output questions.jsonl

A part of gpu_check.sh. On a CPU, with the embedded model, the answers say nothing; that shows that all questions run.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from benchmark import CONFIGS, build
from benchmarking.limits import Cost, Limits, measure_decode, measure_limits
from benchmarking.peers import Checkpoint, Ours
from benchmarking.workloads import Source, Workload, read_source
from transformers import AutoConfig
from transformers.utils import logging as transformers_logging

from rank1_hf.decoding.loop import Decoder
from rank1_hf.decoding.options import DecodingOptions
from rank1_hf.decoding.requests import Request
from rank1_hf.decoding.stats import Stats
from rank1_hf.files.beir import SAMPLE
from rank1_hf.models.devices import resolve_device
from rank1_hf.models.loading import load_model, open_checkpoint
from rank1_hf.models.memory import GPU_PREFILL_TOKENS, kv_bytes_per_token, step_bytes
from rank1_hf.prompts.prompt import PromptEncoder

Answer = tuple[bool | None, str]
"""Whether it is as it should be (None: there is no bar), and the figures."""


@dataclasses.dataclass(frozen=True, slots=True)
class Setup:
    """What all questions are asked of.

    Attributes:
        checkpoint: the model.
        source: of prompts.
        limits: of the machine.
        is_large: whether it is a model of the size that the bars are for; otherwise sizes are small, too.
    """

    checkpoint: Checkpoint
    source: Source
    limits: Limits
    is_large: bool

    def decoder(self, **options: Any) -> Decoder:  # noqa: ANN401
        """A new decode loop over the model, whose chains go on to their budget."""
        return Ours(self.checkpoint, (), DecodingOptions(**options)).decoder(closes=False)

    def workload(self, n_pairs: int, n_prompt: int, n_chain: int) -> Workload:
        """Pairs that are alike in length; fewer and shorter for a small model."""
        if not self.is_large:
            n_pairs, n_prompt, n_chain = min(n_pairs, 3), min(n_prompt, 96), min(n_chain, 4)
        return self.source.of_lengths(n_pairs, n_prompt, n_chain)


def graphs_survive_growth(setup: Setup) -> Answer:
    """What share of the decode steps is captured while the KV pools grow from one page."""
    decoder = setup.decoder()
    decoder._cache._capacity = 1
    n_decoding = n_prefilled = 0

    def on_step(stats: Stats) -> None:
        nonlocal n_decoding, n_prefilled
        n_decoding += stats.prefill_tokens == n_prefilled
        n_prefilled = stats.prefill_tokens

    for n_pairs in (1, 4, 16):
        judge(decoder, setup.workload(n_pairs, 300, 48), on_step)
    share = decoder.stats.captured_steps / max(n_decoding, 1)
    return on_gpu(
        share >= 0.95
    ), f"{share:.0%} of {n_decoding} decode steps captured, {decoder._cache.n_moves} pool moves"


def new_lengths_cost_nothing(setup: Setup) -> Answer:
    """Whether the first prompt of a length takes longer than the second; SDPA with cuDNN and without beside it."""
    decoder = setup.decoder()
    lengths = range(200, 200 + 20 * 7, 7) if setup.is_large else range(60, 70, 5)
    judge(decoder, setup.workload(1, 150, 1))  # compiles

    def first_and_again(work: Callable[[int], None]) -> tuple[float, float]:
        """Milliseconds of all lengths, twice."""
        first, again = (1e3 * sum(seconds(partial(work, n)) for n in lengths) for _ in range(2))
        return first, again

    ours = first_and_again(lambda n: judge(decoder, setup.workload(1, n, 1)))
    told = [f"{len(lengths)} lengths: ours {ours[0]:.0f} ms, again {ours[1]:.0f}"]
    for name, is_on in (("no cuDNN", False), ("cuDNN", True)):
        torch.backends.cuda.enable_cudnn_sdp(is_on)
        first, again = first_and_again(partial(masked_attention, setup))
        told.append(f"SDPA, {name} {first:.0f} ms, again {again:.0f}")
    return on_gpu(ours[0] < 2 * ours[1]), "; ".join(told)


def one_row(setup: Setup) -> Answer:
    """What share of the bandwidth limit a decode step of one row reaches."""
    return decode(setup, 1, 300, bar=0.65)


def eight_rows(setup: Setup) -> Answer:
    """The same with 8 rows."""
    return decode(setup, 8, 300)


def thirty_two_rows(setup: Setup) -> Answer:
    """The same with 32 rows."""
    return decode(setup, 32, 300)


def many_rows(setup: Setup) -> Answer:
    """The same with 256 rows."""
    return decode(setup, 256, 300)


def long_contexts(setup: Setup) -> Answer:
    """What a step of one row takes with 700 and with 8,000 tokens of context."""
    return decode(setup, 1, 8000)


def captures(setup: Setup) -> Answer:
    """How long a capture takes."""
    if not torch.cuda.is_available():
        return None, "no GPU"
    starts: list[float] = []
    taken: list[float] = []
    begin, end = torch.cuda.CUDAGraph.capture_begin, torch.cuda.CUDAGraph.capture_end

    def timed_begin(graph: torch.cuda.CUDAGraph, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        starts.append(time.perf_counter())
        begin(graph, *arguments, **options)

    def timed_end(graph: torch.cuda.CUDAGraph) -> None:
        end(graph)
        taken.append(time.perf_counter() - starts[-1])

    with (
        mock.patch.object(torch.cuda.CUDAGraph, "capture_begin", timed_begin),
        mock.patch.object(torch.cuda.CUDAGraph, "capture_end", timed_end),
    ):
        judge(setup.decoder(), setup.workload(8, 300, 24))
    return None, f"{len(taken)} captures, {1e3 * sum(taken) / max(len(taken), 1):.0f} ms each"


def memory_is_kept(setup: Setup) -> Answer:
    """Whether a run that fills the KV cache stays within `gpu_memory_utilization` of the GPU's memory, by 2%."""
    if not torch.cuda.is_available():
        return None, "no GPU"
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    config, dtype = setup.checkpoint.model.config, setup.checkpoint.model.dtype
    room = step_bytes(config, dtype, n_tokens=GPU_PREFILL_TOKENS + 256, n_rows=256, on_gpu=True)
    room += 20_000 * kv_bytes_per_token(config, dtype)
    share = min((total - free + room) / total, 0.95)
    decoder, used = setup.decoder(gpu_memory_utilization=share), 0

    def on_step(stats: Stats) -> None:
        nonlocal used
        used = max(used, total - torch.cuda.mem_get_info()[0])

    judge(decoder, setup.workload(128, 300, 24), on_step)
    return used <= (share + 0.02) * total, f"{used / total:.1%} of the memory used, {share:.1%} allowed"


def layers_that_are_not_fused(setup: Setup) -> Answer:
    """One row again, with the model's own layers."""
    if not torch.cuda.is_available():
        return None, "no GPU"
    return decode(setup, 1, 300, fuse=False)


QUESTIONS: tuple[Callable[[Setup], Answer], ...] = (
    graphs_survive_growth,
    new_lengths_cost_nothing,
    one_row,
    many_rows,
    memory_is_kept,
    captures,
    long_contexts,
    thirty_two_rows,
    eight_rows,
    layers_that_are_not_fused,
)
"""Most informative first."""


def decode(setup: Setup, n_rows: int, n_prompt: int, *, bar: float | None = None, **options: Any) -> Answer:  # noqa: ANN401
    """A decode step beside the machine's limits."""
    decoder = setup.decoder(speculate=False, **options)
    workload = setup.workload(n_rows, n_prompt, 32)
    judge(decoder, workload)  # captures
    phase = measure_decode(decoder, workload, Cost.of(setup.checkpoint.model), setup.limits)
    figure = f"{1e3 * phase.seconds:.2f} ms a step, {phase.fraction:.0%} of the limit"
    return (None if bar is None else on_gpu(not setup.is_large or phase.fraction >= bar)), figure


def judge(decoder: Decoder, workload: Workload, on_step: Callable[[Stats], None] | None = None) -> None:
    """Decode a workload.

    Raises:
        RuntimeError: a pair failed.
    """
    requests = [Request(index, item.prompt.ids, 0, item.limit) for index, item in enumerate(workload.items)]
    for decoded in decoder.run(requests, max_rows=len(requests), on_step=on_step):
        if decoded.error is not None:
            raise RuntimeError(decoded.error)


def masked_attention(setup: Setup, n_tokens: int) -> None:
    """A chunk behind 100 tokens of context, with grouped heads and a mask: what SDPA is asked by most programs."""
    model = setup.checkpoint.model
    config, device = model.config, model.device
    head_dim = config.hidden_size // config.num_attention_heads
    n_context = n_tokens + 100
    queries = torch.zeros(1, config.num_attention_heads, n_tokens, head_dim, device=device, dtype=model.dtype)
    keys = torch.zeros(1, config.num_key_value_heads, n_context, head_dim, device=device, dtype=model.dtype)
    mask = torch.ones(n_tokens, n_context, dtype=torch.bool, device=device).tril(100)
    F.scaled_dot_product_attention(queries, keys, keys, attn_mask=mask, enable_gqa=True)


def seconds(work: Callable[[], object]) -> float:
    """How long some work takes, on the device too."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def on_gpu(holds: bool) -> bool | None:
    """A bar that is for GPUs only."""
    return holds if torch.cuda.is_available() else None


def answer(question: Callable[[Setup], Answer], setup: Setup) -> dict[str, str]:
    """A line of the table; whatever goes wrong with one question harms no other."""
    try:
        holds, figure = question(setup)
        result = {None: "told", True: "passed", False: "failed"}[holds]
    except Exception as error:
        result, figure = "failed", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return {"part": question.__name__.replace("_", " "), "result": result, "figure": figure}


def prepare(config: str | None) -> Setup:
    """The model, on the GPU if there is one."""
    opened, device = open_checkpoint(), resolve_device(None)
    if config is None:
        model = load_model(opened, dtype="bfloat16", device=device)
    else:
        model = build(AutoConfig.for_model(**CONFIGS[config]), torch.bfloat16, device)
    encoder = PromptEncoder(opened.tokenizer)
    source = read_source(SAMPLE, encoder, context=16_000, closes=False, budget=256)
    limits = measure_limits(device, torch.bfloat16, quick=config is None)
    return Setup(Checkpoint(model, opened.tokenizer, encoder), source, limits, config is not None)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=CONFIGS, help="random weights of this shape; without it the embedded model")
    parser.add_argument("--output", type=Path, required=True, help="gets a line of JSON for each question")
    options = parser.parse_args()
    transformers_logging.set_verbosity_error()
    torch.manual_seed(0)
    setup = prepare(options.config)
    with options.output.open("w", encoding="utf-8", buffering=1) as file:
        for question in QUESTIONS:
            line = answer(question, setup)
            file.write(json.dumps(line) + "\n")
            print(f"{line['part']}: {line['result']}, {line['figure']}", flush=True)


if __name__ == "__main__":
    main()
