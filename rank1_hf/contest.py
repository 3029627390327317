"""The ranking's own early exit: passages that can no longer come among the best k stop being thought about."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rank1_hf.chain import BeliefPoint, Rule
from rank1_hf.tracing.observer import Observer, WatchedPair

if TYPE_CHECKING:
    from rank1_hf.results import Judgment


@dataclass(frozen=True, slots=True)
class TopKExit:
    """When a passage is given up: as soon as k others lead it by more than a margin, at one of its sentence ends.

    What is compared is what the model believes of each passage: the lowest of the others' last beliefs against the
    highest of the passage's own. A chain that has finished is compared by its verdict, one with fewer sentences than
    are asked for not at all.

    Attributes:
        lead: the margin, in log-odds, at least 0.
        sentences: how many beliefs of each chain are compared, those behind its last sentences; at least 1. The start
            of a chain is none.
    """

    lead: float = 2.0
    sentences: int = 2

    def __post_init__(self) -> None:
        if not self.lead >= 0 or self.sentences < 1:
            raise ValueError(
                f"a top-k exit needs a lead of at least 0 and at least 1 sentence, not {self.lead!r} and "
                f"{self.sentences!r}"
            )


class Contest(Rule, Observer):
    """The passages of one ranking, and what is believed of each: the rule of its chains, and their observer.

    Args:
        k: how many passages are wanted.
        thresholds: when one is given up.
    """

    reads_beliefs = True

    def __init__(self, k: int, thresholds: TopKExit) -> None:
        self._k = k
        self._thresholds = thresholds
        self._lowest: dict[int, float] = {}  # by index, what counts of each for those behind it

    def for_pair(self, index: int) -> Rule:
        """The rule of one passage's chain."""
        return _Contestant(self, index)

    def finished(self, pair: WatchedPair, judgment: "Judgment") -> None:
        """Its verdict counts, where there is one."""
        self._lowest.pop(pair.index, None)
        if judgment.error is None:
            self.settle(pair.index, judgment.log_odds)

    def settle(self, index: int, log_odds: float) -> None:
        """A passage has its verdict."""
        self._lowest[index] = log_odds

    def gives_up(self, index: int, beliefs: Sequence[BeliefPoint]) -> bool:
        """Whether a passage whose chain has come to another sentence end is to be given up there."""
        last = [point.log_odds for point in beliefs if point.n_tokens > 0][-self._thresholds.sentences :]
        if len(last) < self._thresholds.sentences:
            return False
        self._lowest[index] = min(last)
        ahead = heapq.nlargest(self._k, (low for other, low in self._lowest.items() if other != index))
        return len(ahead) == self._k and ahead[-1] - max(last) > self._thresholds.lead


class _Contestant(Rule):
    """Steers one passage's chain."""

    reads_beliefs = True

    def __init__(self, contest: Contest, index: int) -> None:
        self._contest = contest
        self._index = index
        self._n_beliefs = 0

    def stop(self, thought: Sequence[int], beliefs: Sequence[BeliefPoint]) -> bool:
        """At a sentence end, as the contest says."""
        if len(beliefs) == self._n_beliefs:
            return False
        self._n_beliefs = len(beliefs)
        return self._contest.gives_up(self._index, beliefs)
