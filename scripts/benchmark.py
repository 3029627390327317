"""Measure this project and the other ways to run rank1, side by side in one run.

    python scripts/benchmark.py --output DIR                                  # the embedded model
    python scripts/benchmark.py --output DIR --model jhu-clsp/rank1-7b --workload natural ragged
    python scripts/benchmark.py --output DIR --config qwen2.5-7b --workload ragged --pairs 512   # random weights
    python scripts/benchmark.py --output DIR --quick --vary                   # a minute, to see that it works

Peers run in turns (A B C, A B C, ...) on the same token ids with the same budgets, after each has tried its settings
(batch sizes, CUDA graphs) on a part of the workload and kept the fastest. Reported are the median over the repeats, the
extremes, and how many times as fast this project was as a peer, computed in each repeat. The share of decisions that
agree with this project's checks that all did the same work: in low precision it is not complete between any two
engines, and with random weights it means nothing.

`--vllm-python` names the Python of an environment with vLLM, which then runs the recipe of the rank1 model card.
`--vary` also measures how speed changes with one thing at a time, and draws curves (`pip install 'rank1-hf[bench]'`).
`--vary switches` prints one table: what each switch of the engine is worth on this machine.
"""

import argparse
import dataclasses
import datetime
import gc
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from benchmarking import report
from benchmarking.limits import Cost, Limits, measure_decode, measure_limits, measure_prefill
from benchmarking.peers import (
    Checkpoint,
    Generate,
    GenerateBatch,
    Ours,
    Outcome,
    Peer,
    Setting,
    Vllm,
    cores,
    free_memory,
)
from benchmarking.switches import Turned, measure_switches
from benchmarking.vary import Curve, Sizes, vary_lengths, vary_pairs, vary_sharing
from benchmarking.workloads import NAMES, Source, Workload, read_source
from rich.console import Console
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from rank1_hf.decoding.options import DecodingOptions
from rank1_hf.files.beir import SAMPLE
from rank1_hf.models.devices import DTYPES, resolve_device
from rank1_hf.models.family import FAMILY
from rank1_hf.models.loading import EMBEDDED_MODEL, context_length, load_model, open_checkpoint
from rank1_hf.prompts.prompt import PromptEncoder

console = Console() if sys.stdout.isatty() else Console(width=200)  # a file has no width

_POSITIONS = {"rope_theta": 1e6, "max_position_embeddings": 32_768}
CONFIGS: dict[str, dict[str, Any]] = {
    "qwen2.5-0.5b": FAMILY["jhu-clsp/rank1-0.5b"] | _POSITIONS,
    "qwen2.5-7b": FAMILY["jhu-clsp/rank1-7b"] | _POSITIONS,
}
"""Shapes that `--config` builds with random weights, for the speed of a model that is not at hand."""


VARIED = ("switches", "lengths", "sharing", "pairs")
"""What `--vary` can vary; the number of pairs only with the embedded model, which is small enough for thousands."""


