"""One form for equal settings, so that digests do not depend on how they are written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import numpy as np

from skembed.utils.code_identity import describe_object, name_class

__all__ = ["digest", "plain"]

#: Largest number of values of an array that are written out; of larger numeric arrays a digest stands for them.
_MOST_WRITTEN = 4096


def digest(value: Any) -> str:
    """Return the hex digest that all equal settings share; see `plain`.

    Parameters
    ----------
    value : object
        As `plain` takes it.
    """
    return sha256(repr(plain(value)).encode(errors="surrogatepass")).hexdigest()


def plain(value: Any) -> Any:
    """Return a value in the one form that all equal settings share.

    NumPy's scalars and strings become Python's, whole floats become int, and lists and arrays become tuples. The
    `repr` of the result is an identity: equal settings have equal ones, and unequal settings have unequal ones, in
    every process.

    Parameters
    ----------
    value : object
        Number, string, container, dataclass instance, function or other object. A function is known by its code,
        its defaults and the values that it captured, and an object by its class and state.

    Examples
    --------
    >>> plain((np.int64(64), 16000.0, np.str_("mean"), [0.5, True, None]))
    (64, 16000, 'mean', (0.5, True, None))
    >>> repr(plain(lambda text: text.lower())) == repr(plain(lambda text: text.upper()))
    False
    """
    return _Plain()(value)


class _Text:
    """Text in the place of a value that has no literal.

    Parameters
    ----------
    text : str
        Its `repr`.
    """

    __slots__ = ("text",)

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text


class _Plain:
    """Function that makes a value plain; repeated parts and cycles occur once."""

    def __init__(self):
        # With the objects themselves, so that no other object gets the id of one that was deleted.
        self._done: dict[int, tuple[Any, Any]] = {}

    def __call__(self, value: Any) -> Any:
        if isinstance(value, np.ndarray | np.generic) and not isinstance(value, np.str_ | np.bytes_):
            if value.size > _MOST_WRITTEN and value.dtype.kind in "biuf":
                return _Text(_describe_numbers(np.asarray(value)))
            value = value.tolist()
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return str.__str__(value)
        if isinstance(value, int | float):
            return int(value) if isinstance(value, int) or value.is_integer() else float(value)
        if id(value) not in self._done:
            self._done[id(value)] = value, _Text("<cycle>")
            self._done[id(value)] = value, self._of_compound(value)
        return self._done[id(value)][1]

    def _of_compound(self, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return tuple(map(self, value))
        if isinstance(value, set | frozenset):
            return _Text(f"{{{', '.join(sorted(repr(self(part)) for part in value))}}}" if value else "set()")
        if isinstance(value, Mapping):
            items = [(self(key), self(part)) for key, part in value.items()]
            return dict(sorted(items, key=lambda item: repr(item[0])))
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            names = [each.name for each in dataclasses.fields(value) if each.init]
            parts = ", ".join(f"{name}={self(getattr(value, name))!r}" for name in names)
            return _Text(f"{name_class(type(value))}({parts})")
        return _Text(describe_object(value, self))


def _describe_numbers(values: np.ndarray) -> str:
    """Return text for an array of numbers, in which whole floats are equal to integers."""
    if values.dtype.kind != "b":
        exact = values.astype(np.int64, casting="unsafe") if np.isfinite(values).all() else values
        values = exact if np.array_equal(exact, values) else values.astype(np.float64)
    return f"<{values.dtype.name} {values.shape} {sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:32]}>"
