"""The processes that share the pairs of each call, one for each GPU, as `accelerate launch` starts them.

All of them run the same program: each loads the model on a GPU of its own, is given the same pairs, and judges its
share of them. Then all meet, and each gets what all have found. Only results travel, as Python objects; the GPUs never
talk.
"""

import contextlib
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from rank1_hf.reranking.resuming import carried_by
from rank1_hf.results.judgment import Interrupted, Judgment

_PATIENCE = timedelta(days=30)  # the launcher ends all processes when one dies; one that is slow is waited for


def is_launched() -> bool:
    """Whether a launcher has started this process as one of several."""
    return "LOCAL_RANK" in os.environ


def warn_of_idle_processes() -> None:
    """Say that several processes were launched which do not share the pairs: each is about to judge all of them."""
    n = int(os.environ.get("WORLD_SIZE", 1)) if is_launched() else 1
    if n > 1 and os.environ.get("RANK", "0") == "0":
        warnings.warn(
            f"{n} processes were launched and each of them judges every pair it is given; "
            f"Rank1(..., num_gpus={n}) makes them share the pairs, each on a GPU of its own",
            stacklevel=3,
        )


class Processes:
    """The processes of one launch, as seen from one of them.

    Args:
        n: how many there must be.
        kind: the kind of device that they run on, "cuda" or "cpu".

    Attributes:
        n: how many there are.
        index: which of them this one is.
        device: the device of this one.

    Raises:
        ValueError: there are not so many; the message says how to start them.
    """

    def __init__(self, n: int, kind: str) -> None:
        how = (
            f"start the program with `accelerate launch --num_processes {n} PROGRAM`, or leave num_gpus out and spread "
            "one model over the GPUs with device_map='auto'"
        )
        if not is_launched():
            raise ValueError(f"num_gpus={n} needs {n} processes, one for each GPU, and this one is alone; {how}")
        state = PartialState(cpu=kind == "cpu", backend="gloo", timeout=_PATIENCE)
        if not state.use_distributed or state.num_processes != n:
            raise ValueError(f"num_gpus={n} needs {n} processes on {kind}, not {state.num_processes}; {how}")
        self.n: int = state.num_processes
        self.index: int = state.process_index
        self.device = torch.device(kind) if kind == "cpu" else torch.device(state.device)  # there is one "cpu" only

    def collect(self, judgments: Iterator[Judgment], n_pairs: int) -> list[Judgment]:
        """Go through this process's judgments, wait for the other processes, and return everyone's, in input order.

        Args:
            judgments: of this process's share.
            n_pairs: how many pairs the call has.

        Raises:
            ValueError: the processes were given different pairs.
            Interrupted: Ctrl-C, in any of them; it carries what all had finished.
            RuntimeError: another process failed. The error of this process is raised as it is.
        """
        finished: list[Judgment] = []
        interrupted = False
        problem: Exception | None = None
        try:
            finished.extend(judgments)
        except KeyboardInterrupt as interrupt:
            interrupted = True
            finished += carried_by(interrupt)
        except Exception as error:  # raised below, once the others know of it: they would wait for ever
            problem = error
        with _interrupts_held() as held:
            try:
                outcomes = gather_object([(finished, interrupted, None if problem is None else repr(problem))])
            except RuntimeError as error:
                raise problem or RuntimeError("another process has died; its own message says why") from error
        if problem is not None:
            raise problem
        for index, (_, _, failure) in enumerate(outcomes):
            if failure is not None:
                raise RuntimeError(f"process {index} of {self.n} failed: {failure}")
        together = sorted((one for found, _, _ in outcomes for one in found), key=lambda judgment: judgment.index)
        if held or any(interrupted for _, interrupted, _ in outcomes):
            raise Interrupted(together)
        if [judgment.index for judgment in together] != list(range(n_pairs)):
            raise ValueError("the processes of num_gpus must all be given the same pairs; each takes its share itself")
        return together


@contextlib.contextmanager
def _interrupts_held() -> Iterator[list[int]]:
    """Note Ctrl-C instead of raising it: a process that left a meeting halfway would leave the others waiting."""
    held: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield held  # Ctrl-C reaches the main thread only
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield held
    finally:
        signal.signal(signal.SIGINT, before)
