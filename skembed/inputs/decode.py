"""Reading many samples: one bad item must not end a long run unseen."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from skembed.exceptions import DecodeError, DecodeWarning

__all__ = ["check_file", "decode_all", "is_missing", "warn_unreadable"]


def decode_all(
    samples: Sequence[Any], read: Callable[[Any], Any], *, on_error: str = "raise", start: int = 0
) -> tuple[list[Any], list[DecodeError]]:
    """Read every sample.

    Parameters
    ----------
    samples : sequence
        Raw samples.
    read : callable
        Reads one, or raises DecodeError.
    on_error : {"raise", "warn", "nan"}
        Raise the first error, or go on.
    start : int
        Position in X of the first of `samples`.

    Returns
    -------
    decoded : list
        None where a sample could not be read.
    errors : list of DecodeError
        One for each None; each knows its index.
    """
    decoded: list[Any] = []
    errors: list[DecodeError] = []
    for index, sample in enumerate(samples, start):
        try:
            decoded.append(read(sample))
        except DecodeError as error:
            located = error.at(index)
            if on_error == "raise":
                raise located from error.__cause__
            decoded.append(None)
            errors.append(located)
    return decoded, errors


def warn_unreadable(errors: Sequence[DecodeError], total: int, *, stacklevel: int = 1) -> None:
    """One warning that counts the samples that could not be read and names the first five."""
    named = "\n".join(f"  {error}" for error in errors[:5])
    more = f"\n  and {len(errors) - 5} more" if len(errors) > 5 else ""
    warnings.warn(
        f"{len(errors)} of {total} samples could not be read; their rows are NaN:\n{named}{more}",
        DecodeWarning,
        stacklevel=stacklevel + 1,
    )


def is_missing(sample: Any) -> bool:
    """Whether a sample is None, NaN, or what pandas has for a missing value.

    Examples
    --------
    >>> is_missing(None), is_missing(float("nan")), is_missing("")
    (True, True, False)
    """
    if isinstance(sample, float):
        return sample != sample
    return sample is None or type(sample).__name__ in ("NAType", "NaTType")


def check_file(path: str | os.PathLike) -> str:
    """The path as a str, if there is a file.

    Raises
    ------
    DecodeError
        If there is none, or it is a directory.
    """
    name = os.fspath(path)
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    if Path(name).is_dir():
        raise DecodeError("this is a directory, not a file. List its files.", path=name)
    if not Path(name).is_file():
        raise DecodeError(f"there is no such file (looked from {os.getcwd()}).", path=name)
    return name
