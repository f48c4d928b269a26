"""Suggestions for misspelled names, and names of values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import partial
from typing import Any

import numpy as np

__all__ = ["did_you_mean", "nearest", "shown"]


def nearest(name: str, known: Iterable[str], n: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return the known names that are most similar to an unknown one, regardless of case.

    Parameters
    ----------
    name : str
        As it was given.
    known : iterable of str
        Known names. Of two that differ in case alone, the first one counts.
    n : int, default=1
        Names at most.
    cutoff : float, default=0.6
        Least similarity, from 0 to 1.

    Examples
    --------
    >>> nearest("loar", ["head", "lora", "norm"])
    ['lora']
    """
    by_lower: dict[str, str] = {}
    for candidate in known:
        by_lower.setdefault(candidate.lower(), candidate)
    return [by_lower[found] for found in get_close_matches(name.lower(), by_lower, n, cutoff)]


def did_you_mean(name: str, known: Iterable[str], n: int = 1) -> str:
    """Return " Did you mean ...?" with the nearest names, or "" if none is near.

    Examples
    --------
    >>> did_you_mean("progresive", ["head", "progressive"])
    " Did you mean 'progressive'?"
    >>> did_you_mean("deep", ["head", "progressive"])
    ''
    """
    near = nearest(name, known, n)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def shown(value: Any) -> str:
    """Return a value as text for reports, the same in every process.

    It is no identity: different functions may have one name. See `skembed.utils.identity` for that.

    Examples
    --------
    >>> shown((np.float64(0.5), 1.0)), shown({"old": {"aged", "ancient"}})
    ('(0.5, 1.0)', "{'old': {'aged', 'ancient'}}")
    >>> shown(shown)
    'skembed.utils.naming.shown'
    """
    if isinstance(value, partial):
        given = [*map(shown, value.args), *(f"{name}={shown(part)}" for name, part in value.keywords.items())]
        return f"partial({', '.join([shown(value.func), *given])})"
    if isinstance(value, np.generic):
        return shown(value.item())
    if isinstance(value, (list, tuple)):
        listed = ", ".join(map(shown, value))
        return f"[{listed}]" if isinstance(value, list) else f"({listed}{',' * (len(value) == 1)})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{shown(key)}: {shown(part)}" for key, part in value.items()) + "}"
    if isinstance(value, (set, frozenset)):
        return "{" + ", ".join(sorted(map(shown, value))) + "}"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
