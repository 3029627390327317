"""Judgments on disk, in an SQLite file that several processes use at once and that a kill cannot harm.

What a key stands for is the business of `cached_judgments.py`; here keys are bytes and values are JSON.

Writing one entry is one transaction in a write-ahead log (WAL): an entry is whole or absent whatever ends its process,
and readers never wait for writers. The log needs memory that all processes share, which a network file system does not
give: there SQLite's rollback journal takes its place, which is slower, and as safe as that file system's locks.
"""

import json
import sqlite3
import threading
import time
import warnings
import weakref
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import psutil

_APPLICATION = 0x52314A43  # "R1JC", in the header of the file
_FORMAT = 1
_DEFAULT_BYTES = 4 << 30
_LEAST_BYTES = 1 << 20
_PATIENCE = 60.0  # seconds that a process waits for another one's write, which takes milliseconds
_UNWRITTEN_USES = 1000  # uses remembered before they are written; a killed process loses them, and nothing else
_EVICTED = 0.1  # how much of the limit is freed at a time
_NETWORK = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "afs", "9p", "fuse.sshfs", "pvfs")


class CacheError(ValueError):
    """A file cannot be used as a score cache; the message says why and what to do. The file is as it was."""


class ScoreCache:
    """A file of judgments by their keys. Threads may share one; each process opens its own.

    What goes wrong once it is open, as a disk that is full, ends its use with a warning, and costs no judgment.

    Args:
        path: the file; made where there is none.
        max_bytes: how large it may become; the entries that were not used for longest make room. It stays with the
            file. None: as it is, and 4 GiB for a new one.

    Attributes:
        path: the file.
        max_bytes: how large it may become.

    Raises:
        CacheError: the file is none, is damaged, or cannot be read or written.
        ValueError: so few bytes hold nothing.
    """

    def __init__(self, path: str | Path, *, max_bytes: int | None = None) -> None:
        if max_bytes is not None and max_bytes < _LEAST_BYTES:
            raise ValueError(f"max_bytes must be at least {_LEAST_BYTES}, one MiB, not {max_bytes}")
        self.path = Path(path)
        self._lock = threading.Lock()
        self._used: dict[bytes, int] = {}  # when entries were used last, as far as that is not written yet
        try:
            _refuse_others(self.path)
            self._database: sqlite3.Connection | None = _opened(self.path)
            self.max_bytes = self._limit(self._database, max_bytes)
        except (OSError, sqlite3.Error) as error:
            raise CacheError(f"{self.path} cannot be used as a score cache: {error}; give another file") from error
        self._close = weakref.finalize(self, _close, self._database, self._used)

    @classmethod
    def of(cls, given: "Self | str | Path") -> "ScoreCache":
        """The cache that a caller gave, or that is in a file."""
        return given if isinstance(given, cls) else ScoreCache(given)  # type: ignore[arg-type]

    def get(self, key: bytes) -> dict[str, Any] | None:
        """The value of a key, or None where there is none, or one that is damaged."""
        with self._lock:
            if self._database is None:
                return None
            try:
                row = self._database.execute("SELECT value, checksum FROM entries WHERE key = ?", (key,)).fetchone()
                if row is None or _checksum(key, row[0]) != row[1]:
                    return None
                self._used[key] = time.time_ns()
                if len(self._used) >= _UNWRITTEN_USES:
                    _write_uses(self._database, self._used)
            except sqlite3.Error as error:
                self._give_up(error)
                return None
            value: dict[str, Any] = json.loads(row[0])
            return value

    def put(self, key: bytes, value: Mapping[str, Any]) -> None:
        """Keep a value, which is on the file system once this returns."""
        text = json.dumps(dict(value))
        with self._lock:
            if self._database is None:
                return
            try:
                self._database.execute(
                    "INSERT OR REPLACE INTO entries (key, value, checksum, used) VALUES (?, ?, ?, ?)",
                    (key, text, _checksum(key, text), time.time_ns()),
                )
                if _n_bytes(self._database) > self.max_bytes:
                    self._evict(self._database)
            except sqlite3.Error as error:
                self._give_up(error)

    def __len__(self) -> int:
        """How many entries there are."""
        if self._database is None:
            return 0
        n: int = self._database.execute("SELECT COUNT(*) FROM entries").fetchone()[0]
        return n

    def close(self) -> None:
        """Let go of the file; nothing is found or kept from now on."""
        with self._lock:
            self._database = None
            self._close()

    def _limit(self, database: sqlite3.Connection, asked: int | None) -> int:
        if asked is not None:
            database.execute("UPDATE limits SET max_bytes = ?", (asked,))
        limit: int = database.execute("SELECT max_bytes FROM limits").fetchone()[0]
        return limit

    def _evict(self, database: sqlite3.Connection) -> None:
        """Delete what was not used for longest. The file keeps its size: new entries take the room."""
        _write_uses(database, self._used)
        with _transaction(database):
            goal = self.max_bytes * (1 - _EVICTED)
            while _n_bytes(database) > goal:
                (n,) = database.execute("SELECT COUNT(*) FROM entries").fetchone()
                if n == 0:
                    return
                database.execute(
                    "DELETE FROM entries WHERE id IN (SELECT id FROM entries ORDER BY used LIMIT ?)",
                    (max(int(n * _EVICTED), 1),),
                )

    def _give_up(self, error: sqlite3.Error) -> None:
        warnings.warn(f"the score cache {self.path} is not used any more: {error}", stacklevel=4)
        self._database = None


