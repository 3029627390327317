"""What each switch of the engine is worth: with it turned, and with all of them off, beside the default."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarking.peers import Checkpoint, Ours
from benchmarking.workloads import Workload
from rank1_hf.decoding.options import DecodingOptions

ON = ("speculate", "share_prefixes", "graphs", "kernels", "fuse", "overlap", "pack")
"""The switches that are on where the device can have them."""

OFF = ("reproducible",)
"""Those that are off, since they cost something."""


@dataclass(frozen=True, slots=True)
class Turned:
    """The engine with some switches turned.

    Attributes:
        options: which, as `--decoding` takes them; empty for the default.
        pairs_per_second: of each repeat; empty where this machine does the same by default.
    """

    options: str
    pairs_per_second: list[float]


def measure_switches(checkpoint: Checkpoint, workload: Workload, batch_size: int, repeats: int) -> list[Turned]:
    """The default first, then each switch turned alone, at the end all off. One repeat before the first warms up."""
    default = Ours(checkpoint, ())
    memory = f"kv_cache_tokens={default.in_force.kv_cache_tokens}"  # the same for all: it is measured by what is free
    engines: dict[str, Ours | None] = {"": default}
    for options in _variants():
        engine = Ours(checkpoint, (), DecodingOptions.parse(f"{options},{memory}"))
        engines[options] = None if engine.in_force == default.in_force else engine
    speeds: dict[str, list[float]] = {options: [] for options in engines}
    for repeat in range(-1, repeats):
        for options, peer in engines.items():
            if peer is not None:
                seconds = peer.run(workload, {"batch_size": batch_size}).seconds
                speeds[options] += [len(workload.items) / seconds] if repeat >= 0 else []
    return [Turned(options, speeds[options]) for options in engines]


def _variants() -> Sequence[str]:
    alone = [*(f"{name}=off" for name in ON), *(f"{name}=on" for name in OFF)]
    return [*alone, ",".join(f"{name}=off" for name in ON)]
