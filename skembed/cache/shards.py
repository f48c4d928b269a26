"""Rows in immutable files, for network filesystems, whose locks may do nothing."""

from __future__ import annotations

import errno
import os
import re
import secrets
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from operator import itemgetter
from pathlib import Path

import numpy as np

from skembed.cache.codec import decode_row, encode_row, owner_of
from skembed.utils.sealed_files import private_directory

__all__ = ["ShardStore"]

#: Rows per shard. Each costs a listing and an open to find, which network filesystems are slow at.
_ROWS = 1024
#: Bytes of the least read: on a network filesystem they cost less than another round trip.
_AHEAD = 256 * 2**10
_DAY = 86_400

_MAGIC, _VERSION = b"SKSHARD\n", 1
_HEADER = struct.Struct("<8sII")  # magic, version, bytes of the namespace, which follows
_COUNT = struct.Struct("<Q")
_ENTRY = struct.Struct("<20sQI")  # key, offset from the start of the file, bytes
_N_KEY, _N_CHECKSUM = 20, 16
_SHARD = re.compile(r"(\d{20})-[0-9a-f]{16}\.shard")  # nanoseconds since 1970, so that names sort by age
_TEMPORARY = re.compile(r"\.\d+-[0-9a-f]{16}\.tmp")
#: Key, offset and bytes of a row.
_Entry = tuple[bytes, int, int]


@dataclass
class _Known:
    """Index of a namespace's directory: its files, and the file, offset and size of each row."""

    names: set[str] = field(default_factory=set)
    places: dict[bytes, tuple[str, int, int]] = field(default_factory=dict)

    def add(self, name: str, entries: Iterable[_Entry]) -> None:
        self.names.add(name)
        self.places.update((key, (name, offset, length)) for key, offset, length in entries)

    def drop(self, gone: set[str]) -> None:
        self.names -= gone
        self.places = {key: place for key, place in self.places.items() if place[0] not in gone}


