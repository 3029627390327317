"""What the model thought about one pair, and its verdict."""

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from rank1_hf.chains.beliefs import CurvePoint
from rank1_hf.chains.chain import Ended
from rank1_hf.results.notebook import notebook_view
from rank1_hf.results.trace import Trace


@dataclass(frozen=True, slots=True)
class Judgment:
    """What the model thought about one pair, and its verdict.

    Attributes:
        index: the pair's place in the input.
        score: p(true) / (p(true) + p(false)) behind `</think>`, in [0, 1]; NaN where there is an error.
        log_odds: logit(true) - logit(false), from float32 logits; orders pairs whose score rounds to 1. NaN where there
            is an error.
        label: whether the model finds the passage relevant (log_odds > 0); None where there is an error.
        chain: the text thought, as the model wrote it, without `<think>` and `</think>`.
        n_prompt_tokens: the prompt's length.
        n_chain_tokens: the chain's length, without `</think>`.
        ended: "closed" by the model itself, or closed for it because of the "budget", "eos" (the model stopped without
            closing) or "context" (no room for more), or because a rule or the caller "stopped" it; None where there is
            an error.
        truncated: whether the passage was cut to fit.
        error: None, or why this pair has no score.
        trace: the chain token by token; None where not asked for.
        belief: the belief curve, of judgments that are kept without their trace; `belief_curve` has that of both. None
            where not asked for.
        cached: whether it comes from a score cache. Judgments are equal wherever they come from.
        unfinished: the token ids that the model had generated when the call was interrupted, behind which
            `judge(..., resume_from=...)` goes on. Empty: the judgment is finished.
        fingerprint: by which `resume_from` knows whose judgment it is: a digest of the prompt and of what decides the
            chain. It is in no file; empty where the judgment comes from one.
    """

    index: int
    score: float
    log_odds: float
    label: bool | None
    chain: str
    n_prompt_tokens: int
    n_chain_tokens: int
    ended: Ended | None
    truncated: bool
    error: str | None = None
    trace: Trace | None = field(default=None, repr=False)
    belief: tuple[CurvePoint, ...] | None = field(default=None, repr=False)
    cached: bool = field(default=False, compare=False)
    unfinished: tuple[int, ...] = field(default=(), repr=False)
    fingerprint: str = field(default="", repr=False, compare=False)

    @classmethod
    def failed(cls, index: int, error: str) -> "Judgment":
        """A judgment for a pair that could not be decoded at all."""
        return cls(
            index=index,
            score=math.nan,
            log_odds=math.nan,
            label=None,
            chain="",
            n_prompt_tokens=0,
            n_chain_tokens=0,
            ended=None,
            truncated=False,
            error=error,
        )

    def at(self, index: int) -> "Judgment":
        """The same judgment for another place in the input, where the same pair stands again."""
        return replace(self, index=index, trace=None if self.trace is None else self.trace.at(index))

    def to_dict(self) -> dict[str, Any]:
        """All fields but the fingerprint, ready for JSON: NaN becomes None. Trace, curve and unfinished tokens only
        where there are any.
        """
        fields = asdict(replace(self, trace=None))
        del fields["trace"], fields["fingerprint"]
        if not self.unfinished:
            del fields["unfinished"]
        if self.belief is None:
            del fields["belief"]
        if self.trace is not None:
            fields["trace"] = self.trace.to_dict()
        return {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in fields.items()}

    def _repr_html_(self) -> str | None:
        """What a notebook shows; None: the plain text."""
        return notebook_view(self)


class TokenEvent(NamedTuple):
    """A token of a chain, as it comes. As a string it is its text, so that `print(event, end="")` writes the chain.

    Attributes:
        token_id: its id.
        text: the text it adds; empty where it only begins a character.
    """

    token_id: int
    text: str

    def __str__(self) -> str:
        return self.text


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during `judge` or `predict`. `judgments` holds what was finished, and what the chains that were not had
    thought (`Judgment.unfinished`), in input order: `judge(..., resume_from=judgments)` goes on with both. Of a stream
    it holds only what was unfinished, since the rest was yielded: resume from both.
    """

    def __init__(self, judgments: list[Judgment]) -> None:
        n_unfinished = sum(bool(judgment.unfinished) for judgment in judgments)
        more = f", and {n_unfinished} unfinished ones; resume_from=... goes on with both" if n_unfinished else ""
        n_finished = len(judgments) - n_unfinished
        super().__init__(f"interrupted; {n_finished} finished judgments are kept in .judgments{more}")
        self.judgments = judgments


def sigmoid(log_odds: float) -> float:
    """1 / (1 + exp(-log_odds)) without overflow."""
    if log_odds >= 0:
        return 1 / (1 + math.exp(-log_odds))
    return math.exp(log_odds) / (1 + math.exp(log_odds))


def ranking_key(judgment: Judgment) -> tuple[bool, float, int]:
    """Sorts best first: by log_odds, ties by position, pairs without a score last."""
    failed = judgment.error is not None
    return (failed, 0.0 if failed else -judgment.log_odds, judgment.index)
