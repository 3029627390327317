"""What a model finds about a completion that another engine has made: numbers beside theirs, and what is wrong."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Agreement = Literal["equal", "rounding", "different", "unknown"]
"""How a score compares: within `SAME_SCORE`; within the rounding of the dtype; neither; there is none to compare."""

SAME_SCORE = 1e-4

Fault = Literal[
    "error",
    "bos",
    "think twice",
    "no think",
    "special tokens",
    "template",
    "prompt text",
    "prompt tokens",
    "contradiction",
    "chain",
    "cut",
    "score missing",
    "score range",
    "placeholder score",
    "answers swapped",
    "not normalized",
    "other close",
    "score",
]
Remark = Literal["tie", "rounding", "closed by force", "outside top 20", "outside top 50"]
Kind = Fault | Remark

MEANING: Mapping[Kind, str] = {
    "error": "The record cannot be checked.",
    "bos": "The prompt has no BOS where this tokenizer puts one, or more than one.",
    "think twice": "`<think>` stands twice before the chain: in the prompt, or there and in the completion.",
    "no think": "The prompt does not end in `<think>`.",
    "special tokens": "Text of the query or the passage has become special tokens.",
    "template": "The prompt is not rank1's: its instruction is another, or something stands around it.",
    "prompt text": "The query or the passage in the prompt is not that of the record.",
    "prompt tokens": "The prompt has other tokens, or another number of them, than this tokenizer gives its text.",
    "contradiction": "The record contradicts itself.",
    "chain": "Greedy decoding would have gone elsewhere, by more than rounding.",
    "cut": "The chain ends before the model ends it, and before its budget does.",
    "score missing": "There is a completion, and no score.",
    "score range": "The score is no probability.",
    "placeholder score": "The score is what engines give for an answer that is not among their top log-probabilities.",
    "answers swapped": "The score is the probability of the answer false.",
    "not normalized": "The score is the probability of true among all tokens, not among the two answers.",
    "other close": "The score is right for a chain that was closed in the other way: by force, or by the model.",
    "score": "The score cannot come from this model's logits behind this chain.",
    "tie": "Greedy decoding would have gone elsewhere, but the two logits are equal within rounding.",
    "rounding": "The score differs by more than 0.0001, but no more than rounding of the dtype explains.",
    "closed by force": "The model has not closed the chain itself.",
    "outside top 20": "An answer is not among the 20 likeliest tokens, where the official code looks for it.",
    "outside top 50": "An answer is not among the 50 likeliest tokens.",
}
"""One sentence for each kind of finding."""

FAULTS = frozenset(get_args(Fault))


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found about a record.

    Attributes:
        kind: which; `MEANING` has a sentence for it.
        detail: what it is here.
    """

    kind: Kind
    detail: str

    @property
    def is_fault(self) -> bool:
        """Whether something is wrong; else it is a remark."""
        return self.kind in FAULTS


@dataclass(frozen=True, slots=True)
class Parting:
    """A place where a chain takes another token than greedy decoding would.

    Attributes:
        at: the token's place in the chain, from 0; the chain's length where it is the close.
        token, likeliest: the ids of the chain's token, and of the model's.
        margin: logit(likeliest) - logit(token), positive.
        logit: that of the likeliest.
    """

    at: int
    token: int
    likeliest: int
    margin: float
    logit: float


@dataclass(frozen=True, slots=True)
class Verification:
    """A record, and what the model says to it.

    Attributes:
        index: the record's place in the input.
        where: where it stands.
        query_id, document_id: its ids, where it has them.
        score, log_odds: the model's, behind the chain of the record; NaN where it could not be checked.
        their_score, their_log_odds: the record's; NaN where it has none.
        agreement: how the two compare.
        n_chain_tokens: the chain's length.
        parting: where greedy decoding would first have gone elsewhere: the first place beyond rounding, or else the
            first tie; None: nowhere.
        parted_text: the chain up to there, with the model's token in the place of the other; None without a parting.
        true_rank, false_rank: the answers' ranks among all tokens at the verdict, from 1; 0 where it is not known.
        findings: what is wrong, and then remarks. What follows from another fault is no fault of its own: a chain
            behind another prompt is another chain.
    """

    index: int
    where: str
    query_id: str | None = None
    document_id: str | None = None
    score: float = math.nan
    log_odds: float = math.nan
    their_score: float = math.nan
    their_log_odds: float = math.nan
    agreement: Agreement = "unknown"
    n_chain_tokens: int = 0
    parting: Parting | None = None
    parted_text: str | None = None
    true_rank: int = 0
    false_rank: int = 0
    findings: tuple[Finding, ...] = ()

    @property
    def difference(self) -> float:
        """Their score less the model's; NaN where one is missing."""
        return self.their_score - self.score

    @property
    def faults(self) -> list[Finding]:
        """The findings that are faults."""
        return [finding for finding in self.findings if finding.is_fault]

    @property
    def agrees(self) -> bool:
        """Whether nothing is wrong: rounding and remarks are not."""
        return not self.faults and self.agreement != "different"

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON: NaN and infinities become None."""
        fields = asdict(self) | {"difference": self.difference, "agrees": self.agrees}
        return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in fields.items()}


def log_odds_of(score: float) -> float:
    """The log-odds of a probability, infinite at 0 and 1; NaN for what is none."""
    if not 0 <= score <= 1:
        return math.nan
    if score in (0, 1):
        return math.inf if score else -math.inf
    return math.log(score) - math.log1p(-score)
