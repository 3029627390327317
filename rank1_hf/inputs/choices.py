"""What is said where a name is none of those there are."""

import difflib
from collections.abc import Iterable

_SHOWN = 20


def must_be_one_of(what: str, given: object, choices: Iterable[str]) -> str:
    """A sentence: "--split must be one of dev, test, not 'tset'; did you mean 'test'?"

    Args:
        what: whose name it is.
        given: the name; None: there is none, and several to choose from.
        choices: the names there are; of many, the nearest are shown.
    """
    known = list(choices)
    near = nearest(str(given), known)
    shown = known if len(known) <= _SHOWN else [*near, *(name for name in known if name not in near)][:_SHOWN]
    more = f" and {len(known) - len(shown)} more" if len(shown) < len(known) else ""
    instead = "" if given is None else f", not {given!r}"
    meant = f"; did you mean {near[0]!r}?" if near and given is not None else ""
    return f"{what} must be one of {', '.join(shown)}{more}{instead}{meant}"


def nearest(given: str, choices: Iterable[str]) -> list[str]:
    """The names that are spelled much like another, the nearest first, whatever their case."""
    by_spelling = {name.lower(): name for name in choices}
    return [by_spelling[name] for name in difflib.get_close_matches(given.lower(), by_spelling, n=3)]
