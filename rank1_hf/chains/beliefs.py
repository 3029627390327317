"""The belief of a chain: the verdict that it would have if it were closed at one point, and where that is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from rank1_hf.inputs.values import is_whole_number

BeliefAt = Literal["sentences"] | int
"""Where the belief of a chain is read: at its start, and behind each sentence or every so many tokens."""


@dataclass(frozen=True, slots=True)
class BeliefPoint:
    """What the verdict would be if a chain were closed at one point, as a forced close closes it.

    Attributes:
        n_tokens: how many tokens of the chain there are before that point.
        log_odds: logit(true) - logit(false) behind the forced close.
    """

    n_tokens: int
    log_odds: float


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A belief as it is kept beside a judgment, with how unsure the model was on the way there.

    Attributes:
        n_tokens: how many tokens of the chain there are before this point.
        n_characters: how much of the chain's text that is.
        score: p(true) if the chain were closed here, in [0, 1].
        log_odds: the same, as in `BeliefPoint`.
        entropy: of the next token, in nats, the mean over the tokens since the point before; None where the model has
            generated none of them.
    """

    n_tokens: int
    n_characters: int
    score: float
    log_odds: float
    entropy: float | None

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """What `asdict` made of one.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        entropy = fields["entropy"]
        return cls(
            n_tokens=int(fields["n_tokens"]),
            n_characters=int(fields["n_characters"]),
            score=float(fields["score"]),
            log_odds=float(fields["log_odds"]),
            entropy=None if entropy is None else float(entropy),
        )


def check_belief_at(value: object) -> None:
    """Refuse what is no `BeliefAt`.

    Raises:
        ValueError: it is none.
    """
    if not (isinstance(value, str) and value == "sentences") and not is_whole_number(value, least=1):
        raise ValueError(f"beliefs are read at 'sentences' or every so many tokens, at least 1, not {value!r}")
