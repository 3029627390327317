"""A row: one pair while it is being decoded."""

from dataclasses import dataclass, field, replace
from typing import Optional

from rank1_hf.chains.chain import Chain
from rank1_hf.chains.steering import UNSTEERED
from rank1_hf.decoding.kv_cache import RowKV
from rank1_hf.decoding.requests import Decoded, Request
from rank1_hf.decoding.watcher import NOTHING, Event, Needs, Reading


@dataclass(eq=False, slots=True)
class Row:
    """The request, the chain (what the context should be), and the KV (how much of it the model has seen).

    `n_learned` tokens of the context are in the table of drafts. A branch, which reads a row's belief, is a row too,
    and has that row as its `parent`. A row is guided where it has a rule, a processor or a watcher.
    """

    request: Request
    chain: Chain
    kv: RowKV = field(default_factory=RowKV)
    parent: Optional["Row"] = None
    n_branches: int = 0
    n_learned: int = 0
    outcome: Decoded | None = None
    is_guided: bool = field(init=False)

    def __post_init__(self) -> None:
        request = self.request
        asks = replace(request.steering, min_tokens=0) != UNSTEERED  # thinking again is no more than a rewrite
        self.is_guided = self.parent is not None or asks
        self.is_guided |= request.watcher is not None or request.processor is not None

    @property
    def pending(self) -> int:
        """How many tokens of the context the model has not seen: 1 for a row that decodes, 0 for one in flight."""
        return len(self.chain.tokens) - self.kv.length

    @property
    def n_expected(self) -> int:
        """How many tokens the model has not seen of what is known of the context, with those given for its chain."""
        return self.pending + self.chain.n_given_ahead

    @property
    def has_given_tokens(self) -> bool:
        """Whether several tokens of a given chain can be fed at once: no rule waits for a belief between them."""
        return self.parent is None and self.chain.n_given_ahead > 0 and not self.chain.goes_by_beliefs

    @property
    def will_continue(self) -> bool:
        """Whether the row, in flight, is going to have a token more, unless the model itself ends the chain."""
        return self.pending == 0 and self.chain.ended is None and self.chain.room > 1

    @property
    def waits_for_belief(self) -> bool:
        """Whether its next token waits for a branch, because its rule goes by what that reads."""
        return self.n_branches > 0 and self.chain.goes_by_beliefs

    @property
    def is_cancelled(self) -> bool:
        """Whether its result is wanted no more."""
        return self.request.is_cancelled is not None and self.request.is_cancelled()

    def advance(self, token: int) -> int:
        """Give the chain its next token. Returns how many leading tokens of the context are as they were before.

        Raises:
            SteeringError: the chain's rule has failed.
        """
        n_before = len(self.chain.tokens)
        return min(self.chain.advance(token), n_before)

    def record_outcome(self, outcome: Decoded) -> list[Decoded]:
        """Record a row's or a branch's outcome. Returns the row's once all its branches have theirs, else nothing."""
        row = self.parent or self
        if row is self:
            row.outcome = outcome
        else:
            row.n_branches -= 1
            if outcome.error is None:
                row.chain.believe(len(outcome.thought), outcome.true_logit - outcome.false_logit)
        if row.outcome is None or row.n_branches:
            return []
        return [replace(row.outcome, beliefs=row.chain.beliefs)]

    def needs(self, drafted: int | None = None) -> Needs:
        """What is to be read behind the last of this row's context, or behind a token drafted there."""
        watcher = None if self.parent is not None else self.request.watcher
        needs = NOTHING
        if watcher is not None:
            needs = watcher.needs(verdict=self.chain.ended is not None)
            if drafted is not None and self.chain.may_end_with(drafted):
                needs |= watcher.needs(verdict=True)
        if self.request.processor is not None and self.chain.ended is None:
            needs |= Needs(logits=True)
        return needs

    def notify(self, event: Event, n_seen: int = 0, token: int | None = None, reading: Reading | None = None) -> None:
        """Notify the row's watcher, if it has one."""
        if self.request.watcher is not None and self.parent is None:
            self.request.watcher.notify(event, self.chain, n_seen, token, reading)

    def failed(self, error: str) -> Decoded:
        """Its outcome where there is no verdict."""
        return self.request.failed(self.chain, error)
