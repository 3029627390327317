"""What the scheduler decides about a step: which rows it feeds, and how many tokens of each."""

from dataclasses import dataclass, field

from rank1_hf.decoding.row import Row


@dataclass(frozen=True, slots=True)
class ScheduledRow:
    """A row's part of a step.

    Attributes:
        row: the row.
        n_tokens: how many of its pending tokens the step feeds.
        needs_logits: True for the row's last pending chunk, whose logits give its next token.
        draft: tokens fed behind the row's own, which the step verifies.
    """

    row: Row
    n_tokens: int
    needs_logits: bool
    draft: list[int] = field(default_factory=list)

    @property
    def n_fed(self) -> int:
        """How many tokens the step feeds, the draft included."""
        return self.n_tokens + len(self.draft)


@dataclass(frozen=True, slots=True)
class Plan:
    """A step. It has no rows where there is nothing to feed.

    Attributes:
        rows: those with few new tokens first.
        width: pad the step to so many tokens, and attend every row by itself; None: neither.
        n_logits: with a width, read the logits of so many positions.
    """

    rows: list[ScheduledRow]
    width: int | None = None
    n_logits: int = 0
