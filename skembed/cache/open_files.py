"""A bound on the cache files that a process has open at a time."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from typing import Protocol

__all__ = ["MAX_OPEN", "close_least_recently_used"]

#: Stores with an open connection. Each SQLite file has up to three descriptors; systems allow from 256 of them on.
MAX_OPEN = 16


class _Store(Protocol):
    def close_if_idle(self) -> bool: ...


_lock = threading.Lock()
_pid = os.getpid()
#: From the least to the most recently used.
_open: OrderedDict[int, weakref.ref] = OrderedDict()


def close_least_recently_used(store: _Store) -> None:
    """Note that a store is in use, and close those that were idle longest beyond `MAX_OPEN`.

    Parameters
    ----------
    store : SqliteStore
        With an open connection.
    """
    global _lock, _pid
    if _pid != os.getpid():  # the parent's connections are not this process's to close
        _lock, _pid = threading.Lock(), os.getpid()
        _open.clear()
    with _lock:
        _open[id(store)] = weakref.ref(store)
        _open.move_to_end(id(store))
        others = list(_open.items())[:-1]
    excess = len(others) + 1 - MAX_OPEN
    # Outside of the lock: a store that closes waits for nothing, but its last transaction may take a moment.
    for number, reference in others:
        if excess <= 0:
            break
        other = reference()
        if other is None or other.close_if_idle():
            excess -= 1
            with _lock:
                _open.pop(number, None)
