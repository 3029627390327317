"""The report: tables on the terminal and in `benchmark.md`, raw numbers in `benchmark.json`, curves as PNG."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarking.peers import cores
from benchmarking.vary import Curve

Results = dict[str, Any]
"""All that was measured, as it stands in `benchmark.json`."""


def machine() -> dict[str, str | int | float]:
    """What the numbers were measured on."""
    found: dict[str, str | int | float] = {
        "processor": _processor(),
        "cores": len(cores()),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
        found["gpu_memory_gb"] = round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1)
    return found


def versions() -> dict[str, str]:
    """What the numbers were measured with."""
    found = {"python": platform.python_version()}
    for package in ("rank1-hf", "torch", "transformers", "accelerate"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def ratios(ours: Sequence[float], peer: Sequence[float]) -> list[float]:
    """How many times as fast we were, in each repeat."""
    return [mine / theirs for mine, theirs in zip(ours, peer, strict=True)]


def tables(results: Results) -> list[Table]:
    """Every table of the report."""
    made = [_workload_table(name, results["workloads"][name]) for name in results["workloads"]]
    if results["phases"]:
        made.append(_phase_table(results))
    if results["switches"]:
        made.append(_switch_table(results["switches"]))
    made += [_curve_table(curve) for curve in results["curves"]]
    return made


def write(folder: Path, results: Results) -> list[str]:
    """Write the report. Returns the names of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "benchmark.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    with (folder / "benchmark.md").open("w", encoding="utf-8") as file:
        console = Console(file=file, width=250)
        console.print(f"# Benchmark of {results['model']['name']}, {results['model']['dtype']}\n", highlight=False)
        for part in ("machine", "versions"):
            line = ", ".join(f"{name} {value}" for name, value in results[part].items() if value)
            console.print(f"{part}: {line}\n", soft_wrap=True, highlight=False)
        for table in tables(results):
            title, caption, table.title, table.caption = table.title, table.caption, None, None
            console.print(f"\n## {title}\n", soft_wrap=True, highlight=False)
            console.print(table)
            if caption:
                console.print(f"\n{caption}", soft_wrap=True, highlight=False)
    return ["benchmark.md", "benchmark.json", *_plot(folder, results["curves"])]


def _workload_table(name: str, result: Results) -> Table:
    description = f"{name}: {result['description']}; prompts {_spread(result['prompt_tokens'])} tokens, "
    chains = [n for run in result["peers"]["rank1_hf"]["runs"][:1] for n in run["chain_tokens"]]
    table = _table(f"{description}chains {_spread(chains)}")
    table.add_column("peer")
    columns = (
        "pairs",
        "pairs/s",
        "chain tokens/s",
        "first score, s",
        "last score, s",
        "closed",
        "ours / peer",
        "agree",
    )
    for column in columns:
        table.add_column(column, justify="right")
    for peer, measured in result["peers"].items():
        runs = measured["runs"]
        setting = ", ".join(f"{key} {value}" for key, value in measured["setting"].items())
        table.add_row(
            f"{peer} ({setting})" if setting else peer,
            str(measured["n_pairs"]),
            _spread(measured["pairs_per_second"], 2),
            _spread([sum(run["chain_tokens"]) / run["seconds"] for run in runs]),
            f"{statistics.median(run['first_seconds'] for run in runs):.2f}",
            f"{statistics.median(run['seconds'] for run in runs):.2f}",
            str(runs[0]["n_closed"]),
            _spread(measured["ratios"], 2),
            f"{measured['same_decisions']:.0%}",
        )
    counts = result["peers"]["rank1_hf"]["runs"][0]["counts"]
    table.caption = (
        f"rank1_hf took {counts['steps']} steps, fed {counts['prefill_tokens']} tokens to prefill prompts of "
        f"{sum(result['prompt_tokens'])} and to close chains by force, and preempted {counts['preemptions']} rows. "
        f"It drafted {counts['draft_tokens']} tokens, of which {counts['accepted_tokens']} were right: "
        f"{1 + counts['accepted_tokens'] / max(counts['decode_tokens'], 1):.2f} tokens a row and step."
    )
    return table


def _phase_table(results: Results) -> Table:
    limits = results["limits"]
    table = _table(
        f"Phases beside the machine's limits: copy {limits['copy_bandwidth'] / 1e9:.1f} GB/s, "
        f"read {limits['read_bandwidth'] / 1e9:.1f} GB/s, matrix products {limits['matrix_rate'] / 1e9:.0f} GFLOP/s"
    )
    for column in ("phase", "rows", "context", "took", "reading must take", "computing must take", "of the limit"):
        table.add_column(column, justify="left" if column == "phase" else "right")
    for phase in results["phases"]:
        times = (f"{1e3 * phase[key]:.1f} ms" for key in ("seconds", "read_seconds", "compute_seconds"))
        table.add_row(phase["name"], str(phase["n_rows"]), str(phase["n_context"]), *times, f"{phase['fraction']:.0%}")
    return table


def _switch_table(switches: Sequence[Results]) -> Table:
    table = _table("Switches of the engine, pairs/s beside the default")
    table.add_column("--decoding", no_wrap=True)
    table.add_column("pairs/s", justify="right")
    table.add_column("of the default", justify="right")
    default = switches[0]["pairs_per_second"]
    for turned in switches:
        speeds = turned["pairs_per_second"]
        share = f"{statistics.median(ratios(speeds, default)):.2f}" if speeds else "the same here"
        table.add_row(turned["options"] or "(default)", _spread(speeds, 2), share)
    return table


def _curve_table(curve: Results) -> Table:
    table = _table(f"{curve['title']}: {curve['y_name']}")
    table.add_column(curve["x_name"], justify="right")
    for name in curve["lines"]:
        table.add_column(name, justify="right")
    for place, x in enumerate(curve["x"]):
        table.add_row(str(x), *(f"{values[place]:.2f}" for values in curve["lines"].values()))
    return table


def _table(title: str) -> Table:
    return Table(title=title, box=box.MARKDOWN, title_justify="left", caption_justify="left")


def _spread(values: Sequence[float], digits: int = 0) -> str:
    """The median, and the extremes where there are several."""
    if not values:
        return "-"
    middle = f"{statistics.median(values):.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def _plot(folder: Path, curves: Sequence[Results]) -> list[str]:
    if not curves:
        return []
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no curves are drawn: pip install 'rank1-hf[bench]' brings matplotlib")
        return []
    names = []
    for curve in (Curve(**curve) for curve in curves):
        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.subplots()
        for name, values in curve.lines.items():
            axes.plot(curve.x, values, marker="o", label=name)
        axes.set(xscale="log", xlabel=curve.x_name, ylabel=curve.y_name, title=curve.title, ylim=(0, None))
        axes.set_xticks(curve.x, [str(x) for x in curve.x], minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend()
        names.append(f"{curve.title}.png")
        figure.savefig(folder / names[-1], dpi=150)
    return names


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
