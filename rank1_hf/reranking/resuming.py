"""Chains that an interrupt or a kill left unfinished: who keeps them, and how a call goes on with them.

What the model has generated decides a chain's state, so its token ids are all that is kept. A call that goes on feeds
them as prefill, as it does with a pair that was preempted. Where a rule, a logits processor, an observer or a trace is
attached, which may keep a state of its own, a chain begins anew.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

from rank1_hf.prompts.pair_text import PairError
from rank1_hf.results.judgment import Judgment


class ChainKeeper(Protocol):
    """Keeps what chains have generated where it outlives the process."""

    def generated(self, index: int) -> Sequence[int]:
        """What was kept of the chain of a pair, whose turn it is now; nothing where it begins.

        Args:
            index: the pair's place in the call.
        """

    def keep(self, generated: Mapping[int, Sequence[int]]) -> None:
        """Take what the chains that are being decoded have generated so far. Called a few times a second.

        Args:
            generated: token ids by the pair's place, to be read only; each is at least as long as it was before.
        """


def judgments_to_resume(value: object) -> tuple[Judgment, ...]:
    """What a caller gives to go on with: judgments, the error that carries them, or None for nothing.

    Raises:
        TypeError: it is something else.
    """
    if value is None:
        return ()
    if isinstance(value, BaseException) and "judgments" in vars(value):
        return tuple(carried_by(value))
    if not isinstance(value, Iterable) or isinstance(value, str):
        raise TypeError(f"resume_from takes a list of judgments, as Interrupted.judgments has them, not {value!r}")
    judgments = tuple(value)
    for each in judgments:
        if not isinstance(each, Judgment):
            raise TypeError(f"resume_from takes judgments, as Interrupted.judgments has them, not {each!r}")
    return judgments


def carry(error: BaseException, judgments: Iterable[Judgment]) -> None:
    """Give an error what was judged before it, as `judgments`, in input order. Of two for one pair the last counts."""
    by_index = {judgment.index: judgment for judgment in judgments}
    vars(error)["judgments"] = sorted(by_index.values(), key=lambda judgment: judgment.index)


def carried_by(error: BaseException) -> list[Judgment]:
    """What `carry` has given an error, or an `Interrupted` holds."""
    found: list[Judgment] = vars(error).get("judgments", [])
    return found


@contextmanager
def carrying(judgments: Iterable[Judgment]) -> Iterator[None]:
    """A block whose errors carry judgments that are made already."""
    try:
        yield
    except Exception as error:
        carry(error, judgments)
        raise


class Resumed:
    """What an earlier call with the same pairs gave before it was interrupted.

    Args:
        judgments: as `judgments_to_resume` gives them. Where a pair has several, the last counts.
    """

    def __init__(self, judgments: Sequence[Judgment]) -> None:
        self._judgments = {each.index: each for each in judgments if each.error is None or each.unfinished}
        self._reached: set[int] = set()

    def kept(self, index: int, fingerprint: str) -> Judgment | None:
        """What is kept of a pair: its judgment, or what its chain had generated; None where it begins anew.

        Raises:
            PairError: it was another pair, or another prompt, or there is no telling.
        """
        self._reached.add(index)
        found = self._judgments.get(index)
        if found is None:
            return None
        if found.fingerprint != fingerprint:
            known = "is of another pair, or of other options" if found.fingerprint else "does not say whose it is"
            raise PairError(
                f"the judgment of pair {index} in resume_from {known}; resume_from takes what the same pairs and "
                "options gave, as Interrupted.judgments has it"
            )
        return found

    def not_reached(self) -> list[Judgment]:
        """What is kept of the pairs that the call has not come to yet."""
        return [each for index, each in self._judgments.items() if index not in self._reached]
