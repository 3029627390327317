"""What looking inside costs: chains with observers, traces and beliefs, against the same chains without. A table.

    python scripts/watching_cost.py                                          # the embedded model on its sample
    python scripts/watching_cost.py --model FOLDER --dtype bfloat16 --pairs 48 --repeats 5

Also measured is the loop with everything that could watch or steer it taken out, which is what those who do not look
inside pay for. All take turns (A B C, A B C, ...) in one process; the table has the median over the turns of each
one's time as a share of the plain run's in the same turn, and the extremes.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from rank1_hf import Observer, Rank1, TraceOptions
from rank1_hf.chains.chain import Chain
from rank1_hf.decoding.probe import Probe
from rank1_hf.decoding.row import Row
from rank1_hf.files.beir import SAMPLE, read_beir
from rank1_hf.files.trec import read_run

PLAIN = "plain"
TAKEN_OUT = "the code that watches taken out"
BELIEF = "belief at every sentence"
WAYS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    TAKEN_OUT: {},
    "an observer that needs nothing": {"observers": [Observer()]},
    "tokens traced": {"trace": True},
    BELIEF: {"trace": TraceOptions(belief="sentences")},
    "tokens, belief, lens and attention": {"trace": TraceOptions(belief="sentences", lens=True, attention=True)},
}


def main() -> None:
    """The command line."""
    options = parse_options()
    reranker = Rank1(options.model, dtype=options.dtype, device=options.device, max_new_tokens=options.max_new_tokens)
    pairs = sample_pairs(options.pairs)
    clock = time.process_time if options.cpu_time else time.perf_counter
    reranker.judge(pairs[: max(len(pairs) // 4, 1)], show_progress_bar=False)  # whatever happens once, happens here
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(options.repeats):
        for name in WAYS:
            seconds[name].append(measure(reranker, pairs, name, clock))
    print(table(seconds))
    stats = reranker.decoder.stats
    print(f"\n{len(pairs)} pairs, {options.repeats} turns; {stats.branches} beliefs were {stats.branch_tokens} tokens.")


def parse_options() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a hub name or a folder; without it: the embedded model")
    parser.add_argument("--dtype", help="without it: the checkpoint's own")
    parser.add_argument("--device", help="without it: CUDA, MPS or CPU, the first there is")
    parser.add_argument("--pairs", type=int, default=48, help="how many, from the sample of Cranfield")
    parser.add_argument("--repeats", type=int, default=5, help="how many turns")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="the budget")
    parser.add_argument(
        "--cpu-time", action="store_true", help="count CPU time: on a CPU that has other work, with OMP_NUM_THREADS=1"
    )
    return parser.parse_args()


def sample_pairs(n: int) -> list[tuple[str, Any]]:
    """The first candidates of each query of the sample in turn: all first ones, all second ones, and so on."""
    collection, run = read_beir(SAMPLE), read_run(SAMPLE / "bm25.trec")
    depth = max(map(len, run.values()))
    pairs = [
        (collection.queries[query], collection.corpus[list(candidates)[place]].passage)
        for place in range(depth)
        for query, candidates in run.items()
        if place < len(candidates)
    ]
    return pairs[:n]


def measure(reranker: Rank1, pairs: Sequence[tuple[str, Any]], name: str, clock: Callable[[], float]) -> float:
    """How many seconds the pairs take."""
    with taken_out() if name == TAKEN_OUT else ExitStack():
        start = clock()
        reranker.judge(pairs, show_progress_bar=False, **WAYS[name])
        return clock() - start


@contextmanager
def taken_out() -> Iterator[None]:
    """The loop without probes, notifications, branches and logits processors."""
    with ExitStack() as patches:
        for owner, method in ((Probe, "of"), (Row, "notify"), (Chain, "branch")):
            patches.enter_context(mock.patch.object(owner, method, _nothing))
        patches.enter_context(mock.patch("rank1_hf.decoding.loop._chosen", lambda row, next_token: next_token.id))
        yield


def _nothing(*arguments: object) -> None:
    """In the place of a method."""


def table(seconds: dict[str, list[float]]) -> str:
    """A Markdown table."""
    lines = ["| | time, as a share of the plain run's | seconds |", "| --- | --- | --- |"]
    for name, mine in seconds.items():
        shares = [one / plain for one, plain in zip(mine, seconds[PLAIN], strict=True)]
        share = f"{statistics.median(shares):.3f} ({min(shares):.3f}-{max(shares):.3f})"
        lines.append(f"| {name} | {share} | {statistics.median(mine):.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
