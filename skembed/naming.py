"""Names that a user may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["did_you_mean", "nearest"]


def nearest(name: str, known: Iterable[str], n: int = 1, cutoff: float = 0.6) -> list[str]:
    """The known names that are most like one that is not known, the nearest first; case does not count.

    Parameters
    ----------
    name : str
        As it was given.
    known : iterable of str
        Of two that differ in case alone, the first.
    n : int, default=1
        Names at most.
    cutoff : float, default=0.6
        How alike they must be, from 0 to 1.

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
    """A sentence that offers the nearest names, with a space before it; nothing where none is near.

    Examples
    --------
    >>> did_you_mean("progresive", ["head", "progressive"])
    " Did you mean 'progressive'?"
    >>> did_you_mean("deep", ["head", "progressive"])
    ''
    """
    near = nearest(name, known, n)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
