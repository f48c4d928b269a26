"""Errors and warnings of skembed.

::

    Exception
    └── SkembedError
        ├── DecodeError (ValueError)         one sample cannot be read; knows its index and path
        │   └── NonFiniteRowError            the network returned NaN or infinite numbers for one sample
        ├── BackboneNotFoundError (ValueError)   no weights of that name, here or on the hub
        │   └── BackboneReadError                a directory exists, but is damaged or not a backbone
        ├── WeightsMismatchError             the weights differ from those of the fit
        ├── IntegrityError                   a file does not match its checksum
        └── TrainingError                    training stopped: the loss is not finite
    Warning
    └── SkembedWarning (UserWarning)
        ├── TruncationWarning                inputs were longer than the backbone reads
        ├── DecodeWarning                    samples could not be read; their rows are NaN
        ├── InputWarning                     samples look like another kind of data
        ├── CacheWarning                     a cache cannot be read or written
        ├── DeviceWarning                    another device or smaller batches than requested
        └── FitWarning                       a fit deviated from its plan, or ignores a setting
"""

from __future__ import annotations

__all__ = [
    "BackboneNotFoundError",
    "BackboneReadError",
    "CacheWarning",
    "DecodeError",
    "DecodeWarning",
    "DeviceWarning",
    "FitWarning",
    "InputWarning",
    "IntegrityError",
    "NonFiniteRowError",
    "SkembedError",
    "SkembedWarning",
    "TrainingError",
    "TruncationWarning",
    "WeightsMismatchError",
]


class SkembedError(Exception):
    """Base class of every error that skembed raises on purpose."""


class DecodeError(SkembedError, ValueError):
    """A sample cannot be read.

    Parameters
    ----------
    message : str
        Sentence that says what is wrong with the sample and what to do.
    index : int, optional
        Position of the sample in X. It precedes the message.
    path : str, optional
        Path of the sample, if it is a file. It precedes the message, too.

    Examples
    --------
    >>> from skembed.exceptions import DecodeError
    >>> print(DecodeError("the file is empty.", index=3, path="a.png"))
    sample 3 (a.png): the file is empty.
    """

    def __init__(self, message: str, *, index: int | None = None, path: str | None = None):
        # All arguments go to Exception, so that the error survives pickling between processes.
        super().__init__(message, index, path)
        self.message = message
        self.index = index
        self.path = path

    def __reduce__(self):
        return _rebuild_decode_error, (type(self), self.message, self.index, self.path)

    def __str__(self) -> str:
        where = [] if self.index is None else [f"sample {self.index}"]
        where += [] if self.path is None else [f"({self.path})"]
        return f"{' '.join(where)}: {self.message}" if where else self.message

    def at(self, index: int) -> DecodeError:
        """Return the same error with the position of its sample.

        Parameters
        ----------
        index : int
            Position of the sample in X.

        Returns
        -------
        DecodeError
            New error of the same class.
        """
        return type(self)(self.message, index=index, path=self.path)


def _rebuild_decode_error(cls, message, index, path):
    return cls(message, index=index, path=path)


class NonFiniteRowError(DecodeError):
    """The network returned NaN or infinite numbers for a sample.

    Overflow in float16 is the usual reason: use ``precision="float32"``.
    """


class BackboneNotFoundError(SkembedError, ValueError):
    """No backbone has that name, or its weights are missing and cannot be fetched."""


class BackboneReadError(BackboneNotFoundError):
    """A backbone's directory exists, but is damaged or does not hold a usable backbone.

    It is a `BackboneNotFoundError`, so that code which tries several backbones in turn skips this one as well.
    """


class WeightsMismatchError(SkembedError):
    """The installed weights differ from those that the estimator was fitted with."""


class IntegrityError(SkembedError):
    """The content of a file does not match its checksum."""


class TrainingError(SkembedError):
    """Training stopped, for instance because the loss is not a finite number."""


class SkembedWarning(UserWarning):
    """Base class of every warning that skembed gives."""


class TruncationWarning(SkembedWarning):
    """Inputs were longer than the backbone reads, and were truncated."""


class DecodeWarning(SkembedWarning):
    """Samples could not be read or embedded; their rows are NaN."""


class InputWarning(SkembedWarning):
    """Samples look like another kind of data than the embedder reads."""


class DeviceWarning(SkembedWarning):
    """The computation uses another device, or smaller batches, than requested."""


class CacheWarning(SkembedWarning):
    """A cache cannot be read or written, which costs time and does not change results."""


class FitWarning(SkembedWarning):
    """A fit deviated from its plan, or got a setting that has no effect.

    The message says what was kept, or what to do.
    """