class ShardStore:
    """Store of rows in ``directory/shards``, with many rows of one namespace per file.

    A file is written under a temporary name and renamed when it is whole, so readers need no lock. Two processes
    that compute the same row may both store it, which does no harm.

    Parameters
    ----------
    directory : Path
        Directory to create with the first rows, readable by its owner only.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._root = directory / "shards"
        self._start()
        for path in self._list(_TEMPORARY):
            # What a killed process left. Younger ones may still be written, on whatever machine.
            with suppress(OSError):
                if path.stat().st_mtime < time.time() - _DAY:
                    path.unlink()

    def _start(self) -> None:
        self._lock, self._pid = threading.RLock(), os.getpid()
        self._known: dict[str, _Known] = {}
        self._buffer: dict[str, dict[bytes, bytes]] = {}

    def _turn(self) -> threading.RLock:  # type: ignore[valid-type]
        if self._pid != os.getpid():
            # After a fork the buffer is the parent's to write, the lock may be held by a thread that is not here,
            # and that thread may have been halfway through the index.
            self._start()
        return self._lock

    def get_many(self, namespace: str, keys: Sequence[bytes]) -> list[np.ndarray | None]:
        """Return the rows of these keys, with None for missing and damaged ones."""
        with self._turn():
            buffered = self._buffer.get(namespace, {})
            found: dict[bytes, np.ndarray | None] = {
                key: decode_row(buffered[key], owner_of(namespace, key)) for key in keys if key in buffered
            }
            # A listing is a round trip or more: once a call, and only where something is missing.
            listed = False
            while missing := [key for key in dict.fromkeys(keys) if key not in found]:
                if namespace in self._known:
                    self._read(namespace, missing, found)
                    if listed or all(key in found for key in missing):
                        break
                self._refresh(namespace)
                listed = True
        return [found.get(key) for key in keys]

    def put_many(self, namespace: str, keys: Sequence[bytes], rows: Sequence[np.ndarray]) -> None:
        """Add rows that are not stored yet, and write a file per 1024 rows of a namespace.

        Raises
        ------
        OSError
            If the file cannot be written. Rows from before can still be read here, and the next call tries again.
        """
        for key in keys:
            if len(key) != _N_KEY:
                raise ValueError(f"A key has {len(key)} bytes. Use digests of {_N_KEY} bytes.")
        with self._turn():
            buffered = self._buffer.setdefault(namespace, {})
            if len(buffered) >= _ROWS:
                # The last write failed. To take more before one succeeds would fill the memory, too.
                self._write_buffer(namespace)
            if namespace not in self._known:
                self._refresh(namespace)
            places = self._known[namespace].places
            for key, row in zip(keys, rows, strict=True):
                if key not in places and key not in buffered:
                    buffered[key] = encode_row(row, owner_of(namespace, key))
            if len(buffered) >= _ROWS:
                self._write_buffer(namespace)

    def flush(self) -> None:
        """Write the rows that are in memory only, one file per namespace.

        Raises
        ------
        OSError
            If a file cannot be written; its rows can still be read here.
        """
        with self._turn():
            for namespace in self._buffer:
                self._write_buffer(namespace)

    def close(self) -> None:
        """Write all rows; no files are open between two calls."""
        self.flush()

    def forget_deleted(self) -> bool:
        """Forget the index if the directory was deleted since it was read; return True if it was."""
        with self._turn():
            if not any(known.names for known in self._known.values()) or self._root.is_dir():
                return False
            self._known.clear()
            return True

    def _read(self, namespace: str, keys: Sequence[bytes], found: dict[bytes, np.ndarray | None]) -> None:
        """Add intact rows of the indexed shards to `found`, and drop damaged ones from the index."""
        known = self._known[namespace]
        by_shard: dict[str, list[_Entry]] = {}
        for key in keys:
            if key in known.places:
                name, offset, length = known.places[key]
                by_shard.setdefault(name, []).append((key, offset, length))
        for name, entries in by_shard.items():
            try:
                for key, stored in _read_rows(self._folder(namespace) / name, entries):
                    row = decode_row(stored, owner_of(namespace, key))
                    if row is None:
                        del known.places[key]
                    else:
                        found[key] = row
            except OSError:
                # Pruned by another process, most likely; if not, the next listing finds it again.
                known.drop({name})

    def _refresh(self, namespace: str) -> None:
        """Update the index by the shards that other processes added and removed."""
        known = self._known.setdefault(namespace, _Known())
        folder = self._folder(namespace)
        try:
            names = sorted(name for name in os.listdir(folder) if _SHARD.fullmatch(name))
        except FileNotFoundError:
            names = []
        except OSError:
            return
        if gone := known.names.difference(names):
            known.drop(gone)
        for name in names:
            if name in known.names:
                continue
            try:
                owner, entries = _read_table(folder / name)
            except ValueError:
                _set_aside(folder / name)
                owner, entries = "", []
            except OSError:
                continue
            # The directory's name is a short digest, which another namespace might share.
            known.add(name, entries if owner == namespace else [])

    def clear(self) -> int:
        """Remove all rows and return their number."""
        with self._turn():
            buffered = sum(len(rows) for rows in self._buffer.values())
            self._buffer.clear()
            return buffered + self.prune(0, None)

    def last_used(self) -> float | None:
        """Return when the youngest file was written, in seconds since 1970; None without files."""
        return max((_written(path) / 1e9 for path in self._list(_SHARD)), default=None)

    def count(self) -> tuple[int, int]:
        """Return the number of rows, and the bytes of the files and of rows not yet written."""
        with self._turn():
            rows = {(namespace, key) for namespace, buffered in self._buffer.items() for key in buffered}
            n_bytes = sum(len(stored) for buffered in self._buffer.values() for stored in buffered.values())
            for path in self._list(_SHARD):
                with suppress(OSError, ValueError):
                    n_bytes += path.stat().st_size
                    namespace, entries = _read_table(path)
                    rows.update((namespace, key) for key, _, _ in entries)
        return len(rows), n_bytes

    def prune(self, max_bytes: int | None, older_than: float | None) -> int:
        """Remove files older than `older_than` seconds, then the oldest until `max_bytes` remain."""
        removed = 0
        with self._turn():
            sizes: dict[Path, int] = {}
            for path in sorted(self._list(_SHARD), key=lambda path: path.name):
                with suppress(FileNotFoundError):
                    sizes[path] = path.stat().st_size
            total, now = sum(sizes.values()), time.time()
            for path, size in sizes.items():
                too_old = older_than is not None and _written(path) < (now - older_than) * 1e9
                if not too_old and (max_bytes is None or total <= max_bytes):
                    break
                n_rows = 0
                with suppress(OSError, ValueError):
                    n_rows = len(_read_table(path)[1])
                total -= size
                with suppress(FileNotFoundError):  # another process prunes, too
                    path.unlink()
                    removed += n_rows
            self._known.clear()
        return removed

    def verify(self) -> tuple[int, int]:
        """Check every row on disk, and rewrite files with damaged rows without them.

        Returns
        -------
        n_good, n_bad : int
            Intact and damaged rows. A file whose table is damaged counts as one row, since its number is lost.
        """
        n_good = n_bad = 0
        with self._turn():
            for path in list(self._list(_SHARD)):
                good: dict[bytes, bytes] = {}
                try:
                    namespace, entries = _read_table(path)
                    for key, stored in _read_rows(path, entries):
                        if decode_row(stored, owner_of(namespace, key)) is not None:
                            good[key] = stored
                except ValueError:
                    n_bad += 1
                    _set_aside(path)
                    continue
                except OSError as error:
                    if error.errno in (errno.ENOENT, errno.ESTALE):
                        continue
                    raise
                n_good += len(good)
                if len(good) < len(entries):
                    n_bad += len(entries) - len(good)
                    if good:
                        self._write(namespace, good, _written(path))  # as old as it was, for `prune`
                    _set_aside(path)
            self._known.clear()
        return n_good, n_bad

    def _folder(self, namespace: str) -> Path:
        return self._root / sha256(namespace.encode()).hexdigest()[:16]

    def _list(self, names: re.Pattern[str]) -> Iterator[Path]:
        """Yield the files of all namespaces whose names match."""
        with suppress(OSError):
            for folder in os.listdir(self._root):
                with suppress(OSError):
                    for name in os.listdir(self._root / folder):
                        if names.fullmatch(name):
                            yield self._root / folder / name

    def _write_buffer(self, namespace: str) -> None:
        if buffered := self._buffer[namespace]:
            self._refresh(namespace)  # another process may have been faster
            known = self._known[namespace]
            if new := {key: stored for key, stored in buffered.items() if key not in known.places}:
                known.add(*self._write(namespace, new, int(time.time() * 1e9)))
            buffered.clear()

    def _write(self, namespace: str, rows: dict[bytes, bytes], written: int) -> tuple[str, list[_Entry]]:
        """Write a shard; return its name and its table."""
        folder, token = self._folder(namespace), secrets.token_hex(8)
        private_directory(folder)
        name, temporary = f"{written:020d}-{token}.shard", folder / f".{os.getpid()}-{token}.tmp"
        head, entries = _pack(namespace, rows)
        try:
            file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
            try:
                left = memoryview(head + b"".join(rows.values()))
                while left:
                    left = left[os.write(file, left) :]
                os.fsync(file)
            finally:
                os.close(file)  # raises where a network filesystem notices only now that it is full
            os.replace(temporary, folder / name)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        # Not every network filesystem can do this, and the shard is there already.
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        return name, entries


def _pack(namespace: str, rows: dict[bytes, bytes]) -> tuple[bytes, list[_Entry]]:
    """Return the bytes that precede the rows in a shard, and the place of each row."""
    name = namespace.encode()
    offset = _HEADER.size + len(name) + _COUNT.size + len(rows) * _ENTRY.size + _N_CHECKSUM
    entries = []
    for key, stored in rows.items():
        entries.append((key, offset, len(stored)))
        offset += len(stored)
    head = _HEADER.pack(_MAGIC, _VERSION, len(name)) + name + _COUNT.pack(len(rows))
    head += b"".join(_ENTRY.pack(*entry) for entry in entries)
    return head + blake2b(head, digest_size=_N_CHECKSUM).digest(), entries


def _read_table(path: Path) -> tuple[str, list[_Entry]]:
    """Return the namespace and the table of a shard; ValueError if they are damaged."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size or not head.startswith(_MAGIC):
            raise ValueError("no shard")
        _, version, n_name = _HEADER.unpack(head)
        if version != _VERSION:
            return "", []  # a later skembed's, and good there
        # Lengths may be damaged: none beyond the file's own, lest the memory goes.
        head += file.read(min(n_name + _COUNT.size, size))
        if len(head) < _HEADER.size + n_name + _COUNT.size:
            raise ValueError("truncated")
        (n_rows,) = _COUNT.unpack(head[-_COUNT.size :])
        table = file.read(min(n_rows * _ENTRY.size, size))
        checksum = file.read(_N_CHECKSUM)
    if len(table) != n_rows * _ENTRY.size or checksum != blake2b(head + table, digest_size=_N_CHECKSUM).digest():
        raise ValueError("damaged table")
    # Beyond the end of a truncated file there is nothing, which no row's checksum agrees with.
    entries = [
        (key, *((offset, length) if offset + length <= size else (0, 0)))
        for key, offset, length in _ENTRY.iter_unpack(table)
    ]
    return head[_HEADER.size : -_COUNT.size].decode(), entries


def _read_rows(path: Path, entries: Iterable[_Entry]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and the bytes of a shard's rows; neighbors are read in one block."""
    with open(path, "rb") as file:
        block, start = b"", 0
        for key, offset, length in sorted(entries, key=itemgetter(1)):
            if offset + length > start + len(block):
                file.seek(offset)
                block, start = file.read(max(length, _AHEAD)), offset
            yield key, block[offset - start : offset - start + length]


def _set_aside(path: Path) -> None:
    """Rename a damaged shard, which its owner may inspect, if the directory is writable."""
    with suppress(OSError):
        os.replace(path, path.with_name(path.name + ".damaged"))


def _written(path: Path) -> int:
    return int(path.name.partition("-")[0])
