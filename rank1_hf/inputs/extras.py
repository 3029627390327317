"""Packages that come with an extra, and what to type where one is missing."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def from_extra(extra: str, what: str) -> Iterator[None]:
    """Import packages of an extra within this.

    Args:
        extra: its name in pyproject.toml.
        what: what needs them, as in "tables need pyarrow".

    Raises:
        ImportError: one is missing; the message says how to install it.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{what} need {error.name}; install it with: pip install 'rank1-hf[{extra}]'") from error
