"""Rows in an SQLite file on a local disk, safe against kill -9 and damaged bits."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np

from skembed.cache.codec import decode_row, encode_row, owner_of
from skembed.cache.open_files import close_least_recently_used
from skembed.utils.sealed_files import private_directory

__all__ = ["USED_ANEW_AFTER", "CacheUnavailable", "SqliteStore"]

_FILE = "embeddings.sqlite"
#: Seconds to wait for another process's transaction.
_PATIENCE = 30.0
#: Keys a query. SQLite reads batches half as fast again as single rows; more than some hundred bring nothing.
_BATCH = 500
#: Seconds after which a row that is read counts as used again: writing it down at each read would cost more than
#: the reading.
USED_ANEW_AFTER = 86_400

_SCHEMA = """
CREATE TABLE IF NOT EXISTS namespaces (id INTEGER PRIMARY KEY, name BLOB UNIQUE NOT NULL);
CREATE TABLE IF NOT EXISTS rows (
    namespace INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, used INTEGER NOT NULL,
    PRIMARY KEY (namespace, key)
);
"""
_Result = TypeVar("_Result")


class CacheUnavailable(OSError):
    """The file cannot be written: the disk is full, rights are missing or it stays locked."""


class SqliteStore:
    """Store of rows in ``directory/embeddings.sqlite``.

    Parameters
    ----------
    directory : Path
        Directory to create, readable by its owner only, if it is missing.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.read_only = False
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._connection: sqlite3.Connection | None = None
        #: Device and inode of the open file; None where there is no file.
        self._identity: tuple[int, int] | None = None
        self._namespaces: dict[str, int] = {}
        # A connection must not be closed in a forked child, nor garbage collected there.
        self._inherited: list[sqlite3.Connection | None] = []

    # -- rows -------------------------------------------------------------------------------------------

    def get_many(self, namespace: str, keys: Sequence[bytes]) -> list[np.ndarray | None]:
        """Return the rows of these keys, with None for missing and damaged ones."""
        return self._run(lambda connection: self._get(connection, namespace, keys))

    def put_many(self, namespace: str, keys: Sequence[bytes], rows: Sequence[np.ndarray]) -> None:
        """Write rows in one transaction.

        Raises
        ------
        CacheUnavailable
            If they cannot be written.
        """
        now = int(time.time())
        values = [(key, encode_row(row, owner_of(namespace, key)), now) for key, row in zip(keys, rows, strict=True)]

        def put(connection: sqlite3.Connection) -> None:
            with _transaction(connection):
                number = self._number(connection, namespace, make=True)
                connection.executemany(
                    "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?)", ((number, *value) for value in values)
                )

        if self.read_only:
            raise CacheUnavailable(f"{self.directory} cannot be written to.")
        self._run(put)

    def flush(self) -> None:
        """Do nothing: `put_many` returns when its rows are on disk."""

    def forget_deleted(self) -> bool:
        """Close the file if it was deleted or replaced since it was opened; return True if it was.

        Rows written to a deleted file are lost when the file is closed. The next call opens a new one.
        """
        with self._lock:
            if self._connection is None or self._identity is None or self._pid != os.getpid():
                return False
            if _identity(self.directory / _FILE) == self._identity:
                return False
            self.close()
            return True

    def _get(self, connection, namespace: str, keys: Sequence[bytes]) -> list[np.ndarray | None]:
        number = self._number(connection, namespace, make=False)
        if number is None:
            return [None] * len(keys)
        found: dict[bytes, np.ndarray] = {}
        stale, broken, yesterday = [], [], int(time.time()) - USED_ANEW_AFTER
        for start in range(0, len(keys), _BATCH):
            batch = keys[start : start + _BATCH]
            marks = ",".join("?" * len(batch))
            query = f"SELECT key, value, used FROM rows WHERE namespace = ? AND key IN ({marks})"
            for key, value, used in connection.execute(query, (number, *batch)):
                row = decode_row(value, owner_of(namespace, key)) if isinstance(key, bytes) else None
                if row is None:
                    broken.append((number, key))
                else:
                    found[key] = row
                    if not isinstance(used, int) or used < yesterday:
                        stale.append((int(time.time()), number, key))
        if (broken or stale) and not self.read_only:
            with _transaction(connection):
                connection.executemany("DELETE FROM rows WHERE namespace = ? AND key = ?", broken)
                connection.executemany("UPDATE rows SET used = ? WHERE namespace = ? AND key = ?", stale)
        return [found.get(key) for key in keys]

    def _number(self, connection, namespace: str, *, make: bool) -> int | None:
        """Return the number that stands for a namespace in the rows."""
        if namespace not in self._namespaces:
            name = namespace.encode()
            if make:
                connection.execute("INSERT OR IGNORE INTO namespaces (name) VALUES (?)", (name,))
            found = connection.execute("SELECT id FROM namespaces WHERE name = ?", (name,)).fetchone()
            if found is None or make:
                # Not remembered before the transaction that made it is through.
                return None if found is None else found[0]
            self._namespaces[namespace] = found[0]
        return self._namespaces[namespace]

    # -- keeping house ----------------------------------------------------------------------------------

    def count(self) -> tuple[int, int]:
        """Return the number of rows, and the bytes of the files."""

        def count(connection):
            return connection.execute("SELECT COUNT(*) FROM rows").fetchone()[0]

        return self._run(count), sum(path.stat().st_size for path in self._files())

    def last_used(self) -> float | None:
        """Return the time of the last use in seconds since 1970, to the day; None without rows."""
        return self._run(lambda connection: connection.execute("SELECT MAX(used) FROM rows").fetchone()[0])

    def clear(self) -> int:
        """Remove all rows and return their number."""
        return self.prune(0, None)

    def prune(self, max_bytes: int | None, older_than: float | None) -> int:
        """Remove rows unused for `older_than` seconds, then the longest unused to `max_bytes`."""

        def prune(connection) -> int:
            before = connection.total_changes
            with _transaction(connection):
                if older_than is not None:
                    connection.execute("DELETE FROM rows WHERE used < ?", (time.time() - older_than,))
                if max_bytes is not None:
                    connection.execute(
                        "DELETE FROM rows WHERE rowid IN (SELECT rowid FROM (SELECT rowid, SUM(LENGTH(value) + 80) "
                        "OVER (ORDER BY used DESC, rowid DESC) AS upto FROM rows) WHERE upto > ?)",
                        (max_bytes,),
                    )
            removed = connection.total_changes - before
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return removed

        return self._run(prune)

    def verify(self) -> tuple[int, int]:
        """Check every row and remove damaged ones; return the numbers of intact and damaged rows."""

        def verify(connection) -> tuple[int, int]:
            good, bad = 0, []
            query = (
                "SELECT rows.rowid, name, key, value FROM rows LEFT JOIN namespaces ON rows.namespace = namespaces.id"
            )
            for rowid, name, key, value in connection.execute(query):
                whole = isinstance(name, bytes) and isinstance(key, bytes)
                if whole and decode_row(value, owner_of(name.decode(errors="replace"), key)) is not None:
                    good += 1
                else:
                    bad.append((rowid,))
            if bad:
                with _transaction(connection):
                    connection.executemany("DELETE FROM rows WHERE rowid = ?", bad)
            return good, len(bad)

        return self._run(verify)

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None

    def close_if_idle(self) -> bool:
        """Close the file unless another thread uses it now; return True if it is closed."""
        if self._pid != os.getpid() or not self._lock.acquire(blocking=False):
            return False
        try:
            self.close()
            return True
        finally:
            self._lock.release()

    # -- the connection ---------------------------------------------------------------------------------

    def _run(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        if self._pid != os.getpid():
            # A lock that another thread of the parent held at the fork would never be released here.
            self._lock, self._pid = threading.RLock(), os.getpid()
            self._inherited.append(self._connection)
            self._connection = None
        with self._lock:
            for attempt in range(2):
                try:
                    return self._patiently(work)
                # A flipped name of a column is not even text.
                except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                    if isinstance(error, sqlite3.OperationalError) and not _is_damage(error):
                        raise CacheUnavailable(f"{self.directory / _FILE}: {error}") from error
                    if attempt or self.read_only:
                        raise CacheUnavailable(f"{self.directory / _FILE} is damaged: {error}") from error
                    self._set_aside()
            raise AssertionError("unreachable")

    def _patiently(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        """Open the file and work with it; try again while it is busy despite SQLite's own timeout.

        Processes that open a new file at the same moment are such a case: each changes it to a write-ahead log.
        """
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                if self._connection is None:
                    self._connection = self._open()
                    self._identity = _identity(self.directory / _FILE)
                close_least_recently_used(self)
                return work(self._connection)
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > until:
                    raise
            # Not all at the same moment again.
            time.sleep(random.uniform(0.001, 0.02))

    def _open(self) -> sqlite3.Connection:
        self._namespaces = {}
        path = self.directory / _FILE
        try:
            private_directory(self.directory)
            writable = os.access(self.directory, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))
        except OSError as error:
            raise CacheUnavailable(f"cache={str(self.directory)!r} cannot be created: {error}") from error
        self.read_only = not writable
        if not writable:
            return self._open_for_reading(path)
        if not path.exists():
            # Made by us, it is its owner's; somebody who shares it with a group may say so afterwards.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = _connect(path.as_posix(), uri=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            # In WAL mode this loses at most the last transactions when the power fails, and never the file.
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.executescript(_SCHEMA)
        except BaseException:
            connection.close()
            raise
        return connection

    def _open_for_reading(self, path: Path) -> sqlite3.Connection:
        if not path.exists():
            connection = _connect(":memory:", uri=False)
            connection.executescript(_SCHEMA)
            return connection
        # Where even the lock file cannot be made, nobody can be writing: the file is taken as it stands.
        failure: Exception | None = None
        for mode in ("mode=ro", "mode=ro&immutable=1"):
            try:
                connection = _connect(f"{path.absolute().as_uri()}?{mode}", uri=True)
                connection.execute("SELECT COUNT(*) FROM namespaces").fetchone()
                return connection
            except sqlite3.OperationalError as error:
                failure = failure or error
        assert failure is not None
        raise failure

    def _set_aside(self) -> None:
        """Rename a damaged file, which its owner may look at or delete."""
        self.close()
        mark = f"damaged-{time.time_ns()}"
        for path in self._files():
            with_mark = path.with_name(path.name.replace("embeddings", f"embeddings-{mark}"))
            try:
                os.replace(path, with_mark)
            except FileNotFoundError:
                continue  # another process saw the damage, too, and was faster

    def _files(self) -> Iterator[Path]:
        return (path for path in (self.directory / f"{_FILE}{end}" for end in ("", "-wal", "-shm")) if path.exists())


def _identity(path: Path) -> tuple[int, int] | None:
    """Return the device and inode of a file, None if it does not exist."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _connect(name: str, *, uri: bool) -> sqlite3.Connection:
    # Threads take turns by the store's own lock. Transactions are begun by hand, with the right to write.
    connection = sqlite3.connect(name, timeout=_PATIENCE, isolation_level=None, check_same_thread=False, uri=uri)
    connection.text_factory = bytes  # a flipped type would have to be valid UTF-8 otherwise
    return connection


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _is_busy(error: sqlite3.OperationalError) -> bool:
    """Return True if another connection has locked the file.

    Extended error codes keep the basic code in their lowest byte.
    """
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def _is_damage(error: sqlite3.OperationalError) -> bool:
    """Return True if an error says that the file is damaged, not only out of reach."""
    said = str(error).lower()
    return any(phrase in said for phrase in ("malformed", "no such table", "no such column", "unsupported file format"))
