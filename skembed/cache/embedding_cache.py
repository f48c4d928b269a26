"""EmbeddingCache: the rows of samples that were embedded before, in memory or on disk."""

from __future__ import annotations

import os
import threading
import time
import uuid
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from skembed.cache.filesystem import is_network
from skembed.cache.memory import MemoryStore
from skembed.cache.shards import ShardStore
from skembed.cache.sqlite import USED_ANEW_AFTER, SqliteStore
from skembed.exceptions import CacheWarning
from skembed.utils.parameters import check_path
from skembed.utils.warnings import warn

__all__ = ["CacheInfo", "EmbeddingCache", "resolve_cache"]

#: Bytes that a cache may take in memory: 300,000 rows of 384 features.
DEFAULT_MEMORY = 512 * 2**20
#: Bytes of rows on disk that are held in memory as well, since the folds of a search ask for the same ones many times:
#: 36,000 rows of 384 features.
_RECENT = 64 * 2**20


@dataclass(frozen=True)
class CacheInfo:
    """What a cache holds, and what it was good for in this process.

    Parameters
    ----------
    location : str
        "memory", or the directory.
    entries : int
        Rows held.
    bytes : int
        Bytes that they take, in memory or on disk.
    hits, misses : int
        Rows that this object, its copies included, was asked for in this process, and found or not. Embedders that
        name the directory share one of their own, which `skembed.cache.resolve_cache` gives.
    last_used : datetime or None
        When a row was last read or written, by any process as far as the disk tells (reads are noted there once per
        day), in UTC; None if never.
    """

    location: str
    entries: int
    bytes: int
    hits: int
    misses: int
    last_used: datetime | None


