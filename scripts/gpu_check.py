"""What only a GPU can measure, in at most six minutes: run it through gpu_check.sh.

The parts come most informative first: questions about speed and memory, the GPU tests, the planner beside measured
memory, the benchmark. Each has its own time limit, leaves its output in the report's folder as it goes, and the table
(gpu_check.md) is written anew as each ends. Exits with 1 where a part fails or does not end.
"""

import argparse
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
SECONDS = 350
"""For all parts together; starting Python takes the rest of six minutes."""

SECONDS_ON_CPU = 1200

NEEDED_FOR = {"bitsandbytes": "tests in 4 and 8 bits", "triton": "CUDA graphs, and all that is fast on a GPU"}
"""What may be missing, and what is then not run."""

_GRACE = 10  # seconds in which an interrupted part may say how far it has come


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table. What is not "passed", "missing" or "told" is a failure."""

    part: str
    result: str
    figure: str

    @property
    def fails(self) -> bool:
        """Whether it counts against the exit status."""
        return self.result not in ("passed", "missing", "told")


@dataclass(frozen=True, slots=True)
class Part:
    """A program to run.

    Attributes:
        name: its output is in NAME.txt.
        seconds: its time limit.
        command: the arguments of Python.
        read: the lines of the table, with how it ended ("passed", "failed", "timed out").
    """

    name: str
    seconds: float
    command: Sequence[str]
    read: Callable[[str], list[Row]]


def parts(report: Path, *, on_cpu: bool) -> list[Part]:
    """All parts. On a CPU the same with the embedded model and little work, to see that everything runs."""
    config, config_14b = ([], []) if on_cpu else (["--config", "qwen2.5-7b"], ["qwen2.5-14b"])
    planner = (
        ["--device", "cpu", "--pairs", "60", "--chain-tokens", "24", "--kv-cache-tokens", "4800"] if on_cpu else []
    )
    sizes = ["--quick", "--device", "cpu", "--pairs", "4"] if on_cpu else ["--repeats", "1", "--batch-sizes", "256"]
    check, pytest = f"{ROOT}/scripts", ["-m", "pytest", "-v", "-rA", "-p", "no:cacheprovider"]

    def benchmark(name: str, seconds: float, peer: str, n_pairs: int) -> Part:
        folder = report / name
        size = sizes if on_cpu else [*sizes, "--pairs", str(n_pairs)]
        command = [f"{check}/benchmark.py", *config, "--workload", "ragged", "--peers", peer, *size]
        return Part(name, seconds, [*command, "--output", str(folder)], lambda ended: read_benchmark(folder, ended))

    return [
        Part(
            "questions",
            90,
            [f"{check}/gpu_questions.py", *config, "--output", str(report / "questions.jsonl")],
            lambda ended: read_questions(report / "questions.jsonl", ended),
        ),
        Part(
            "tests",
            120,
            [*pytest, "-m", "gpu", *gpu_test_files()],
            lambda ended: [read_tests("tests", report, ended)],
        ),
        Part(
            "kernels",
            40,
            [*pytest, "-k", "not compile and not native", str(ROOT / "tests" / "decoding" / "kernels")],
            lambda ended: [read_tests("kernels", report, ended)],
        ),
        Part(
            "planner",
            55,
            [f"{check}/planner_check.py", *config, *config_14b, *planner, "--output", str(report)],
            lambda ended: read_planner(report / "planner.json", ended),
        ),
        benchmark("ragged-generate_batch", 60, "generate_batch", 256),
        benchmark("ragged-generate", 60, "generate", 48),
    ]


def gpu_test_files() -> list[str]:
    """The test files for a GPU; the others need not be importable on the machine."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [
        str(file)
        for file in files
        if "pytest.mark.gpu" in file.read_text(encoding="utf-8") and file.parent.name != "scripts"
    ]


def read_questions(file: Path, ended: str) -> list[Row]:
    """A line for each that was answered."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    answered = [Row(**json.loads(line)) for line in lines]
    return answered if ended == "passed" else [*answered, Row("questions", ended, f"{len(answered)} answered")]


def read_tests(name: str, report: Path, ended: str) -> Row:
    """How many passed, failed and were skipped, also where pytest did not come to its summary."""
    text = (report / f"{name}.txt").read_text(encoding="utf-8", errors="replace")
    counts = {
        word: len(set(re.findall(rf"^(\S+::.*?) {word}\b", text, flags=re.MULTILINE)))
        for word in ("PASSED", "FAILED", "ERROR", "SKIPPED")
    }
    return Row(name, ended, ", ".join(f"{n} {word.lower()}" for word, n in counts.items()))


def read_planner(file: Path, ended: str) -> list[Row]:
    """A line for each model, as they were measured."""
    checked = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    rows = [
        Row(f"planner, {one['name']}", "passed" if one["holds"] else "failed", f"off by {one['error']:+.1%}")
        for one in checked
    ]
    return rows if ended == "passed" or any(row.fails for row in rows) else [*rows, Row("planner", ended, "")]


def read_benchmark(folder: Path, ended: str) -> list[Row]:
    """Our speed, and how many times as fast as the peer that is."""
    file = folder / "benchmark.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"workloads": {}}
    rows = []
    for workload in results["workloads"].values():
        ours, *others = workload["peers"].items()
        speed = f"{ours[1]['pairs_per_second'][0]:.2f} pairs/s"
        rows += [Row(folder.name, ended, f"{speed}, {peer['ratios'][0]:.2f}x {name}") for name, peer in others]
    return rows or [Row(folder.name, ended, "")]


def run(part: Part, seconds: float, report: Path) -> list[Row]:
    """Run a part for at most so long, with its output on disk as it comes."""
    with (report / f"{part.name}.txt").open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-u", *part.command],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            ended = "passed" if process.wait(seconds) == 0 else "failed"
        except subprocess.TimeoutExpired:
            ended = "timed out"
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return part.read(ended)


def table(rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = ["| part | result | figure |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {row.part} | {row.result} | {row.figure.replace('|', '/')} |" for row in rows)])


def missing() -> list[Row]:
    """What is not installed here, and what that costs."""
    return [
        Row(name, "missing", f"no {what}")
        for name, what in NEEDED_FOR.items()
        if importlib.util.find_spec(name) is None
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, nargs="?", default=ROOT / "scripts" / "reports" / "gpu")
    parser.add_argument("--on-cpu", action="store_true", help="small parts on a CPU, to see that everything runs")
    options = parser.parse_args()
    if not options.on_cpu and not torch.cuda.is_available():
        sys.exit("gpu_check.sh needs a CUDA GPU; --on-cpu tries its parts without one")
    report = options.report.resolve()
    report.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + (SECONDS_ON_CPU if options.on_cpu else SECONDS)
    rows = missing()
    for part in parts(report, on_cpu=options.on_cpu):
        left = deadline - time.monotonic() - _GRACE
        seconds = left if options.on_cpu else min(part.seconds, left)
        new = run(part, seconds, report) if left > 0 else [Row(part.name, "not run", "no time was left")]
        rows += new
        print("\n".join(f"{row.part}: {row.result}, {row.figure}" for row in new), flush=True)
        (report / "gpu_check.md").write_text(f"# GPU check\n\n{table(rows)}\n", encoding="utf-8")
    print(f"\n{table(rows)}")
    sys.exit(any(row.fails for row in rows))


if __name__ == "__main__":
    main()
