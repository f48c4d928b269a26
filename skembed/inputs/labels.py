"""Check y in every form that users pass, and convert it to an array of one plain type."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from decimal import Decimal
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.multiclass import type_of_target

from skembed.inputs.arrays import as_array
from skembed.inputs.decode import is_missing
from skembed.utils.warnings import warn

__all__ = ["as_numbers", "as_targets", "check_comparable", "check_present", "is_number", "target_kind"]

#: Squares of smaller numbers can be summed.
_LARGEST_TARGET = 1e150
#: Values of y that are several labels and not one.
_LABEL_COLLECTIONS = (list, tuple, set, frozenset, dict, np.ndarray)


def as_targets(y: Any, name: str = "y", *, warn_column: bool = True) -> np.ndarray:
    """Return targets as an array of strings, integers, booleans or floats.

    Every function and method that takes y passes it through here or through `as_numbers` first.

    Parameters
    ----------
    y : array-like of shape (n_samples,), (n_samples, 1) or (n_samples, n_outputs)
        Lists, arrays, sparse matrices, Series and dataframes. One column becomes one-dimensional. Numbers and booleans
        of dtype object get their own type, and NumPy's variable-width strings become ordinary ones.
    name : str, default="y"
        Name of the parameter, for errors.
    warn_column : bool, default=True
        True if a column gives scikit-learn's DataConversionWarning. Fits warn; scores of predictions and displays
        do not, like scikit-learn's own.

    Returns
    -------
    ndarray of shape (n_samples,) or (n_samples, n_outputs)
        The array itself where there is nothing to change.

    Raises
    ------
    TypeError
        If y is not a collection, or holds bytes.
    ValueError
        If values are missing, infinite, of several types, or neither strings nor numbers; names the first.

    Examples
    --------
    >>> as_targets(np.array([True, False], dtype=object)).dtype
    dtype('bool')
    """
    values = _checked(y, name, warn_column)
    if values.dtype.kind == "T":
        return np.array(values.astype(object).tolist())
    if values.dtype.kind == "S":
        _refuse_value(values, 0, name)
    if values.dtype.kind in "cV":
        raise ValueError(
            f"{name} has dtype {values.dtype}. Complex data not supported: give classes as strings or whole numbers, "
            "or real numbers."
        )
    return values if values.dtype.kind != "O" else _plain_type(values, name, texts=isinstance(y, (list, tuple)))


def as_numbers(y: Any, name: str = "y", *, warn_column: bool = True) -> np.ndarray:
    """Return the targets of a regression as float64; numbers may be written as strings.

    Parameters
    ----------
    y, name, warn_column
        See `as_targets`.

    Returns
    -------
    ndarray of shape (n_samples,) or (n_samples, n_targets), float64

    Raises
    ------
    TypeError
        If y is not a collection.
    ValueError
        If values are missing, infinite, too large or not numbers; names the first.

    Examples
    --------
    >>> as_numbers(["1.5", 2])
    array([1.5, 2. ])
    """
    values = _checked(y, name, warn_column)
    if values.dtype.kind in "mM":
        raise ValueError(f"{name} holds times, such as {values.flat[0]}. Give numbers, such as days from a first day.")
    if values.dtype.kind not in "fiub":
        _refuse_words(values.astype(object), name)
    numbers = values.astype(object).astype(np.float64) if values.dtype.kind == "T" else values.astype(np.float64)
    # Strings such as "nan" are numbers, too.
    _refuse_absent(numbers, ~np.isfinite(numbers), name)
    if np.abs(numbers).max() > _LARGEST_TARGET:
        raise ValueError(
            f"{name} holds {np.abs(numbers).max():.3g}, whose square is too large for a float. Give larger units."
        )
    return numbers


def check_present(values: Any, name: str) -> None:
    """Raise ValueError where values are missing or infinite; count them and name the first.

    Parameters
    ----------
    values : array-like of shape (n_samples,)
        As it was given, before NumPy made a string of a missing value.
    name : str
        Name of the parameter.
    """
    array = _to_array(values, name)
    _refuse_absent(array, _absent(array), name)


def check_comparable(first: np.ndarray, second: np.ndarray, names: tuple[str, str]) -> None:
    """Raise ValueError where classes are strings on one side and numbers on the other.

    NumPy compares "1" and 1 as equal in one function and as different in another.

    Parameters
    ----------
    first, second : ndarray
        Classes from `as_targets`.
    names : (str, str)
        Names of the two, for the error.
    """
    first_is_text, second_is_text = (values.dtype.kind in "OU" for values in (first, second))
    if first_is_text != second_is_text:
        shown = [f"{name} holds {_shown(values.flat[0])}" for name, values in zip(names, (first, second), strict=True)]
        raise ValueError(
            f"{shown[0]} and {shown[1]}: strings on one side and numbers on the other. Give both in one type."
        )


def target_kind(y: np.ndarray, name: str = "y") -> str:
    """Return scikit-learn's `type_of_target` of checked targets, without its warnings."""
    with np.errstate(invalid="ignore"), warnings.catch_warnings():  # numbers that no int64 can hold
        warnings.simplefilter("ignore")
        return type_of_target(y, input_name=name)


