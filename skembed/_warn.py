"""Warnings that point to the line of the user's that led to them."""

from __future__ import annotations

import sys
import warnings

__all__ = ["warn"]

#: What lies between that line and us: our own frames, and those of whoever calls us for the user.
_BETWEEN = ("skembed", "sklearn", "joblib")


def warn(message: str, category: type[Warning]) -> None:
    """`warnings.warn` at the first frame that is neither ours, nor scikit-learn's or joblib's.

    Parameters
    ----------
    message : str
    category : type of Warning
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
