"""One thing at a time: how speed and memory change with it. The switches of the engine are in `switches.py`."""

import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import psutil
import torch

from benchmarking.peers import Ours, Peer
from benchmarking.workloads import Item, Source, Workload


@dataclass(frozen=True, slots=True)
class Curve:
    """What was measured while one thing varied.

    Attributes:
        title: of the plot, and of its file.
        x_name, y_name: of the axes.
        x: the values of the thing.
        lines: what was measured at each, by the name of the line.
    """

    title: str
    x_name: str
    y_name: str
    x: list[int]
    lines: dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Where each curve is measured."""

    rows: Sequence[int] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    prompts: Sequence[int] = (64, 128, 256, 512, 1024, 2048)
    chains: Sequence[int] = (16, 32, 64, 128, 256, 512, 1024)
    pairs: Sequence[int] = (100, 300, 1_000, 3_000, 10_000)
    alike: tuple[int, int, int] = (32, 300, 64)  # rows, prompt and chain tokens of what does not vary

    @classmethod
    def quick(cls) -> "Sizes":
        """A few points that take seconds."""
        return cls(rows=(1, 4), prompts=(64, 128), chains=(4, 8), pairs=(8, 16), alike=(4, 96, 8))


def vary_lengths(source: Source, peers: Sequence[Peer], sizes: Sizes) -> Iterable[Curve]:
    """Rows, prompt length and chain length, for this project and `generate`."""
    n_rows, n_prompt, n_chain = sizes.alike

    def at(rows: int = n_rows, prompt: int = n_prompt, chain: int = n_chain) -> Callable[[Peer], float]:
        workload = source.of_lengths(rows, prompt, chain)
        return lambda peer: rows / peer.run(workload, {"batch_size": rows}).seconds

    fits = [length for length in sizes.prompts if length + n_chain + 16 < source.context]
    chains = [length for length in sizes.chains if length <= source.context // 3]
    yield _curve("rows", "rows that decode together", [(rows, at(rows=rows)) for rows in sizes.rows], peers)
    yield _curve("prompt-length", "prompt tokens", [(length, at(prompt=length)) for length in fits], peers)
    yield _curve("chain-length", "chain tokens", [(length, at(chain=length)) for length in chains], peers)


def vary_sharing(source: Source, ours: Ours, sizes: Sizes) -> Curve:
    """The query's prefix computed once or for every pair, against the length of the query."""
    n_rows, _, n_chain = sizes.alike
    lengths = [length for length in sizes.prompts if length + 300 < source.context]
    lines: dict[str, list[float]] = {"shared": [], "not shared": []}
    for length in lengths:
        long_query = replace(source, length_scale=length / 1200).long_query(n_rows)
        items = [replace(item, limit=n_chain) for item in long_query.items]
        shared = Workload("shared", "", items, closes=False)
        for name, workload in (("shared", shared), ("not shared", without_sharing(shared))):
            lines[name].append(n_rows / ours.run(workload, {"batch_size": n_rows}).seconds)
    return Curve("prefix-sharing", "tokens of the query", "pairs/s", lengths, lines)


def without_sharing(workload: Workload) -> Workload:
    """The same pairs, each computing its whole prompt."""

    def alone(item: Item) -> Item:
        return replace(item, prompt=replace(item.prompt, n_shared=0))

    return replace(workload, items=[alone(item) for item in workload.items])


def vary_pairs(source: Source, ours: Ours, sizes: Sizes, batch_size: int) -> tuple[Curve, Curve]:
    """Time and peak memory against the number of pairs."""
    seconds: list[float] = []
    megabytes: list[float] = []
    pool = source.natural(240).items
    for n_pairs in sizes.pairs:
        items = list(itertools.islice(itertools.cycle(pool), n_pairs))
        workload = Workload("pairs", "", items, closes=source.closes)
        with PeakMemory() as memory:
            seconds.append(ours.run(workload, {"batch_size": batch_size}).seconds)
        megabytes.append(memory.megabytes)
    x = list(sizes.pairs)
    return (
        Curve("pairs-time", "pairs", "seconds", x, {ours.name: seconds}),
        Curve("pairs-memory", "pairs", "peak memory, MB", x, {ours.name: megabytes}),
    )


class PeakMemory:
    """The most memory in use in a `with` block: what torch has allocated on a GPU, else the process's resident set."""

    def __init__(self) -> None:
        self.megabytes = 0.0
        self._process = psutil.Process()
        self._finished = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        else:
            self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        if torch.cuda.is_available():
            self.megabytes = torch.cuda.max_memory_allocated() / 1e6
        else:
            self._finished.set()
            self._watcher.join()

    def _watch(self) -> None:
        while True:
            self.megabytes = max(self.megabytes, self._process.memory_info().rss / 1e6)
            if self._finished.wait(0.05):
                return


def _curve(
    title: str, x_name: str, points: Sequence[tuple[int, Callable[[Peer], float]]], peers: Sequence[Peer]
) -> Curve:
    lines = {peer.name: [measure(peer) for _, measure in points] for peer in peers}
    return Curve(title, x_name, "pairs/s", [x for x, _ in points], lines)