# -- containers ---------------------------------------------------------------------------------------------


def _checked(y: Any, name: str, warn_column: bool) -> np.ndarray:
    """Return y as an array of one or two dimensions without missing values."""
    values = _to_array(y, name)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    else:
        warn_column = False
    if values.ndim > 2:
        raise ValueError(
            f"{name} has shape {values.shape}. Give one target per sample, or one row of targets per sample."
        )
    if not values.size:
        raise ValueError(f"Found array with 0 sample(s) in {name} while a minimum of 1 is required.")
    _refuse_absent(values, _absent(values), name)
    if warn_column:
        warn(
            f"A column-vector {name} was passed when a 1d array was expected. It is read as {name}.ravel(), of "
            f"shape ({len(values)},).",
            DataConversionWarning,
        )
    return values


def _to_array(y: Any, name: str) -> np.ndarray:
    """Return a collection as an array without NumPy's conversion of mixed values to one type."""
    if isinstance(y, (str, bytes, Mapping)) or not _is_collection(y):
        raise TypeError(
            f"{name} is a {type(y).__name__}, not a collection with one value per sample. Give a list, an array or a "
            "Series."
        )
    if hasattr(y, "toarray"):
        return np.asarray(y.toarray())
    if isinstance(y, np.ma.MaskedArray):
        return _unmasked(y)
    if not isinstance(y, (list, tuple)) or (y and isinstance(y[0], np.datetime64)):
        return np.asarray(as_array(y))
    try:
        return np.array([_scalar(value) for value in y], dtype=object)
    except ValueError as error:
        raise ValueError(
            f"{name} holds arrays of several shapes, the first of shape {np.shape(y[0])}. Give a class or a number per "
            "sample, or rows of one length."
        ) from error


def _unmasked(y: np.ma.MaskedArray) -> np.ndarray:
    """Return the values with None in the place of masked ones."""
    mask = np.ma.getmaskarray(y)
    if not mask.any():
        return np.asarray(y.data)
    values = np.array(y.data, dtype=object)
    values[mask] = None
    return values


def _is_collection(y: Any) -> bool:
    shape = getattr(y, "shape", None)
    if shape is not None:
        return len(shape) > 0
    return hasattr(y, "__array__") or (hasattr(y, "__len__") and hasattr(y, "__getitem__"))


def _scalar(value: Any) -> Any:
    """Return the value of a 0-dimensional array or tensor, and anything else unchanged."""
    return value.item() if getattr(value, "shape", None) == () and not isinstance(value, np.generic) else value


# -- values that are missing --------------------------------------------------------------------------------


def _absent(values: np.ndarray) -> np.ndarray:
    """Return True where a value is missing or infinite."""
    kind = values.dtype.kind
    if kind in "OT":
        flat = values.astype(object).flat
        return np.array([_is_absent(value) for value in flat], bool).reshape(values.shape)
    if kind in "fc":
        return ~np.isfinite(values)
    return np.isnat(values) if kind in "mM" else np.zeros(values.shape, bool)


