"""Targets as they are given, before NumPy makes one type of them: a NaN among strings would become a class "nan"."""

from __future__ import annotations

from typing import Any

import numpy as np

from skembed.inputs.decode import is_missing

__all__ = ["as_plain", "check_one_kind", "check_present"]


def as_plain(y: Any, name: str = "y") -> np.ndarray:
    """Targets as an array, none of them turned into another type to suit its neighbours.

    Raises
    ------
    ValueError
        If they are arrays of several shapes.
    """
    if hasattr(y, "toarray"):
        return np.asarray(y.toarray())
    if isinstance(y, (list, tuple)):
        try:
            return np.array(y, dtype=object)
        except ValueError as error:
            raise ValueError(
                f"{name} holds arrays of several shapes, the first of shape {np.shape(y[0])}. Give a class or a number "
                "a sample, or rows of one length."
            ) from error
    return np.asarray(y)


def check_present(y: Any, name: str = "y") -> None:
    """Refuse targets that are missing or infinite.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        As it was given.
    name : str
        What to call it.

    Raises
    ------
    ValueError
        Names the first and counts them.
    """
    values = as_plain(y, name)
    if not values.ndim:
        return
    kind = values.dtype.kind
    if kind == "O":
        bad = np.array([is_missing(value) or _is_infinite(value) for value in values.flat], bool).reshape(values.shape)
    elif kind in "fc":
        bad = ~np.isfinite(values)
    elif kind in "mM":
        bad = np.isnat(values)
    else:
        return
    if not bad.any():
        return
    place = tuple(np.argwhere(bad)[0].tolist())
    value = values[place]
    what = "infinity" if _is_infinite(value) else "NaN" if isinstance(value, (float, np.floating)) else "missing values"
    raise ValueError(
        f"Input {name} contains {what}: {name}{list(place)} is {value}, the first of {int(bad.sum())}. Every sample "
        "needs one: leave out those without."
    )


def _is_infinite(value: Any) -> bool:
    return isinstance(value, (float, np.floating)) and bool(np.isinf(value))


def check_one_kind(y: Any, name: str = "y") -> Any:
    """Classes that are all strings or all numbers; numbers held as objects as numbers.

    Parameters
    ----------
    y : array-like
        Classes, none of them missing.
    name : str
        What to call them.

    Raises
    ------
    ValueError
        If there are strings among numbers: "1" and 1 would be one class to NumPy and two to Python.
    """
    values = as_plain(y, name)
    if values.dtype.kind in "iub" and values.ndim == 1:
        # Of pandas' own types scikit-learn would make floats.
        return values
    if values.dtype.kind != "O" or values.ndim != 1:
        return y
    strings = np.array([isinstance(value, str) for value in values], bool)
    if strings.any() and not strings.all():
        first, other = np.sort([np.argmax(strings), np.argmin(strings)]).tolist()
        raise ValueError(
            f"{name} mixes strings with other values: {name}[{first}] is {values[first]!r} and {name}[{other}] is "
            f"{values[other]!r}. Give classes of one type, such as [str(label) for label in {name}]."
        )
    # scikit-learn does not know what an array of objects holds.
    numbers = all(isinstance(value, (bool, int, float, np.number, np.bool_)) for value in values)
    return np.array(values.tolist()) if numbers and len(values) else y
