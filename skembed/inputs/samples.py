"""Conversion of X in any supported container to a list of raw samples."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from numbers import Real
from typing import Any

import narwhals.stable.v1 as nw
import numpy as np

from skembed.inputs.mono import MAX_RATE, MIN_RATE

__all__ = ["as_samples"]


def as_samples(X: Any, *, name: str = "X") -> list[Any]:
    """Return the raw samples of a container, in order and unread.

    Parameters
    ----------
    X : list, tuple, ndarray, Series, one-column dataframe, or datasets column
        pandas, polars and everything else that narwhals knows; object arrays of shape (n_samples,) or
        (n_samples, 1); numeric arrays whose first axis is samples (images of one size, clips of one length).
    name : str, default="X"
        Name of the parameter, for errors.

    Returns
    -------
    list of length n_samples

    Raises
    ------
    TypeError
        If X is a single sample, such as a path, a dict or an array with its rate, or not a container of samples.
    ValueError
        If X is empty, has several columns, or is an array of the shape of one color image.
    """
    if isinstance(X, dict) and X and all(hasattr(split, "column_names") for split in X.values()):
        raise TypeError(
            f"{name} is a {type(X).__name__} of the splits {', '.join(map(str, X))}. Pass one column of one split, "
            f"such as {name}[{next(iter(X))!r}]['text']."
        )
    if X is None or isinstance(X, (str, bytes, bytearray, os.PathLike, dict)):
        raise TypeError(
            f"{name} is a single {type(X).__name__}, not a collection of samples. Wrap it in a list: [{name}]."
        )
    if isinstance(X, (tuple, list)) and _is_pair(X):
        raise TypeError(f"{name} is a single recording, an array and its rate. Wrap it in a list: [{name}].")
    samples = _unpack(X, name)
    if not samples:
        raise ValueError(f"Found array with 0 sample(s) in {name} while a minimum of 1 is required.")
    return samples


def _is_pair(X: tuple | list) -> bool:
    """Return True for an array and a number that may be its sampling rate."""
    if len(X) != 2:
        return False
    rates = [x for x in X if isinstance(x, Real) and MIN_RATE <= float(x) <= MAX_RATE]
    arrays = [x for x in X if isinstance(getattr(x, "shape", None), tuple) and x.shape != ()]
    return len(rates) == len(arrays) == 1


def _unpack(X: Any, name: str) -> list[Any]:
    if isinstance(X, (list, tuple)):
        return list(X)
    if isinstance(X, np.ndarray):
        return _from_array(X, name)
    if hasattr(X, "column_names") and hasattr(X, "features"):
        return _from_dataset(X, name)
    if hasattr(X, "to_pylist") and not hasattr(X, "num_columns"):  # an Array of pyarrow; narwhals takes the rest
        return list(X.to_pylist())
    try:
        column = nw.from_native(X, allow_series=True, pass_through=True)
    except ValueError as error:  # two columns of one name
        raise ValueError(f"{name}: {error}. Pass one column, or name it in a ColumnTransformer.") from error
    if isinstance(column, nw.LazyFrame):
        column = column.collect()
    if isinstance(column, nw.DataFrame):
        # By position: a pandas MultiIndex has names that narwhals does not look up.
        if column.shape[1] != 1:
            raise ValueError(
                f"{name} has {column.shape[1]} columns ({', '.join(map(str, column.columns[:5]))}) where one was "
                "expected. Pass one column, or name it in a ColumnTransformer."
            )
        column = column[:, 0]
    if isinstance(column, nw.Series):
        return column.to_list()
    if hasattr(X, "toarray"):
        raise TypeError(f"{name} is a sparse matrix. Pass a list, an array or a column of raw samples.")
    if isinstance(X, Sequence) or (hasattr(X, "__len__") and hasattr(X, "__getitem__")):
        return list(_undecoded(X))
    raise TypeError(
        f"{name} is a {type(X).__name__}, not a collection of samples. Pass a list, an array, a Series or a "
        f"one-column dataframe. A single sample goes into a list: [{name}]."
    )


def _from_dataset(X: Any, name: str) -> list[Any]:
    """Return the only column of a `datasets.Dataset`."""
    columns = list(X.column_names or [])
    if len(columns) != 1 or not hasattr(X, "__len__"):
        raise TypeError(
            f"{name} is a {type(X).__name__} with the columns {', '.join(map(str, columns[:5]))}. Pass one of them, "
            f"such as {name}[{columns[0] if columns else 'text'!r}]; a streamed data set has to be made a list first."
        )
    return _unpack(X[columns[0]], name)


def _undecoded(X: Any) -> Any:
    """Return a column of `datasets` with its files undecoded, and any other sequence itself.

    Such a column decodes an element when it is touched: all of them would be held at once, and the first broken
    one would be an error that names no sample. Read one at a time later, they are neither.
    """
    source: Any = getattr(X, "source", None)
    feature: Any = getattr(X, "features", None)
    if not getattr(feature, "decode", False) or not hasattr(source, "cast_column"):
        return X
    # A transform of the user's, or a color mode other than ours, means its output and not the stored file.
    if source.format["type"] == "custom" or getattr(feature, "mode", None) not in (None, "RGB"):
        return X
    column = X.column_name
    files = source.with_format(None).select_columns([column])
    return files.cast_column(column, dataclasses.replace(feature, decode=False))[column]


def _from_array(X: np.ndarray, name: str) -> list[Any]:
    if X.ndim == 0:
        raise TypeError(f"{name} is a 0-dimensional array. Pass a list of samples.")
    if X.dtype.kind in "OUST" and X.ndim == 2:
        if X.shape[1] != 1:
            raise ValueError(
                f"{name} has shape {X.shape}: {X.shape[1]} columns where one was expected. Pass one column of raw "
                "samples. A meta-estimator that adds columns to X, such as ClassifierChain, belongs behind the "
                "embedder: make_pipeline(embedder, ClassifierChain(...))."
            )
        X = X[:, 0]
    if X.ndim == 3 and X.shape[2] in (3, 4):
        raise ValueError(
            f"{name} of shape {X.shape} looks like a single image. Wrap it in a list: [{name}]; or give list({name}) "
            "if its first axis is samples."
        )
    return list(X)
