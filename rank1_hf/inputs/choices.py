"""What is said where a name is none of those there are."""

import difflib
from collections.abc import Iterable, Sequence

_SHOWN = 20
_MISSPELT = 0.91  # a letter too few or too many, and nothing that could be meant as it is


def must_be_one_of(what: str, given: object, choices: Iterable[str]) -> str:
    """A sentence: "--split must be one of dev, test, not 'tset'; did you mean 'test'?"

    Args:
        what: whose name it is.
        given: the name; None: there is none, and several to choose from.
        choices: the names there are; of many, the nearest are shown.
    """
    known = list(choices)
    near = _nearest(str(given), known)
    shown = known if len(known) <= _SHOWN else [*near, *(name for name in known if name not in near)][:_SHOWN]
    more = f" and {len(known) - len(shown)} more" if len(shown) < len(known) else ""
    instead = "" if given is None else f", not {given!r}{did_you_mean(str(given), known)}"
    return f"{what} must be one of {', '.join(shown)}{more}{instead}"


def did_you_mean(given: str, choices: Iterable[str]) -> str:
    """The end of a sentence: "; did you mean 'test'?", or nothing where no name is spelled much like it."""
    return "".join(f"; did you mean {name!r}?" for name in _nearest(given, choices)[:1])


def made(given: object) -> str:
    """The end of a sentence: "; write EarlyExit()" where a class was given instead of an object of it, or nothing."""
    return f"; write {given.__name__}()" if isinstance(given, type) else ""


def refuse_misspelt(owner: type, names: Sequence[str]) -> None:
    """Refuse a class with an attribute whose name is nearly one of these, which nobody would read.

    Raises:
        TypeError: it has one.
    """
    for name in vars(owner):
        near = difflib.get_close_matches(name, names, n=1, cutoff=_MISSPELT)
        if near and name not in names and not name.startswith("_"):
            raise TypeError(f"{owner.__name__}.{name} has no meaning; did you mean {near[0]!r}?")


def _nearest(given: str, choices: Iterable[str]) -> list[str]:
    """Names that are spelled much like another, whatever their case, the nearest first."""
    by_spelling: dict[str, str] = {}
    for name in choices:
        by_spelling.setdefault(name.lower(), name)
    return [by_spelling[name] for name in difflib.get_close_matches(given.lower(), by_spelling, n=3)]
