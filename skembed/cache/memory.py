"""Rows in the memory of this process; the least recently used are dropped first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

__all__ = ["MemoryStore"]

#: Bytes that the interpreter needs beside the numbers of a row, roughly.
_OVERHEAD = 250


class MemoryStore:
    """Bounded dictionary of rows, safe for threads.

    Parameters
    ----------
    max_bytes : int
        Limit in bytes, beyond which the least recently used rows are dropped.
    """

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self.n_bytes = 0
        self._rows: OrderedDict[bytes, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def after_fork(self) -> None:
        """Replace the lock in a forked child, where a thread that held it does not exist."""
        self._lock = threading.Lock()

    def get_many(self, keys: Sequence[bytes]) -> list[np.ndarray | None]:
        """Return the rows of these keys, with None for missing ones."""
        with self._lock:
            rows = [self._rows.get(key) for key in keys]
            for key, row in zip(keys, rows, strict=True):
                if row is not None:
                    self._rows.move_to_end(key)
        return rows

    def put_many(self, keys: Sequence[bytes], rows: Sequence[np.ndarray]) -> None:
        """Store copies of rows."""
        with self._lock:
            for key, row in zip(keys, rows, strict=True):
                # A view would hold the whole array that it looks into.
                own = np.array(row, dtype=np.float32)
                own.flags.writeable = False
                self._drop(key)
                self._rows[key] = own
                self.n_bytes += own.nbytes + _OVERHEAD
            self._shrink(self.max_bytes)

    def shrink(self, max_bytes: int) -> int:
        """Drop the least recently used rows until so many bytes are left; return their number."""
        with self._lock:
            return self._shrink(max_bytes)

    def _shrink(self, max_bytes: int) -> int:
        before = len(self._rows)
        while self._rows and self.n_bytes > max_bytes:
            self._drop(next(iter(self._rows)))
        return before - len(self._rows)

    def _drop(self, key: bytes) -> None:
        row = self._rows.pop(key, None)
        if row is not None:
            self.n_bytes -= row.nbytes + _OVERHEAD

    def __len__(self) -> int:
        return len(self._rows)
