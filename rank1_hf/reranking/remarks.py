"""Warnings at the beginning and at the end of a call."""

import warnings
from collections.abc import Mapping, Sequence
from itertools import islice

from rank1_hf.chains.chain import Ended
from rank1_hf.results.judgment import Judgment

_FEW = 10  # chains; fewer may all be long by chance
_NEARLY_ALL = 0.9


def warn_of_failures(judgments: Sequence[Judgment]) -> None:
    """Say which pairs have no score, for callers that are given scores alone."""
    failed = [judgment for judgment in judgments if judgment.error is not None]
    if failed:
        shown = "; ".join(f"pair {judgment.index}: {judgment.error}" for judgment in islice(failed, 3))
        more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
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


def warn_of_budget(n_ended: Mapping[Ended | None, int], *, budget: int, close: str) -> None:
    """Say so where nearly all chains of a call ran to their budget, which looks like a result and seldom is one.

    Args:
        n_ended: how many chains ended in which way, as `Judgment.ended` has it.
        budget: the most tokens that each could have.
        close: the marker that would have closed them.
    """
    n_chains = sum(n for ended, n in n_ended.items() if ended is not None)
    n_budget = n_ended.get("budget", 0)
    if n_chains >= _FEW and n_budget >= _NEARLY_ALL * n_chains:
        warnings.warn(
            f"{n_budget} of {n_chains} chains were not closed within their budget of {budget} tokens, and their "
            "verdicts were forced. Either the budget is too small (max_new_tokens), or the model closes its chains "
            f"with something else than {close!r} (markers=Markers(close=...)), or it is no reranker that thinks before "
            "it judges",
            stacklevel=6,  # the caller of judge
        )