class EmbeddingCache:
    """Rows of embeddings, found by what the samples contain and how they were read.

    One sample is one entry, so folds, candidates, processes and runs that share samples share rows. Safe for
    threads and processes; a disk that is full, read-only or damaged costs the speed and never the result.

    Parameters
    ----------
    location : str or PathLike, default=None
        A directory: an SQLite file on a local disk, immutable files on a network filesystem, where locks cannot
        be trusted. None keeps the rows in this process's memory.
    max_bytes : int, default=None
        Bytes that it may take. In memory, where the default is 512 MiB, the least recently used rows leave.
        On disk, where there is no default, `prune` keeps to it and nothing else deletes.

    Attributes
    ----------
    location : Path or None
        The directory, absolute.

    Notes
    -----
    Values are little-endian float32 with a checksum, never a pickle: a foreign cache can give wrong numbers,
    but runs no code. The directory is readable by its owner only, since embeddings tell about the samples.
    Of a cache on disk, up to 64 MiB of what was used last are held in memory as well.
    Clones, copies and pickles of a cache are the same cache; one in memory is empty in another process.

    Examples
    --------
    >>> from skembed import EmbeddingCache, TextEmbedder
    >>> cache = EmbeddingCache()
    >>> X = TextEmbedder(cache=cache, device="cpu").fit_transform(["one", "two", "one"])
    >>> cache.info().entries
    2
    """

    def __init__(self, location: str | os.PathLike | None = None, *, max_bytes: int | None = None):
        if max_bytes is not None and max_bytes < 0:
            raise ValueError(f"max_bytes={max_bytes} is negative. Use a number of bytes, or None.")
        check_path(location, "location")
        self.location = None if location is None else Path(location).expanduser().absolute()
        self.max_bytes = max_bytes
        # The same in every process for a directory, and with it joblib's hash of an estimator.
        self._token = uuid.uuid4().hex if self.location is None else str(self.location)
        self._store = None if self.location is None else _open_store(self.location)
        # What the disk refused; or, without one, everything.
        self._memory = MemoryStore(DEFAULT_MEMORY if max_bytes is None or location is not None else max_bytes)
        #: What was read from the disk or written to it of late; a copy, of which nothing needs to be kept.
        self._recent = MemoryStore(_RECENT)
        self._recent_since = time.time()
        self._warned = self._warned_of_deletion = False
        self._hits = self._misses = 0
        self._last_used: float | None = None
        #: Held while samples are looked up and embedded, so that two threads never embed the same one.
        self.turn = threading.RLock()
        _instances[self._token] = self

    # -- rows -------------------------------------------------------------------------------------------

    def get_many(self, namespace: str, keys: Sequence[bytes]) -> list[np.ndarray | None]:
        """Look rows up.

        Parameters
        ----------
        namespace : str
            How samples are read: backbone, layers, pooling and so on, as a digest.
        keys : sequence of bytes
            Digests of the samples.

        Returns
        -------
        list of ndarray of shape (n_features,), float32, or None
            None where there is no row, or no whole one.
        """
        mark = namespace.encode()
        self._last_used = time.time()
        self._forget_daily()
        self._forget_deleted()
        rows: list[np.ndarray | None] = [None] * len(keys)
        missing = list(range(len(keys)))
        for store in (self._memory, self._recent):
            if missing and len(store):
                missing = _fill(rows, missing, store.get_many([mark + keys[i] for i in missing]))
        if self._store is not None and missing:
            wanted = [keys[i] for i in missing]
            try:
                found = self._store.get_many(namespace, wanted)
            except OSError as error:
                self._warn(f"The cache cannot be read ({error}); embedding anew.")
            else:
                self._remember(mark, wanted, found)
                missing = _fill(rows, missing, found)
        self._misses += len(missing)
        self._hits += len(keys) - len(missing)
        return rows

    def put_many(self, namespace: str, keys: Sequence[bytes], rows: Sequence[np.ndarray]) -> None:
        """Keep rows; on disk they are there, whole, when this returns.

        Parameters
        ----------
        namespace, keys
            See `get_many`.
        rows : sequence of ndarray of shape (n_features,), float32
            One a key. They may not be NaN: what failed is to be tried again.
        """
        mark = namespace.encode()
        self._last_used = time.time()
        self._forget_daily()
        self._forget_deleted()
        if self._store is not None:
            try:
                self._store.put_many(namespace, keys, rows)
            except OSError as error:
                self._warn(f"The cache cannot be written ({error}); new rows are kept in memory.")
            else:
                self._remember(mark, keys, rows)
                return
        self._memory.put_many([mark + key for key in keys], rows)

    def _forget_daily(self) -> None:
        # Where rows lie it is noted that they are used. A clock that was set back counts as well.
        if abs(time.time() - self._recent_since) >= USED_ANEW_AFTER:
            self._recent.shrink(0)
            self._recent_since = time.time()

    def _forget_deleted(self) -> None:
        """Begin anew where the file or directory was deleted while this process had it open."""
        if self._store is None or not self._store.forget_deleted():
            return
        # Rows that are only remembered here would never be written to the new file.
        self._recent.shrink(0)
        if not self._warned_of_deletion:
            self._warned_of_deletion = True
            warn(
                f"The cache in {str(self.location)!r} was deleted or replaced while this process used it. A new one is "
                "begun, and samples that only the old one held are embedded again.",
                CacheWarning,
            )

    def _remember(self, mark: bytes, keys: Sequence[bytes], rows: Sequence[np.ndarray | None]) -> None:
        known = [(mark + key, row) for key, row in zip(keys, rows, strict=True) if row is not None]
        self._recent.put_many([key for key, _ in known], [row for _, row in known])

    def flush(self) -> None:
        """Write what a store on a network filesystem gathers before it writes."""
        if self._store is not None:
            try:
                self._store.flush()
            except OSError as error:
                self._warn(f"The cache cannot be written ({error}).")

    def _warn(self, message: str) -> None:
        if not self._warned:
            self._warned = True
            warn(f"{message} Results are not affected.", CacheWarning)

    # -- keeping house ----------------------------------------------------------------------------------

    def info(self) -> CacheInfo:
        """Return entries, bytes and last use of the cache, whoever wrote it, and hits and misses of this object."""
        entries, n_bytes, times = len(self._memory), self._memory.n_bytes, [self._last_used]
        if self._store is not None:
            self._forget_deleted()
            stored, on_disk = self._store.count()
            entries, n_bytes = entries + stored, n_bytes + on_disk
            times.append(self._store.last_used())
        last_used = max((datetime.fromtimestamp(value, UTC) for value in times if value is not None), default=None)
        location = "memory" if self.location is None else str(self.location)
        return CacheInfo(location, entries, n_bytes, self._hits, self._misses, last_used)

    def clear(self) -> int:
        """Remove all rows, in memory and on disk, of all backbones and settings.

        Returns
        -------
        int
            Rows removed.

        See Also
        --------
        prune : Remove rows that were not used for long.
        """
        self._recent.shrink(0)
        removed = self._memory.shrink(-1)
        return removed + (self._store.clear() if self._store is not None else 0)

    def prune(self, *, max_bytes: int | None = None, older_than: float | timedelta | None = None) -> int:
        """Remove rows that were not used for long.

        Parameters
        ----------
        max_bytes : int, default=None
            Bytes that may stay; None takes the cache's own `max_bytes`.
        older_than : float (seconds) or timedelta, default=None
            Rows on disk that were not used for so long go. Use is noted once a day.

        Returns
        -------
        int
            Rows removed.
        """
        limit = self.max_bytes if max_bytes is None else max_bytes
        age = older_than.total_seconds() if isinstance(older_than, timedelta) else older_than
        if limit is None and age is None:
            raise ValueError("prune() needs max_bytes= or older_than=, or a cache made with max_bytes=.")
        self._recent.shrink(0)
        removed = 0 if limit is None else self._memory.shrink(limit)
        return removed + (self._store.prune(limit, age) if self._store is not None else 0)

    def verify(self) -> tuple[int, int]:
        """Check every row on disk against its checksum, and remove those that were changed.

        Returns
        -------
        n_good, n_bad : int
            Rows that are whole, and rows that were removed; they will be embedded anew.
        """
        self._recent.shrink(0)
        return self._store.verify() if self._store is not None else (len(self._memory), 0)

    def close(self) -> None:
        """Let go of the files, and of what is held of them; the next use opens them again."""
        self._recent.shrink(0)
        if self._store is not None:
            self._store.close()

    # -- one cache, however often it is copied ------------------------------------------------------------

    def __copy__(self) -> EmbeddingCache:
        return self

    def __deepcopy__(self, memo: dict) -> EmbeddingCache:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (None if self.location is None else str(self.location), self.max_bytes, self._token)

    # For savers that take an object's state and call no function of ours to rebuild it, as skops does.
    def __getstate__(self) -> dict[str, Any]:
        location = None if self.location is None else str(self.location)
        return {"location": location, "max_bytes": self.max_bytes, "token": self._token}

    def __setstate__(self, state: dict[str, Any]) -> None:
        with _opening:
            original = _instances.get(state["token"])
            if original is None:
                EmbeddingCache.__init__(self, state["location"], max_bytes=state["max_bytes"])
                self._token = state["token"]
                _instances[self._token] = self
            else:
                # Instances with one token share their attributes, and so their rows and their lock.
                self.__dict__ = original.__dict__

    def __repr__(self) -> str:
        return f"EmbeddingCache({'' if self.location is None else repr(str(self.location))})"