def main() -> None:
    """The command line."""
    options = parse_options()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.manual_seed(0)
    checkpoint = load(options)
    gc.freeze()  # `free_memory` would go through all that was imported before each run
    source = read_source(
        options.cranfield,
        checkpoint.encoder,
        context=min(16_000, context_length(checkpoint.model.config) or 16_000),
        closes=options.config is None,
        budget=options.budget,
        length_scale=0.1 if options.quick else 1.0,
    )
    results: report.Results = {
        "date": datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds"),
        "options": {name: _plain(name, value) for name, value in vars(options).items()},
        "machine": report.machine(),
        "versions": report.versions(),
        "model": {
            "name": options.config or Path(options.model or EMBEDDED_MODEL).name,
            "dtype": options.dtype,
            "device": str(checkpoint.model.device),
            "parameters": checkpoint.model.num_parameters(),
        },
    }
    workloads = [source.make(name, options.pairs) for name in options.workload]
    with ExitStack() as stack:
        ours = Ours(checkpoint, options.batch_sizes)
        peers: list[Peer] = [ours]
        if "generate" in options.peers:
            peers.append(Generate(checkpoint, options.batch_sizes))
        if "generate_batch" in options.peers:
            peers.append(GenerateBatch(checkpoint, options.batch_sizes))
        if options.vllm_python:
            vllm = start_vllm(options, checkpoint, workloads, stack)
            results["versions"]["vllm"] = vllm.version
            peers.append(vllm)
        device, dtype = checkpoint.model.device, checkpoint.model.dtype
        limits = measure_limits(device, dtype, quick=options.quick)
        results["limits"] = dataclasses.asdict(limits)
        results["phases"] = measure_phases(checkpoint, source, limits, quick=options.quick)
        results["workloads"], results["switches"], results["curves"] = {}, [], []
        for workload in workloads:
            results["workloads"][workload.name] = compare(workload, peers, options)
            report.write(options.output, results)  # it took long: keep it, whatever comes next
        results["switches"] = [dataclasses.asdict(turned) for turned in vary_switches(source, checkpoint, options)]
        report.write(options.output, results)
        for curve in vary(source, peers, options):
            results["curves"].append(dataclasses.asdict(curve))
    files = report.write(options.output, results)
    for table in report.tables(results):
        console.print()
        console.print(table)
    console.print(f"wrote {', '.join(files)}")


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, with what `--quick` and the device make of those that were not given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder for benchmark.md, benchmark.json and the curves")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", help="hub name or folder of a checkpoint; without it, the embedded model")
    model.add_argument("--config", choices=CONFIGS, help="random weights of this shape, built on the device")
    add("--dtype", choices=DTYPES, default="bfloat16")
    add("--device", help="default: CUDA, MPS or CPU, the first there is")
    add("--threads", type=int, help="CPU cores that every peer may use; default: as torch chooses")
    add("--workload", nargs="+", choices=NAMES, default=list(NAMES))
    add("--cranfield", type=Path, default=SAMPLE, help="BEIR folder with bm25.trec; default: the sample in the package")
    add("--pairs", type=int, help="pairs of a workload; default: 128")
    add("--budget", type=int, help="the most tokens of a chain that ends by itself; default: 256")
    add("--repeats", type=int, help="default: 3")
    add("--peers", nargs="*", choices=["generate", "generate_batch"], default=["generate", "generate_batch"])
    add("--peer-pairs", nargs="+", type=_peer_pairs, default=[], metavar="PEER=N", help="fewer pairs for a slow peer")
    add("--batch-sizes", nargs="+", type=int, help="sizes to try; default: 8 16 32 64 on a CPU, 32 128 256 on a GPU")
    add("--vllm-python", type=Path, help="Python of an environment with vLLM")
    add("--vary", nargs="*", choices=VARIED, help="also vary one thing at a time: these, or all")
    add("--quick", action="store_true", help="small sizes, to see that everything works")
    options = parser.parse_args(arguments)
    options.peer_pairs = dict(options.peer_pairs)
    on_cpu = resolve_device(options.device).type == "cpu"
    sizes = [4] if options.quick else [8, 16, 32, 64] if on_cpu else [32, 128, 256]
    options.batch_sizes = sorted(options.batch_sizes or sizes)
    options.pairs = options.pairs or (8 if options.quick else 128)
    options.budget = options.budget or (96 if options.quick else 256)
    options.repeats = options.repeats or (2 if options.quick else 3)
    if options.threads:
        torch.set_num_threads(options.threads)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores()[-options.threads :])  # another process inherits it
    return options


def load(options: argparse.Namespace) -> Checkpoint:
    """The model to measure: a checkpoint, or random weights with the embedded model's tokenizer."""
    opened = open_checkpoint(options.model)
    device, dtype = resolve_device(options.device), DTYPES[options.dtype]
    if options.config is None:
        model = load_model(opened, dtype=dtype, device=device)
    else:
        model = build(AutoConfig.for_model(**CONFIGS[options.config]), dtype, device)
    return Checkpoint(model, opened.tokenizer, PromptEncoder(opened.tokenizer))


