"""One form for equal settings, so that identities made from them do not depend on how they were written."""

from __future__ import annotations

import dataclasses
from hashlib import sha256
from typing import Any

import numpy as np

__all__ = ["digest", "plain"]


def digest(value: Any) -> str:
    """Return the hex digest that all equal settings share; see `plain`.

    Parameters
    ----------
    value : object
        As `plain` takes it.
    """
    return sha256(repr(plain(value)).encode()).hexdigest()


def plain(value: Any) -> Any:
    """Return a value in the one form that all equal settings share.

    NumPy's scalars and strings become Python's, whole floats become int, and lists and arrays become tuples. The
    `repr` of the result is an identity: equal settings have equal ones, and unequal settings have unequal ones.

    Parameters
    ----------
    value : object
        Number, string, container or dataclass instance. Anything else is returned as it is.

    Examples
    --------
    >>> plain((np.int64(64), 16000.0, np.str_("mean"), [0.5, True, None]))
    (64, 16000, 'mean', (0.5, True, None))
    """
    if isinstance(value, np.ndarray | np.generic) and not isinstance(value, np.str_ | np.bytes_):
        value = value.tolist()
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, list | tuple):
        return tuple(map(plain, value))
    if isinstance(value, dict):
        return {plain(key): plain(part) for key, part in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [each.name for each in dataclasses.fields(value) if each.init]
        return dataclasses.replace(value, **{name: plain(getattr(value, name)) for name in names})
    return value