def _fill(rows: list[np.ndarray | None], places: Sequence[int], found: Sequence[np.ndarray | None]) -> list[int]:
    """Put what was found in its places; return those for which nothing was."""
    for i, row in zip(places, found, strict=True):
        rows[i] = row
    return [i for i in places if rows[i] is None]


def _open_store(directory: Path) -> SqliteStore | ShardStore:
    return ShardStore(directory) if is_network(directory) else SqliteStore(directory)


#: The caches of this process by token, so that a pickle opened where it was made is the same cache.
_instances: weakref.WeakValueDictionary[str, EmbeddingCache] = weakref.WeakValueDictionary()
#: Those that a parameter names, which nobody else holds between two calls.
_named: dict[str, EmbeddingCache] = {}
_opening = threading.Lock()


def _after_fork() -> None:
    global _opening
    _opening = threading.Lock()
    for cache in list(_instances.values()):
        cache.turn = threading.RLock()
        cache._memory.after_fork()
        cache._recent.after_fork()


if hasattr(os, "register_at_fork"):
    # The stores on disk see for themselves that the process is another one.
    os.register_at_fork(after_in_child=_after_fork)


def _reopen(location: str | None, max_bytes: int | None, token: str) -> EmbeddingCache:
    with _opening:
        cache = _instances.get(token)
        if cache is None:
            cache = EmbeddingCache(location, max_bytes=max_bytes)
            cache._token = token
            _instances[token] = cache
        return cache


def resolve_cache(cache: Any) -> EmbeddingCache | None:
    """The cache that a parameter means: "memory" is one for the whole process, a path one for each directory."""
    if cache is None or isinstance(cache, EmbeddingCache):
        return cache
    check_path(cache, "cache")
    location = None if cache == "memory" else str(Path(cache).expanduser().absolute())
    name = location or "memory"
    if name not in _named:
        _named[name] = _reopen(location, None, name)
    return _named[name]