def build(config: PretrainedConfig, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """A model with random weights, made where it is needed."""
    with device:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model.eval()


def start_vllm(
    options: argparse.Namespace, checkpoint: Checkpoint, workloads: Sequence[Workload], stack: ExitStack
) -> Vllm:
    """vLLM with the same checkpoint; random weights are saved for it first."""
    longest = max(len(item.prompt.ids) + item.limit for workload in workloads for item in workload.items)
    folder = options.model if options.config is None else stack.enter_context(tempfile.TemporaryDirectory())
    if options.config is not None:
        checkpoint.model.save_pretrained(folder)
        checkpoint.tokenizer.save_pretrained(folder)
    vllm = Vllm(
        options.vllm_python, folder or EMBEDDED_MODEL, options.dtype, longest + 64
    )  # a forced close adds a few tokens
    stack.callback(vllm.close)
    return vllm


def measure_phases(
    checkpoint: Checkpoint,
    source: Source,
    limits: Limits,
    *,
    quick: bool,
) -> list[dict[str, Any]]:
    """Decode steps of few and many rows, and a prefill, beside the machine's limits."""
    cost, decoder = (
        Cost.of(checkpoint.model),
        Ours(checkpoint, (), DecodingOptions(speculate=False)).decoder(closes=False),
    )
    n_prompt, n_chain, rows = (96, 4, (1, 2)) if quick else (300, 48, (1, 8, 32))
    phases = []
    for n_rows in rows:
        workload = source.of_lengths(n_rows, n_prompt, n_chain)
        phases.append(measure_decode(decoder, workload, cost, limits))
    phases.append(measure_prefill(decoder, source.of_lengths(rows[-1], n_prompt, 1), cost, limits))
    return [dataclasses.asdict(phase) for phase in phases]


def compare(workload: Workload, peers: Sequence[Peer], options: argparse.Namespace) -> dict[str, Any]:
    """All peers on one workload, in turns."""
    mine = {peer.name: workload.first(options.peer_pairs.get(peer.name)) for peer in peers}
    trials = {peer.name: try_settings(peer, mine[peer.name], max(options.batch_sizes)) for peer in peers}
    settings = {name: max(tried, key=lambda trial: trial.pairs_per_second).setting for name, tried in trials.items()}
    runs: dict[str, list[Outcome]] = {peer.name: [] for peer in peers}
    for _ in range(options.repeats):
        for peer in peers:
            runs[peer.name].append(run(peer, mine[peer.name], settings[peer.name]))
    speeds = {name: [len(mine[name].items) / outcome.seconds for outcome in runs[name]] for name in runs}
    ours = peers[0].name
    return {
        "description": workload.description,
        "prompt_tokens": [len(item.prompt.ids) for item in workload.items],
        "peers": {
            name: {
                "setting": settings[name],
                "trials": [dataclasses.asdict(trial) for trial in trials[name]],
                "n_pairs": len(mine[name].items),
                "runs": [dataclasses.asdict(outcome) for outcome in runs[name]],
                "pairs_per_second": speeds[name],
                "ratios": report.ratios(speeds[ours], speeds[name]),
                "same_decisions": agreement(runs[ours][0], runs[name][0]),
            }
            for name in runs
        },
    }


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """How fast a peer was with a setting on a part of the workload; 0 where that was out of memory."""

    setting: Setting
    pairs_per_second: float


def try_settings(peer: Peer, workload: Workload, n_pairs: int) -> list[Trial]:
    """Every setting once, on the same few pairs. This is the warm-up too."""
    part = workload.first(n_pairs)
    trials: list[Trial] = []
    for setting in peer.settings:
        if any(int(trial.setting.get("batch_size", 0)) >= len(part.items) for trial in trials):
            break  # all pairs fit into a smaller batch already
        try:
            trials.append(Trial(setting, len(part.items) / run(peer, part, setting).seconds))
        except torch.OutOfMemoryError:
            trials.append(Trial(setting, 0.0))
    return trials


def run(peer: Peer, workload: Workload, setting: Setting) -> Outcome:
    """One run, on a clean device, told on the terminal."""
    free_memory()
    outcome = peer.run(workload, setting)
    speed = len(workload.items) / outcome.seconds
    chosen = " ".join(f"{key}={value}" for key, value in setting.items())
    console.print(f"{workload.name}: {peer.name} {chosen}: {len(workload.items)} pairs, {speed:.2f} pairs/s")
    return outcome


def agreement(one: Outcome, other: Outcome) -> float:
    """The share of pairs, of those that both judged, that are relevant for both or for neither."""
    pairs = list(zip(one.log_odds, other.log_odds, strict=False))  # a slow peer may have judged fewer
    return sum((a > 0) == (b > 0) for a, b in pairs) / len(pairs)


def vary_switches(source: Source, checkpoint: Checkpoint, options: argparse.Namespace) -> list[Turned]:
    """What each switch of the engine is worth, if it was asked for."""
    if options.vary is None or "switches" not in (options.vary or VARIED):
        return []
    return measure_switches(checkpoint, source.natural(options.pairs), options.batch_sizes[-1], options.repeats)


def vary(source: Source, peers: Sequence[Peer], options: argparse.Namespace) -> list[Curve]:
    """The curves that were asked for."""
    if options.vary is None:
        return []
    wanted = options.vary or VARIED
    sizes = Sizes.quick() if options.quick else Sizes()
    ours = peers[0]
    assert isinstance(ours, Ours)
    curves: list[Curve] = []
    if "lengths" in wanted:
        curves += vary_lengths(source, [peer for peer in peers if isinstance(peer, Ours | Generate)], sizes)
    if "sharing" in wanted:
        curves.append(vary_sharing(source, ours, sizes))
    if "pairs" in wanted and options.model is None and options.config is None:
        curves += vary_pairs(source, ours, sizes, options.batch_sizes[-1])
    return curves


def _peer_pairs(text: str) -> tuple[str, int]:
    name, _, count = text.partition("=")
    return name, int(count)


def _plain(name: str, value: Any) -> Any:  # noqa: ANN401
    """An option as it is written down: without the folders of this machine."""
    return Path(value).name if isinstance(value, Path) or (name == "model" and value) else value


if __name__ == "__main__":
    main()
