"""Reproducible mode: what a pair gets is bit-identical, whatever else is in the batch.

In low precision a sum depends on its order, the order on the kernel, and the kernel on the shape of the step. So here
the shape of everything that touches a token follows from its own row alone:

- A step is either a chunk of one row, or one token of every row that decodes, padded to a fixed number of tokens.
- A chunk starts where the row's own past says: at the start of the prompt, behind what its query shares, every
  `CHUNK` tokens from there, and where the chain was rewritten. A preempted row is fed again in the same pieces.
- Every row is attended alone, and nothing is drafted.

(Cf. He et al., "Defeating Nondeterminism in LLM Inference", Thinking Machines 2025, on batch invariance.)
"""

from rank1_hf.decoding.plan import Plan, ScheduledRow
from rank1_hf.decoding.prefixes import n_shared
from rank1_hf.decoding.row import Row
from rank1_hf.decoding.scheduler import Scheduler

CHUNK = 128
"""Tokens of a prefill step. A prompt fills its last chunk by half on average, so larger ones waste more."""


class ReproducibleScheduler(Scheduler):
    """Plans steps of two shapes only: chunks first, so that as many rows as possible decode together."""

    least_prefill_chunk = CHUNK

    def _split(self) -> Plan:
        for row in self.rows:
            end = _chunk_end(row)
            if end is not None and (row.kv.length > 0 or self._prefixes.start(row)):
                # A row that starts from a known prefix only now knows where its chunk ends.
                n_tokens = min((_chunk_end(row) or end) - row.kv.length, CHUNK)
                return Plan([ScheduledRow(row, n_tokens, needs_logits=n_tokens == row.pending)], width=CHUNK)
        held = self._held()
        feedable = [row for row in self.rows if (row.pending > 0 or row.will_continue) and row not in held]
        decoding = [ScheduledRow(row, 1, needs_logits=row.pending <= 1) for row in feedable]
        return Plan(decoding, width=self._width)


def _chunk_end(row: Row) -> int | None:
    """Where the piece ends that the row's next token belongs to; None: it is fed by itself, as it was decoded."""
    start, n_prompt = row.kv.length, len(row.request.prompt)
    if start < n_prompt:
        return n_shared(row) if start < n_shared(row) else n_prompt
    return next((stop for first, stop in row.rewritten if first <= start < stop), None)