def _refuse_absent(values: np.ndarray, absent: np.ndarray, name: str) -> None:
    if not absent.any():
        return
    place = tuple(np.argwhere(absent)[0].tolist())
    value = values[place]
    what = "infinity" if _is_infinite(value) else "NaN" if isinstance(value, (float, np.floating)) else "missing values"
    raise ValueError(
        f"Input {name} contains {what}: {name}{list(place)} is {value}, the first of {int(absent.sum())}. Every sample "
        "needs one: leave out those without."
    )


def _is_absent(value: Any) -> bool:
    # A decimal is no Real, and may be NaN or infinite all the same.
    return is_missing(value) or _is_infinite(value) or (isinstance(value, Decimal) and not value.is_finite())


def _is_infinite(value: Any) -> bool:
    return isinstance(value, (float, np.floating)) and bool(np.isinf(value))


# -- values of dtype object ---------------------------------------------------------------------------------


def _plain_type(values: np.ndarray, name: str, *, texts: bool) -> np.ndarray:
    """Return objects as strings or numbers; strings stay objects unless `texts` is True."""
    flat = values.ravel()
    strings = np.array([isinstance(value, str) for value in flat], bool)
    if strings.all():
        return np.array(values.tolist()) if texts else values
    numbers = np.array([isinstance(value, (Real, Decimal, np.bool_)) for value in flat], bool)
    if not (strings | numbers).all():
        _refuse_value(values, int(np.argmin(strings | numbers)), name)
    if strings.any():
        _refuse_mixture(values, strings, name)
    return _numbers(values, name)


def _numbers(values: np.ndarray, name: str) -> np.ndarray:
    """Return numbers and booleans of dtype object in the type that holds them all."""
    flat = values.ravel().tolist()
    if not all(isinstance(value, (Integral, np.bool_)) for value in flat):
        return np.array([float(value) for value in flat]).reshape(values.shape)
    numbers = np.array(flat).reshape(values.shape)
    if numbers.dtype.kind not in "iub":
        largest = max(flat, key=abs)
        raise ValueError(f"{name} holds {largest}, which does not fit into 64 bits. Give such classes as strings.")
    return numbers


def _refuse_value(values: np.ndarray, position: int, name: str) -> None:
    """Raise the error for a value that is neither a string nor a number."""
    value = values.flat[position]
    place = f"{name}{[int(i) for i in np.unravel_index(position, values.shape)]}"
    if isinstance(value, bytes):
        raise TypeError(
            f"{place} is {_shown(value)}, which is bytes. Decode them first: [label.decode() for label in {name}]."
        )
    if isinstance(value, _LABEL_COLLECTIONS):
        raise ValueError(
            f"{place} is {_shown(value)}: several labels per sample. Give a matrix of zeros and ones with a column per "
            f"label, as sklearn.preprocessing.MultiLabelBinarizer().fit_transform({name}) makes it."
        )
    raise ValueError(
        f"Unknown label type: {place} is {_shown(value)}, a {type(value).__name__}. Give strings, numbers or booleans, "
        f"such as [str(label) for label in {name}]."
    )


def _refuse_mixture(values: np.ndarray, strings: np.ndarray, name: str) -> None:
    """Raise the error for strings among numbers; NumPy would merge "1" and 1 into one class."""
    first, other = np.sort([np.argmax(strings), np.argmin(strings)]).tolist()
    places = [f"{name}{[int(i) for i in np.unravel_index(position, values.shape)]}" for position in (first, other)]
    raise ValueError(
        f"{name} mixes strings with other values: {places[0]} is {values.flat[first]!r} and {places[1]} is "
        f"{values.flat[other]!r}. Give classes of one type, such as [str(label) for label in {name}]."
    )


def _refuse_words(values: np.ndarray, name: str) -> None:
    for place, value in np.ndenumerate(values):
        if not is_number(value):
            raise ValueError(
                f"{name}{list(place)} is {_shown(value)}, which is not a number. Use FineTuneClassifier, which "
                "predicts classes; or give numbers."
            )


def is_number(value: Any) -> bool:
    """Return True if a value, a string for instance, can be read as a float."""
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _shown(value: Any) -> str:
    """Return a value as errors show it, cut to 60 characters."""
    value = value.item() if isinstance(value, np.generic) else value
    # In one order: that of a set's strings differs from process to process.
    text = f"{{{', '.join(sorted(map(repr, value)))}}}" if isinstance(value, (set, frozenset)) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
