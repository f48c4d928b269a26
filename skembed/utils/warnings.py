"""Warnings that point at the user's line, some of them once per process."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["silenced", "warn", "warn_once"]

#: Packages whose frames lie between the user's line and the warning: our own, those of whoever calls us for the user,
#: and what starts the processes and threads of a search.
_BETWEEN = frozenset(
    {"skembed", "sklearn", "joblib", "contextlib", "multiprocessing", "concurrent", "threading", "runpy", "importlib"}
)
#: Warnings that were given, by category and owner. Owners are digests of settings, of which a process has few.
_given: set[tuple[type[Warning], str]] = set()
_silenced = threading.local()


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the first frame outside of skembed, scikit-learn, joblib and their runners.

    Parameters
    ----------
    message : str
    category : type of Warning
    """
    if issubclass(category, getattr(_silenced, "categories", ())):
        return
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def warn_once(message: str, category: type[Warning], owner: str) -> None:
    """Warn unless this process has given the warning for the same owner before.

    The clones of a cross-validation are one owner: the same warning from each fold, in `fit` and in `predict`, tells
    nothing new.

    Parameters
    ----------
    message : str
    category : type of Warning
    owner : str
        Digest of the settings that the warning is about.
    """
    if (category, owner) not in _given and not issubclass(category, getattr(_silenced, "categories", ())):
        _given.add((category, owner))
        warn(message, category)


@contextmanager
def silenced(category: type[Warning]) -> Iterator[None]:
    """Silence a category of warnings in this thread, without counting them as given."""
    before = getattr(_silenced, "categories", ())
    _silenced.categories = (*before, category)
    try:
        yield
    finally:
        _silenced.categories = before
