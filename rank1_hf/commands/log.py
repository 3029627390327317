"""What the package logs, on stderr while a command runs."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from rank1_hf.commands.options import note
from rank1_hf.viewing.printable import printable


@contextmanager
def log_on_stderr(quiet: bool) -> Iterator[None]:
    """Say what is logged at INFO or above, and what warns, as a command says its notes.

    Args:
        quiet: say only warnings and errors of the log.
    """
    logger, handler = logging.getLogger("rank1_hf"), _Notes()
    level = logger.level
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *where, **more: _say(str(message))
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _say(text: str) -> None:
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stderr):  # a bar stands below what is said
        note(printable(text))


class _Notes(logging.Handler):
    """Says records as a command says its notes."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _say(self.format(record))
        except Exception:
            self.handleError(record)
