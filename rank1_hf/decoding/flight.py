"""A step in flight: given to the device, and not read yet.

A GPU works by itself while the host goes on. Where the next step depends on no more than that this one says a token for
each row, the host plans and launches it first, and reads this one's tokens afterwards. That costs chains that close
nothing: what is behind `</think>` is the verdict, which takes one more step anyway.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rank1_hf.decoding.probe import Probe
from rank1_hf.decoding.row import Row
from rank1_hf.decoding.scheduler import Work
from rank1_hf.decoding.watcher import Reading


@dataclass(frozen=True, slots=True)
class NextToken:
    """What the logits behind a context say: the likeliest token and its logit, and the logits of true and false.

    With it goes what the row's watcher asked for, and the logits themselves where the row has a logits processor.
    """

    id: int
    logit: float
    answers: tuple[float, float]
    reading: Reading | None = None


class Flight:
    """One step in flight.

    Args:
        work: the rows' parts.
        found: [places, 4], float32, on the device: what the model says, as a `NextToken` has it.
        places: for each row that the step completes, where `found` has what is behind its context and its draft.
        probe: what else was read, if anything.
    """

    def __init__(self, work: list[Work], found: Tensor, places: dict[Row, range], probe: Probe | None) -> None:
        self.work = work
        self.found = found
        self._places = places
        self._probe = probe
        # The one copy of a step. The host waits for it when the step lands.
        self._on_host = found.to("cpu", non_blocking=found.is_cuda)
        self._arrival = torch.cuda.Event() if found.is_cuda else None  # type: ignore[no-untyped-call]
        if self._arrival is not None:
            self._arrival.record(torch.cuda.current_stream(found.device))

    def place(self, row: Row) -> int:
        """Where `found` has the next token of a row that the step completes."""
        return self._places[row][-1]

    def forget_overtaken(self) -> None:
        """Forget the rows whose context became another one than the step was launched for, and those that are gone."""
        self._places = {row: place for row, place in self._places.items() if row.pending <= 0}

    def land(self) -> list[tuple[Work, list[NextToken]]]:
        """Wait for the step. Gives what the model says behind each row that it completes, and behind its draft."""
        if self._arrival is not None:
            self._arrival.synchronize()
        found = self._on_host.tolist()
        return [
            (work, [self._next_token(found[place], place) for place in self._places[work.row]])
            for work in self.work
            if work.row in self._places
        ]

    def _next_token(self, found: list[float], place: int) -> NextToken:
        token, logit, true, false = found
        return NextToken(int(token), logit, (true, false), None if self._probe is None else self._probe.reading(place))
