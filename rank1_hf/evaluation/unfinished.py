"""What the unfinished chains of a job have generated, so that a kill costs no more than a moment of thinking.

    {"chains": 1, "settings": "sha256..."}              the first line: what decides the chains
    {"7": [120, [13, 5, 88]], "9": [0, [402]]}          pair 7 has these tokens from its 120th on, pair 9 from its first

A few times a second a line is appended with what the chains have grown by, in one system call as the journal's are. The
file is written anew with the chains that are live when a job goes on and whenever it has outgrown them, and is deleted
when the job is finished: so it never holds more than about twice what is unfinished, and a megabyte. Of a chain whose
tokens do not follow each other, because a line cannot be read, only those before the gap count.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rank1_hf.evaluation.writing import AppendedFile, json_line, replacing

FORMAT = 1
"""The version of the file's layout."""

_ROOM = 1 << 20  # bytes by which the file may outgrow twice its chains


class UnfinishedChains:
    """Unfinished chains on disk, by the index of their pair.

    Args:
        path: the file; made as soon as there is anything to keep. That of a job with other settings counts for nothing.
        settings: what decides the chains: the journal's.
        is_finished: whether a pair has its judgment.

    Raises:
        OSError: the file cannot be read or written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], is_finished: Callable[[int], bool]) -> None:
        self._path = path
        self._header = {"chains": FORMAT, "settings": _digest(settings)}
        self._tokens = {index: ids for index, ids in self._read().items() if not is_finished(index)}
        self._lines: AppendedFile | None = None
        self._most = 0

    def generated(self, index: int) -> Sequence[int]:
        """The token ids of a chain; none where it begins."""
        return self._tokens.get(index, [])

    def keep(self, generated: Mapping[int, Sequence[int]]) -> None:
        """Append what chains have grown by.

        Args:
            generated: the token ids of each, those from before included.

        Raises:
            OSError: it cannot be written; the file is as it was before.
        """
        grown: dict[int, tuple[int, list[int]]] = {}
        for index, ids in generated.items():
            start = len(self.generated(index))
            if len(ids) > start:
                grown[index] = start, list(ids[start:])
        if grown:
            self._append(json_line({str(index): each for index, each in grown.items()}))
        for index, (_, ids) in grown.items():  # afterwards: what an interrupt keeps out of the file comes again
            self._tokens.setdefault(index, []).extend(ids)

    def drop(self, index: int) -> None:
        """A pair has its judgment."""
        self._tokens.pop(index, None)

    def close(self) -> None:
        """Let go of the file."""
        if self._lines is not None:
            self._lines.close()

    def delete(self) -> None:
        """All pairs have their judgments."""
        self.close()
        self._path.unlink(missing_ok=True)

    def _append(self, line: bytes) -> None:
        if self._lines is None or self._lines.end + len(line) > self._most:
            self.close()
            self._lines = self._written_anew()
        self._lines.append(line)

    def _written_anew(self) -> AppendedFile:
        with replacing(self._path) as file:
            file.write(json_line(self._header))
            if self._tokens:
                file.write(json_line({str(index): [0, ids] for index, ids in self._tokens.items()}))
            end = file.tell()
        self._most = 2 * end + _ROOM
        return AppendedFile(self._path, end)

    def _read(self) -> dict[int, list[int]]:
        chains: dict[int, list[int]] = {}
        if not self._path.exists():
            return chains
        with self._path.open("rb") as file:
            if _parsed(file.readline()) != self._header:
                return chains
            for line in file:
                for index, (start, ids) in _grown(_parsed(line)).items():
                    known = chains.setdefault(index, [])
                    if start <= len(known):  # less where an interrupt came behind the line before
                        known[start:] = ids
        return chains


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _grown(record: object) -> dict[int, tuple[int, list[int]]]:
    """What a line says; nothing where it makes no sense."""
    try:
        found = {int(index): (start, ids) for index, (start, ids) in record.items()}  # type: ignore[attr-defined]
    except (AttributeError, TypeError, ValueError):
        return {}
    return found if all(_are_ids([start, *ids]) for start, ids in found.values()) else {}


def _are_ids(values: Sequence[object]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values)
