"""Rows and targets as the scores need them, and what is wrong with them."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.utils import check_array

from skembed.inputs import as_numbers, as_targets, target_kind

__all__ = ["TASKS", "check_rows", "checked_targets", "class_codes", "resolve_task", "target_columns"]

TASKS = ("auto", "classification", "regression")


def check_rows(X: Any) -> np.ndarray:
    """Embeddings as float64.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings, finite.

    Returns
    -------
    ndarray of shape (n_samples, n_features), float64

    Raises
    ------
    ValueError
        If it is not two-dimensional, holds NaN or infinity, or has the same row for every sample.
    """
    # Squares and determinants of many features lose too much in the float32 that embedders give.
    rows = check_array(X, dtype=np.float64, ensure_min_samples=2, input_name="X")
    if not np.ptp(rows, axis=0).any():
        raise ValueError(f"X has the same row for all {len(rows)} samples, so there is nothing to score. Check them.")
    return rows


def resolve_task(y: Any, task: str = "auto") -> str:
    """What y asks for.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Classes or numbers.
    task : {"auto", "classification", "regression"}, default="auto"
        "auto" takes floats that are no whole numbers for regression and all else for classes, but refuses to
        guess where there are many different whole numbers with few samples each.

    Returns
    -------
    {"classification", "regression"}

    Raises
    ------
    ValueError
        If `task` is another word, y is of a kind that no score is defined for, holds strings among numbers, or may be
        either kind.
    """
    if task not in TASKS:
        raise ValueError(f"task={task!r} is unknown. Use one of {', '.join(map(repr, TASKS))}.")
    if task != "auto":
        return task
    y = as_targets(y, warn_column=False)
    kind = target_kind(y)
    if kind.startswith("continuous"):
        return "regression"
    if kind in ("binary", "multiclass"):
        _refuse_counts(y)
        return "classification"
    raise ValueError(
        f"Unknown label type: y is of kind {kind!r}, and scores are defined for one column of classes, or for numbers. "
        "For several labels per sample pass task='regression', which takes each column of 0 and 1 as a target."
    )


def _refuse_counts(y: np.ndarray) -> None:
    """Ages, prices and counts are whole numbers, too, and scored as classes they would give a number all the same."""
    n_values = len(np.unique(y)) if y.dtype.kind in "iuf" else 0
    if n_values > max(20, len(y) / 4):
        raise ValueError(
            f"y holds {n_values} different whole numbers in {len(y)} samples, which may be quantities or classes. "
            "Pass task='regression' or task='classification'."
        )


def checked_targets(y: Any, task: str, *, warn_column: bool = True) -> np.ndarray:
    """Return y as an array, for functions that pass it on: see `skembed.inputs.as_targets` and `as_numbers`."""
    check = as_numbers if task == "regression" else as_targets
    return check(y, warn_column=warn_column)


def class_codes(y: Any, n_samples: int) -> tuple[np.ndarray, int]:
    """Classes as whole numbers.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Classes: strings, numbers or booleans.
    n_samples : int
        Rows that y belongs to.

    Returns
    -------
    codes : ndarray of shape (n_samples,), int
        From 0, in the sorted order of the classes.
    n_classes : int

    Raises
    ------
    ValueError
        If the length differs, a class is missing, there are strings among numbers, or there are fewer than two classes
        or as many as samples.
    """
    labels = checked_targets(y, "classification")
    _check_length(labels, n_samples)
    if labels.ndim != 1:
        raise ValueError(f"y has shape {labels.shape}, where one class per sample was expected: shape ({n_samples},).")
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"y holds 1 class ({classes[0]!r}); telling backbones apart needs at least two.")
    if len(classes) == n_samples:
        raise ValueError(
            f"y has as many classes as samples ({n_samples}), so no class can be learned. "
            "If its values are quantities, pass task='regression'."
        )
    return codes, len(classes)


def target_columns(y: Any, n_samples: int, task: str) -> np.ndarray:
    """Targets of a linear regression: one column of 0 and 1 for each class, or the numbers themselves.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Classes or numbers.
    n_samples : int
        Rows that y belongs to.
    task : {"classification", "regression"}

    Returns
    -------
    ndarray of shape (n_samples, n_targets), float64

    Raises
    ------
    ValueError
        If `class_codes` does, or a number is missing or a target has one value only.
    """
    if task == "classification":
        codes, n_classes = class_codes(y, n_samples)
        return np.eye(n_classes)[codes]
    numbers = checked_targets(y, "regression")
    _check_length(numbers, n_samples)
    columns = numbers.reshape(n_samples, -1)
    flat = np.flatnonzero(np.ptp(columns, axis=0) == 0)
    if len(flat):
        raise ValueError(f"y has one value only in target {flat[0]}: there is nothing to predict. Leave it out.")
    return columns


def _check_length(values: np.ndarray, n_samples: int) -> None:
    if len(values) != n_samples:
        raise ValueError(f"y has {len(values)} values for {n_samples} samples in X. Give one value per sample.")
