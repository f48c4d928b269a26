"""Errors and warnings of skembed.

::

    Exception
    └── SkembedError
        ├── DecodeError (ValueError)         one sample cannot be read; knows its index and path
        │   └── NonFiniteRowError            the network returned NaN or infinite numbers for one sample
        ├── BackboneNotFoundError (ValueError)   no weights under that name, here or on the hub
        │   └── BackboneReadError                a directory is there, but is damaged or no usable backbone
        ├── WeightsMismatchError             the weights found now are not those the estimator was fitted with
        ├── IntegrityError                   a file is not what its checksum says
        └── TrainingError                    training cannot go on: the loss is no number
    Warning
    └── SkembedWarning (UserWarning)
        ├── TruncationWarning                inputs were longer than the backbone reads
        ├── DecodeWarning                    samples could not be read; their rows are NaN
        ├── InputWarning                     samples look like something else than the embedder reads
        ├── CacheWarning                     a cache cannot be read or written
        ├── DeviceWarning                    the computation runs elsewhere, or in smaller batches, than asked
        └── FitWarning                       a fit ended otherwise than planned, or is given what it cannot use
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
    """Root of every error that skembed raises on purpose."""


class DecodeError(SkembedError, ValueError):
    """A sample cannot be read.

    Parameters
    ----------
    message : str
        What came and what to do.
    index : int, optional
        Position of the sample in X.
    path : str, optional
        Path of the sample, where it is a file.
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
        """The same error with the position of its sample."""
        return type(self)(self.message, index=index, path=self.path)


def _rebuild_decode_error(cls, message, index, path):
    return cls(message, index=index, path=path)


class NonFiniteRowError(DecodeError):
    """The network returned NaN or infinite numbers for a sample, as when it overflows in float16."""


class BackboneNotFoundError(SkembedError, ValueError):
    """No backbone of that name, or no weights for it and no way to fetch them."""


class BackboneReadError(BackboneNotFoundError):
    """A directory is there, but a file in it is damaged, or its configuration and weights make no usable backbone.

    It is a `BackboneNotFoundError`, so that code which goes on with the next of several backbones does so here, too.
    """


class WeightsMismatchError(SkembedError):
    """The weights found now are not the ones that the estimator was fitted with."""


class IntegrityError(SkembedError):
    """A file is not what its checksum says."""


class TrainingError(SkembedError):
    """Training cannot go on, as when the loss is no finite number."""


class SkembedWarning(UserWarning):
    """Root of the warnings."""


class TruncationWarning(SkembedWarning):
    """Inputs were longer than the backbone reads, and were cut."""


class DecodeWarning(SkembedWarning):
    """Samples could not be read or embedded; their rows are NaN."""


class InputWarning(SkembedWarning):
    """Samples look like something else than what the embedder reads."""


class DeviceWarning(SkembedWarning):
    """The computation runs elsewhere, or in smaller batches, than asked."""


class CacheWarning(SkembedWarning):
    """A cache cannot be read or written; results are not affected."""


class FitWarning(SkembedWarning):
    """A fit ended otherwise than planned, or is given what it cannot use; says what was kept, or what to do."""
