"""A step in flight: launched, and not read yet.

A GPU works by itself while the host goes on. Where the next step depends on no more than that this one gives each row
a token, the host plans and launches it first, and reads this one's tokens afterwards (SGLang: overlap scheduling).
`Scheduler.can_overlap` says where. A chain that closes loses nothing by it: the verdict behind `</think>` takes one
more step anyway.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rank1_hf.decoding.plan import ScheduledRow
from rank1_hf.decoding.probe import Probe
from rank1_hf.decoding.row import Row
from rank1_hf.decoding.watcher import Reading


@dataclass(frozen=True, slots=True)
class NextToken:
    """The logits at one position, reduced: the likeliest token and its logit, and the logits of true and false.

    With it goes what the row's watcher asked for, and the logits themselves where the row has a logits processor.
    """

    id: int
    logit: float
    answers: tuple[float, float]
    reading: Reading | None = None


class InFlightStep:
    """One step in flight.

    Args:
        rows: the rows' parts.
        output: [positions, 4], float32, on the device: the fields of a `NextToken`, for each position with logits.
        positions: for each row that needs logits, which of these positions are behind its context and its draft.
        probe: what else was read, if anything.
    """

    def __init__(
        self, rows: list[ScheduledRow], output: Tensor, positions: dict[Row, range], probe: Probe | None
    ) -> None:
        self.rows = rows
        self.output = output
        self._positions = positions
        self._probe = probe
        # The one copy of a step. The host waits for it in `wait`.
        self._on_host = output.to("cpu", non_blocking=output.is_cuda)
        self._arrival = torch.cuda.Event() if output.is_cuda else None  # type: ignore[no-untyped-call]
        if self._arrival is not None:
            self._arrival.record(torch.cuda.current_stream(output.device))

    def position(self, row: Row) -> int:
        """Where `output` has the next token of a row."""
        return self._positions[row][-1]

    def drop_stale_rows(self) -> None:
        """Drop the rows whose context became another one than the step was launched for, and those that are gone."""
        self._positions = {row: positions for row, positions in self._positions.items() if row.pending <= 0}

    def wait(self) -> list[tuple[ScheduledRow, list[NextToken]]]:
        """Wait for the step. Returns the next tokens of each row that needs logits, and those behind its draft."""
        if self._arrival is not None:
            self._arrival.synchronize()
        output = self._on_host.tolist()
        return [
            (part, [self._next_token(output[position], position) for position in self._positions[part.row]])
            for part in self.rows
            if part.row in self._positions
        ]

    def _next_token(self, output: list[float], position: int) -> NextToken:
        token, logit, true, false = output
        reading = None if self._probe is None else self._probe.reading(position)
        return NextToken(int(token), logit, (true, false), reading)