class _transaction:  # noqa: N801
    """Everything in a block, or nothing; no other process writes meanwhile."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def __enter__(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._database.execute("COMMIT" if kind is None else "ROLLBACK")


def _refuse_others(path: Path) -> None:
    """Say that a file is no score cache, without writing to it.

    Raises:
        CacheError: it is none, or is damaged.
        OSError: it cannot be read.
    """
    if not path.exists() or path.stat().st_size == 0:
        return
    try:
        database = sqlite3.connect(path, timeout=_PATIENCE)  # read only, it would leave files of its log behind
        try:
            (application,) = database.execute("PRAGMA application_id").fetchone()
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if application != _APPLICATION:
                raise CacheError(f"{path} is a database of something else, not a score cache; give another file")
            if version != _FORMAT:
                raise CacheError(f"{path} is a score cache of another version of rank1_hf; give another file")
            (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            database.close()
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        raise CacheError(f"{path} is damaged, or no score cache ({error}); give another file, or delete it") from error
    if found != "ok":
        raise CacheError(f"{path} is damaged ({found}); delete it, or give another file")


def _opened(path: Path) -> sqlite3.Connection:
    """A connection to the file, which is made where there is none.

    Raises:
        sqlite3.Error: it cannot be read or written.
    """
    database = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
    try:
        with _transaction(database):
            if (
                database.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION
            ):  # and no other process was first
                _make_tables(database)
        _set_journal(database, path)
    except BaseException:
        database.close()
        raise
    return database


def _make_tables(database: sqlite3.Connection) -> None:
    for statement in (
        "CREATE TABLE entries (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, value TEXT NOT NULL, "
        "checksum INTEGER NOT NULL, used INTEGER NOT NULL)",
        "CREATE INDEX by_use ON entries (used)",
        "CREATE TABLE limits (max_bytes INTEGER NOT NULL)",
        f"INSERT INTO limits VALUES ({_DEFAULT_BYTES})",
        f"PRAGMA application_id = {_APPLICATION}",
        f"PRAGMA user_version = {_FORMAT}",
    ):
        database.execute(statement)


def _set_journal(database: sqlite3.Connection, path: Path) -> None:
    is_on_network = _is_on_network(path)
    if is_on_network:
        warnings.warn(
            f"{path} is on a network file system, where a score cache is slow, and safe only if its locks work between "
            "machines; a local disk is better",
            stacklevel=5,
        )
    wanted = "delete" if is_on_network else "wal"
    deadline = time.monotonic() + _PATIENCE
    while True:  # for this, SQLite does not wait by itself
        try:
            (found,) = database.execute(f"PRAGMA journal_mode = {wanted}").fetchone()
            if found == wanted:
                break
            raise sqlite3.OperationalError(f"its journal cannot be {wanted}")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    if not is_on_network:
        database.execute("PRAGMA synchronous = NORMAL")  # a power failure may cost the last entries, never the file


def _is_on_network(path: Path) -> bool:
    absolute = path.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if absolute.is_relative_to(part.mountpoint)]
    here = max(mounts, key=lambda part: len(part.mountpoint), default=None)
    return here is not None and here.fstype.lower().startswith(_NETWORK)


def _n_bytes(database: sqlite3.Connection) -> int:
    """How much of the file is in use."""
    pages, free, size = (
        database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    used: int = (pages - free) * size
    return used


def _write_uses(database: sqlite3.Connection, used: dict[bytes, int]) -> None:
    with _transaction(database):
        database.executemany("UPDATE entries SET used = ? WHERE key = ?", [(when, key) for key, when in used.items()])
    used.clear()


def _close(database: sqlite3.Connection, used: dict[bytes, int]) -> None:
    try:
        _write_uses(database, used)
    except sqlite3.Error:
        pass  # the entries themselves are there
    finally:
        database.close()


def _checksum(key: bytes, text: str) -> int:
    return zlib.crc32(key + text.encode())
