"""EmbeddingCache: rows of samples that were embedded before, in memory or on disk."""

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
    """Content of a cache, and its hits and misses in this process.

    Parameters
    ----------
    location : str
        "memory", or the directory.
    entries : int
        Number of stored rows.
    bytes : int
        Bytes that the rows take, in memory or on disk.
    hits, misses : int
        Rows that were requested from this object or its copies in this process, and were or were not stored.
        Embedders that name a directory share one cache object, which `skembed.cache.resolve_cache` returns.
    last_used : datetime or None
        Time of the last read or write in UTC, by any process; None if there was none. Reads of rows on disk are
        recorded once per day.

    See Also
    --------
    EmbeddingCache.info : Return this object.

    Examples
    --------
    >>> from skembed import EmbeddingCache
    >>> info = EmbeddingCache().info()
    >>> info.location, info.entries, info.hits
    ('memory', 0, 0)
    """

    location: str
    entries: int
    bytes: int
    hits: int
    misses: int
    last_used: datetime | None


class EmbeddingCache:
    """Rows of embedded samples, in memory or on disk.

    A row is found by the content of its sample and by how the embedder reads it. Cross-validation folds, candidates
    of a search, processes and runs that share samples therefore share rows. Threads and processes may use one cache
    at the same time. A full, read-only or damaged disk costs speed, and never changes a result.

    Most users pass ``cache="memory"`` or a directory to an embedder instead. Create a cache to limit its size, to
    count its hits, or to prune it.

    Parameters
    ----------
    location : str or PathLike, default=None
        Directory of the rows. Choose one to keep rows between runs and to share them between processes. On a local
        disk it holds an SQLite file, on a network filesystem, where locks cannot be trusted, immutable files. None
        keeps rows in the memory of this process.
    max_bytes : int, default=None
        Limit of the cache in bytes. In memory the default is 512 MiB, and the least recently used rows are dropped
        beyond it; raise it if a training set does not fit (a row of 384 features takes 1.5 KiB). On disk there is
        no limit by default, and only `prune` removes rows.

    Attributes
    ----------
    location : Path or None
        Absolute path of the directory.

    See Also
    --------
    set_config : Set the cache of all embedders with ``cache="auto"``.

    Notes
    -----
    Rows are stored as little-endian float32 with a checksum and never as a pickle: a cache from elsewhere may hold
    wrong numbers, but runs no code. The directory is readable by its owner only, since embeddings reveal their samples.
    Up to 64 MiB of the rows of a cache on disk are in memory as well. Clones, copies and pickles of a cache are the
    same cache. A cache in memory is empty in another process.

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
            raise ValueError(
                f"max_bytes={max_bytes} is negative. Use a positive number of bytes, or None for the default."
            )
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
        """Return the stored rows of samples.

        Parameters
        ----------
        namespace : str
            Digest of everything that decides a row except its sample: backbone, layers, pooling and so on.
        keys : sequence of bytes
            Digests of the samples.

        Returns
        -------
        list of ndarray of shape (n_features,), float32, or None
            One entry per key, None for rows that are missing or damaged.
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
                self._warn(f"The cache cannot be read ({error}); samples are embedded again.")
            else:
                self._remember(mark, wanted, found)
                missing = _fill(rows, missing, found)
        self._misses += len(missing)
        self._hits += len(keys) - len(missing)
        return rows

    def put_many(self, namespace: str, keys: Sequence[bytes], rows: Sequence[np.ndarray]) -> None:
        """Store rows of samples.

        On a local disk they are written when this method returns. On a network filesystem rows are gathered first,
        up to `flush`.

        Parameters
        ----------
        namespace, keys
            See `get_many`.
        rows : sequence of ndarray of shape (n_features,), float32
            One row per key. Leave out rows of NaN, so that failed samples are tried again.
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
        # The store records that its rows are used. A clock that was set back counts as well.
        if abs(time.time() - self._recent_since) >= USED_ANEW_AFTER:
            self._recent.shrink(0)
            self._recent_since = time.time()

    def _forget_deleted(self) -> None:
        """Start again if the file or directory was deleted while this process had it open."""
        if self._store is None or not self._store.forget_deleted():
            return
        # Rows that are only remembered here would never be written to the new file.
        self._recent.shrink(0)
        if not self._warned_of_deletion:
            self._warned_of_deletion = True
            warn(
                f"The cache in {str(self.location)!r} was deleted or replaced while this process used it. A new one is "
                "created, and samples that only the old one contained are embedded again.",
                CacheWarning,
            )

    def _remember(self, mark: bytes, keys: Sequence[bytes], rows: Sequence[np.ndarray | None]) -> None:
        known = [(mark + key, row) for key, row in zip(keys, rows, strict=True) if row is not None]
        self._recent.put_many([key for key, _ in known], [row for _, row in known])

    def flush(self) -> None:
        """Write the rows that a cache on a network filesystem still gathers in memory."""
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
        """Return the size and last use of the cache, and the hits and misses of this object.

        Returns
        -------
        CacheInfo
            Entries and bytes count rows of all processes.
        """
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
            Number of removed rows.

        See Also
        --------
        prune : Remove only rows that have not been used for long.
        """
        self._recent.shrink(0)
        removed = self._memory.shrink(-1)
        return removed + (self._store.clear() if self._store is not None else 0)

    def prune(self, *, max_bytes: int | None = None, older_than: float | timedelta | None = None) -> int:
        """Remove rows that have not been used for long.

        Parameters
        ----------
        max_bytes : int, default=None
            Bytes that may remain; the longest unused rows are removed first. None takes the cache's `max_bytes`.
        older_than : float (seconds) or timedelta, default=None
            Age of the last use beyond which rows on disk are removed. Use is recorded once per day, so that values
            below a day may remove rows in use.

        Returns
        -------
        int
            Number of removed rows.

        Raises
        ------
        ValueError
            If neither limit is given, here or to the cache.

        See Also
        --------
        clear : Remove all rows.

        Examples
        --------
        >>> from skembed import EmbeddingCache, TextEmbedder
        >>> cache = EmbeddingCache()
        >>> X = TextEmbedder(cache=cache, device="cpu").fit_transform(["one", "two"])
        >>> cache.prune(max_bytes=2_000)  # one row of 384 features takes 1.5 KiB
        1
        """
        limit = self.max_bytes if max_bytes is None else max_bytes
        age = older_than.total_seconds() if isinstance(older_than, timedelta) else older_than
        if limit is None and age is None:
            raise ValueError(
                "prune() got no limit. Pass max_bytes= or older_than=, or create the cache with max_bytes=."
            )
        self._recent.shrink(0)
        removed = 0 if limit is None else self._memory.shrink(limit)
        return removed + (self._store.prune(limit, age) if self._store is not None else 0)

    def verify(self) -> tuple[int, int]:
        """Check every row on disk against its checksum, and remove damaged rows.

        Returns
        -------
        n_good, n_bad : int
            Numbers of intact and of removed rows. Samples of removed rows are embedded again when they are needed.
        """
        self._recent.shrink(0)
        return self._store.verify() if self._store is not None else (len(self._memory), 0)

    def close(self) -> None:
        """Close the files and drop their rows from memory; the next use opens them again."""
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
    """Put rows into their places; return the places that are still empty."""
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
    """Return the cache that the parameter `cache` of an embedder stands for.

    Parameters
    ----------
    cache : "memory", str, PathLike, EmbeddingCache or None
        "memory" stands for one cache of the whole process, a path for one per directory. A cache and None are
        returned as they are.

    Returns
    -------
    EmbeddingCache or None
        The cache, the same object for each call with the same value.

    Raises
    ------
    ValueError
        If `cache` is an empty path.

    Examples
    --------
    >>> from skembed.cache import resolve_cache
    >>> resolve_cache("memory") is resolve_cache("memory")
    True
    """
    if cache is None or isinstance(cache, EmbeddingCache):
        return cache
    check_path(cache, "cache")
    location = None if cache == "memory" else str(Path(cache).expanduser().absolute())
    name = location or "memory"
    if name not in _named:
        _named[name] = _reopen(location, None, name)
    return _named[name]
