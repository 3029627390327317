"""The journal of a job: every judgment is appended as it finishes, so that a job that was killed can go on.

    {"journal": 1, "settings": {...}}       the first line: what decides the judgments
    {"index": 7, "score": 0.93, ...}        one line for each judgment, in the order of finishing

A line is written by one system call, so a process that dies leaves it whole, absent, or cut short at the end of the
file, where the next one drops it. Lines reach the disk in groups: a machine that dies loses at most about a second of
them. A line that cannot be read, which a file system may leave behind when the power fails, is as good as absent.
"""

import json
import logging
import os
from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from rank1_hf.evaluation.writing import AppendedFile, json_line

logger = logging.getLogger(__name__)

FORMAT = 1
"""The version of the file's layout."""

_SHOWN = 60  # characters of a setting in an error


class JournalError(ValueError):
    """A folder's journal cannot be used; the message says why and what to do."""


class Journal:
    """Judgments on disk, by the index of their pair.

    Args:
        path: the file; made where there is none, or none with a judgment in it.
        settings: what decides the judgments, by its name; values as JSON has them.
        n_pairs: how many pairs there are; indices are below this.

    Attributes:
        settings: those given.
        n_scored: how many pairs have a score.

    Raises:
        JournalError: the file belongs to a job with other settings, or is no journal.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], n_pairs: int) -> None:
        self.settings = dict(settings)
        self._offsets = array("q", [-1]) * n_pairs  # where each pair's last line starts
        self._scored = bytearray(n_pairs)
        self.n_scored = 0
        refuse_others(path, settings)
        if not path.exists() or not _has_judgments(path):
            settings = dict(sorted(settings.items()))  # merged shards have them in another order
            _create(path, {"journal": FORMAT, "settings": settings})
        self._reader = path.open("rb")
        try:
            self._lines = AppendedFile(path, self._scan())
        except BaseException:
            self._reader.close()
            raise

    def has_score(self, index: int) -> bool:
        """Whether a pair was judged. One that failed was not: it is tried again by the next process."""
        return bool(self._scored[index])

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a judgment: an "index", an "error" (None if there is a score), and whatever else belongs to it.

        Raises:
            OSError: it cannot be written (the disk is full); the file is as it was before.
        """
        self._note(record, self._lines.append(json_line(record)))

    def read(self, index: int) -> dict[str, Any] | None:
        """A pair's last judgment, or None where it has none."""
        offset = self._offsets[index]
        if offset < 0:
            return None
        self._reader.seek(offset)
        record: dict[str, Any] = json.loads(self._reader.readline())
        return record

    def sync(self) -> None:
        """Bring all lines to the disk."""
        self._lines.sync()

    def close(self) -> None:
        """Let go of the file."""
        self._lines.close()
        self._reader.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.sync()
        finally:
            self.close()

    def _scan(self) -> int:
        """Read all lines behind the first. Gives where the last whole line ends."""
        end, n_damaged = len(self._reader.readline()), 0
        for line in self._reader:
            if not line.endswith(b"\n"):
                break
            record = _parsed(line)
            if record is not None and _is_judgment(record, len(self._offsets)):
                self._note(record, end)
            else:
                n_damaged += 1
            end += len(line)
        if n_damaged:
            logger.warning("%s: damaged lines: %d; what they held is judged again", self._reader.name, n_damaged)
        return end

    def _note(self, record: Mapping[str, Any], offset: int) -> None:
        index = record["index"]
        self._offsets[index] = offset
        if record["error"] is None and not self._scored[index]:
            self._scored[index] = True
            self.n_scored += 1


def refuse_others(path: Path, settings: Mapping[str, Any]) -> None:
    """Say that a journal with judgments belongs to a job with other settings than these, which may be some of them.

    Raises:
        JournalError: it does, or is no journal.
        OSError: it cannot be read.
    """
    if not path.exists():
        return
    found, asked = read_settings(path), json.loads(json.dumps(dict(settings)))
    others = differences({name: found.get(name) for name in asked}, asked)
    if others and _has_judgments(path):
        said = "; ".join(f"{name} was {before}, now {now}" for name, before, now in others)
        raise JournalError(
            f"{path} was begun with other settings ({said}); to go on with it give the same ones, "
            "to begin anew another output folder"
        )


def read_settings(path: Path) -> dict[str, Any]:
    """What decides the judgments of a journal.

    Raises:
        JournalError: the file is no journal.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        header = _parsed(file.readline())
    if header is None or header.get("journal") != FORMAT or not isinstance(header.get("settings"), dict):
        raise JournalError(f"{path} is not a journal of this version of rank1_hf; give another output folder")
    settings: dict[str, Any] = header["settings"]
    return settings


def read_records(path: Path, n_pairs: int) -> Iterator[dict[str, Any]]:
    """The judgments of a journal, in the order of finishing, without touching the file, which another process may be
    writing. A line that cannot be read is left out, as is a half-written last one.

    Args:
        path: the file.
        n_pairs: how many pairs there are; indices are below this.
    """
    with path.open("rb") as file:
        file.readline()
        for line in file:
            record = _parsed(line) if line.endswith(b"\n") else None
            if record is not None and _is_judgment(record, n_pairs):
                yield record


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The names of settings that are not the same, and the beginning of both values."""
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return [(name, _short(one.get(name)), _short(other.get(name))) for name in names]


def _has_judgments(path: Path) -> bool:
    with path.open("rb") as file:
        file.readline()
        return bool(file.read(1))


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Make a folder this process's own, until the block or the process ends, however it ends.

    Raises:
        JournalError: another process has it.
    """
    # The kernel's file lock through filelock: it dies with its process, so that a crash leaves nothing to clean up.
    held = FileLock(folder / ".lock")
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise JournalError(f"{folder} is in use by another process; wait for it or give another folder") from None
    try:
        yield
    finally:
        held.release()


def _create(path: Path, header: Mapping[str, Any]) -> None:
    """Make a journal that is there with its whole first line, or not at all."""
    unfinished = path.with_name(f"{path.name}.new")
    with unfinished.open("wb") as file:
        file.write(json_line(header))
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _is_judgment(record: Mapping[str, Any], n_pairs: int) -> bool:
    index = record.get("index")
    return isinstance(index, int) and 0 <= index < n_pairs and "error" in record


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
