"""Reproducible mode: what a pair gets is bit-identical, whatever else is in the batch.

In low precision a sum depends on its order, the order on the kernel, and the kernel on the shape of the step. On a CPU
whose layers are all fused and packed in panels (`packed.py`) it does not: our kernels compute every token by itself,
and the ordinary scheduler runs. Elsewhere the shape of everything that touches a token follows from its own row alone:

- Steps have two widths, and are padded to them: one for prompts and for what rules wrote into a chain, one for what the
  model decoded and for drafts of that. Which of them a token is computed in follows from what it is. A preempted row is
  fed again in the same way.
- The kernels compute each token's attention by itself, in a fixed order, so the tokens of any rows may share a step.
  Without kernels every row is attended alone, prompts are fed one at a time, in pieces that start where the row's own
  past says, and nothing is drafted.

(Cf. He et al., "Defeating Nondeterminism in LLM Inference", Thinking Machines 2025, on batch invariance.)
"""

from typing import Any

from rank1_hf.decoding.plan import Plan, ScheduledRow
from rank1_hf.decoding.prefixes import n_shared
from rank1_hf.decoding.row import Row
from rank1_hf.decoding.scheduler import Scheduler

CHUNK = 128
"""Tokens of a prefill step. A prompt fills its last chunk by half on average, so larger ones waste more."""


class ReproducibleScheduler(Scheduler):
    """Plans steps of two widths only: prefill first, so that as many rows as possible decode together.

    Args:
        args, options: as of `Scheduler`, without `prefill_chunk`.
        shares_steps: whether prompts of several rows may share a step: where kernels compute each token's attention by
            itself.
    """

    least_prefill_chunk = CHUNK

    def __init__(self, *args: Any, shares_steps: bool = False, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*args, prefill_chunk=CHUNK, **options)
        self._width = self._max_rows  # as it is now: it may shrink, and the steps stay as wide
        self._shares_steps = shares_steps

    def _split(self) -> Plan:
        pieces = self._pieces()
        if pieces:
            return Plan(pieces, width=CHUNK, n_logits=self._width)
        feedable = [row for row in self.rows if (row.pending > 0 or row.will_continue) and not row.waits_for_belief]
        room = self._width - len(feedable)
        decoding: list[ScheduledRow] = []
        for row in feedable:
            is_given = row.has_given_tokens and row.pending == 1 and self._shares_steps
            draft = row.chain.given_ahead(room) if is_given else self._draft(row, speculates=row.pending == 1)[:room]
            room -= len(draft)
            decoding.append(ScheduledRow(row, 1, needs_logits=row.pending <= 1, draft=draft))
        return Plan(decoding, width=self._width, n_logits=self._width)

    def _pieces(self) -> list[ScheduledRow]:
        """What is to be prefilled, as far as it fits into a step."""
        pieces: list[ScheduledRow] = []
        room = CHUNK
        for row in self.rows:
            end = None if row.waits_for_belief else _piece_end(row)
            if end is not None and (row.kv.length > 0 or self._prefixes.start(row)):
                # A row that starts from a known prefix only now knows where its piece ends.
                n_tokens = min((_piece_end(row) or end) - row.kv.length, room)
                room -= n_tokens
                pieces.append(ScheduledRow(row, n_tokens, needs_logits=n_tokens == row.pending))
            if pieces and (room == 0 or not self._shares_steps):
                break
        return pieces


def _piece_end(row: Row) -> int | None:
    """Where the piece ends that the row's next token belongs to; None: it is fed by itself, as it was decoded."""
    start, n_prompt = row.kv.length, len(row.request.prompt)
    if start < n_prompt:
        return n_shared(row) if start < n_shared(row) else n_prompt
    return next((stop for first, stop in row.chain.rewritten if first <= start < stop), None)
