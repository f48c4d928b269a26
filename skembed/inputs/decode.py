"""Read many samples, of which some cannot be read."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from numbers import Real
from typing import Any, BinaryIO

from skembed.exceptions import DecodeError, DecodeWarning, NonFiniteRowError
from skembed.inputs.file_kinds import kind_of_base64
from skembed.utils.sample_watch import current_watch
from skembed.utils.warnings import warn

__all__ = ["decode_all", "is_missing", "open_file", "reason", "warn_unreadable"]


def decode_all(
    samples: Sequence[Any],
    read: Callable[[Any], Any],
    *,
    on_error: str = "raise",
    positions: Sequence[int] | None = None,
    run: Callable[..., Iterable[Any]] = map,
) -> tuple[list[Any], list[DecodeError]]:
    """Read every sample.

    Parameters
    ----------
    samples : sequence
        Raw samples.
    read : callable
        Function that reads one sample, or raises DecodeError.
    on_error : {"raise", "warn", "nan"}
        "raise" raises the first error; the others continue.
    positions : sequence of int, optional
        Positions of `samples` in X, for the errors; None counts from 0.
    run : callable
        ``map``, the `map` of an executor, or one that ends early.

    Returns
    -------
    decoded : list
        Decoded samples, with None for unreadable ones. Shorter than `samples` if `run` ended early.
    errors : list of DecodeError
        One error with its index for each None.
    """

    watch = current_watch()

    def attempt(located_sample):
        index, sample = located_sample
        try:
            with nullcontext() if watch is None else watch.reading(index, sample):
                return read(sample), None
        except DecodeError as error:
            return None, error
        # The sample is not to blame for a lack of memory.
        except MemoryError:
            raise
        # The code of lazy arrays, tensors and file objects raises anything.
        except Exception as error:
            return None, _unreadable(sample, error)

    decoded: list[Any] = []
    errors: list[DecodeError] = []
    indices = positions or range(len(samples))
    for index, (value, error) in zip(indices, run(attempt, zip(indices, samples, strict=True)), strict=False):
        if error is not None:
            located = error.at(index)
            if on_error == "raise":
                raise located from error.__cause__
            errors.append(located)
        decoded.append(value)
    return decoded, errors


def _unreadable(sample: Any, error: Exception) -> DecodeError:
    """Return the DecodeError for what the sample's own code raised."""
    wrapped = DecodeError(
        f"reading this {type(sample).__name__} failed with {type(error).__name__}: {reason(error)[:300]}. "
        "Convert it to a form that the embedder reads, or leave it out."
    )
    wrapped.__cause__ = error
    return wrapped


def warn_unreadable(errors: Sequence[DecodeError], total: int) -> None:
    """Warn once, with the number of samples that failed and the first five of them."""
    named = "\n".join(f"  {error}" for error in errors[:5])
    more = f"\n  and {len(errors) - 5} more" if len(errors) > 5 else ""
    failed = "embedded" if any(isinstance(error, NonFiniteRowError) for error in errors) else "read"
    warn(
        f"{len(errors)} of {total} samples could not be {failed}; their rows are NaN:\n{named}{more}",
        DecodeWarning,
    )


def is_missing(sample: Any) -> bool:
    """Return True if a sample is None, NaN, or a missing value of pandas or NumPy.

    Examples
    --------
    >>> is_missing(None), is_missing(float("nan")), is_missing("")
    (True, True, False)
    """
    if isinstance(sample, Real):
        return bool(sample != sample)
    # NumPy's mark of a masked value, without its import.
    return sample is None or type(sample).__name__ in ("NAType", "NaTType", "MaskedConstant")


def open_file(path: str | os.PathLike) -> BinaryIO:
    """Open a file for reading.

    Raises
    ------
    DecodeError
        If the file does not exist, is a directory or a device, or may not be read; or if the path is a web address or a
        data URI.
    """
    name = os.path.expanduser(os.fsdecode(path))
    _check_local(name)
    try:
        kind = os.stat(name).st_mode
    except FileNotFoundError as error:
        _refuse_base64(name)
        raise DecodeError(f"there is no such file (working directory {os.getcwd()}).", path=name) from error
    except (OSError, ValueError) as error:
        _refuse_base64(name)
        raise DecodeError(
            f"this path cannot be opened: {reason(error)}. Give the path of a file, or its bytes.", path=_short(name)
        ) from error
    if stat.S_ISDIR(kind):
        raise DecodeError("this is a directory, not a file. List its files.", path=name)
    # Opening a pipe would wait for its writer.
    if not stat.S_ISREG(kind):
        raise DecodeError("this is a pipe or a device, not a file. Read it, and give its bytes.", path=name)
    try:
        return open(name, "rb")
    except OSError as error:
        raise DecodeError(f"the file cannot be opened: {reason(error)}.", path=name) from error


def _check_local(name: str) -> None:
    """Refuse web addresses and data URIs in the place of a path."""
    if name[:5].lower() == "data:":
        raise DecodeError(
            'this is a data URI, not a path. Give its bytes: base64.b64decode(uri.partition(",")[2]).',
            path=_short(name),
        )
    if "://" in name[:16]:
        raise DecodeError("this is an address, and nothing is downloaded. Download it first.", path=_short(name))


def _refuse_base64(name: str) -> None:
    """Refuse the content of a file as base64 text, if no file has that name."""
    kind = kind_of_base64(name)
    if kind is not None:
        raise DecodeError(
            f"this is base64 text of {kind.name}, not a path. Give its bytes: base64.b64decode(sample).",
            path=_short(name),
        )


def _short(name: str) -> str:
    return name if len(name) <= 200 else f"{name[:60]}... of {len(name)} characters"


def reason(error: BaseException) -> str:
    """Return the message of an exception in a form that fits into a sentence.

    Examples
    --------
    >>> reason(OSError("file is malformed.")), reason(MemoryError())
    ('file is malformed', 'MemoryError')
    """
    said = getattr(error, "strerror", None) or getattr(error, "error_string", None) or str(error)
    return said.strip().rstrip(".") or type(error).__name__
