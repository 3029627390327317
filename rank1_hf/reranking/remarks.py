"""Warnings at the beginning and at the end of a call."""

import warnings
from collections.abc import Mapping, Sequence
from itertools import islice

from rank1_hf.chains.chain import Ended
from rank1_hf.reranking.resuming import carrying
from rank1_hf.results.judgment import Judgment

_FEW = 10  # chains; fewer may all be long by chance
_MANY = 50  # which tell it before the end of a call
_NEARLY_ALL = 0.9


def warn_of_failures(judgments: Sequence[Judgment]) -> None:
    """Say which pairs have no score, for callers that are given scores or a ranking. Where warnings are errors, the
    error carries the judgments.
    """
    failed = [judgment for judgment in judgments if judgment.error is not None]
    if failed:
        shown = "; ".join(f"pair {judgment.index}: {judgment.error}" for judgment in islice(failed, 3))
        more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
        with carrying(judgments):
            warnings.warn(f"{len(failed)} of {len(judgments)} pairs have no score ({shown}{more})", stacklevel=3)


def warn_of_no_methods(given: object, base: type) -> None:
    """Say so where a caller's subclass overrides nothing of its base: it is never called, as where a name is misspelt.

    Args:
        given: the object; one of another class, or of the base itself, is passed over.
        base: the class whose methods it should have.
    """
    names = [name for name, member in vars(base).items() if callable(member) and not name.startswith("_")]
    if not isinstance(given, base) or type(given) is base:
        return
    if not any(name in vars(given) or getattr(type(given), name) is not getattr(base, name) for name in names):
        warnings.warn(
            f"{type(given).__name__} overrides no method of {base.__name__}, so that it is never called; there are "
            f"{', '.join(names)}",
            stacklevel=4,  # the caller of judge
        )


class BudgetCheck:
    """Says so where nearly all chains of a call ran to their budget, which looks like a result and seldom is one. It is
    said once: as soon as many chains have ended, so that hours may be saved, or else at the end of the call.

    Args:
        n_ended: how many chains have ended in which way, as `Judgment.ended` has it; counted while the call runs.
        budget: the most tokens that each may have.
        close: the marker that would close them.
        speaks: whether this process is the one that says what all have found.
    """

    def __init__(self, n_ended: Mapping[Ended | None, int], budget: int, close: str, *, speaks: bool = True) -> None:
        self._n_ended, self._budget, self._close, self._is_silent = n_ended, budget, close, not speaks

    def check(self, *, at_end: bool = False) -> None:
        """Warn if it is time to."""
        n_chains = sum(n for ended, n in self._n_ended.items() if ended is not None)
        n_budget = self._n_ended.get("budget", 0)
        if self._is_silent or n_chains < (_FEW if at_end else _MANY) or n_budget < _NEARLY_ALL * n_chains:
            return
        self._is_silent = True
        warnings.warn(
            f"{n_budget} of {n_chains} chains were not closed within their budget of {self._budget} tokens, and their "
            "verdicts were forced. Either the budget is too small (max_new_tokens), or the model closes its chains "
            f"with something else than {self._close!r} (markers=Markers(close=...)), or it is no reranker that thinks "
            "before it judges",
            stacklevel=6,  # the caller of judge
        )
