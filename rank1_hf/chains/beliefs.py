"""The belief of a chain: the verdict that it would have if it were closed at one point, and where that is read."""

from dataclasses import dataclass
from typing import Literal

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


def check_belief_at(value: object) -> None:
    """Refuse what is no `BeliefAt`.

    Raises:
        ValueError: it is none.
    """
    if not (isinstance(value, str) and value == "sentences") and not is_whole_number(value, least=1):
        raise ValueError(f"beliefs are read at 'sentences' or every so many tokens, at least 1, not {value!r}")
