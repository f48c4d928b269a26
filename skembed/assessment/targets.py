"""Targets as advice looks at them: what kind they are, and numbers that a linear probe can predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from skembed.inputs import as_numbers, as_targets, target_kind
from skembed.selection.targets import resolve_task

__all__ = ["TASKS", "KnownTargets", "know_targets"]

TASKS = ("auto", "classification", "multilabel", "regression")


@dataclass(frozen=True)
class KnownTargets:
    """Targets of one kind.

    Parameters
    ----------
    task : {"classification", "multilabel", "regression"}
    columns : ndarray of shape (n_samples, n_targets), float64
        Indicators of classes, labels as they are, or standardised numbers.
    codes : ndarray of shape (n_samples,), int64, or None
        Of classes: columns of the indicators.
    names : tuple
        Of the columns.
    """

    task: str
    columns: np.ndarray
    codes: np.ndarray | None
    names: tuple[Any, ...]

    @property
    def counts(self) -> np.ndarray:
        """Samples of each class, or with each label; of numbers, all samples."""
        return np.array([len(self.columns)]) if self.task == "regression" else self.columns.sum(0).astype(int)

    def take(self, positions: np.ndarray) -> KnownTargets:
        """The targets of some samples; classes keep their columns."""
        codes = None if self.codes is None else self.codes[positions]
        return KnownTargets(self.task, self.columns[positions], codes, self.names)

    def conflicts(self, groups: np.ndarray) -> np.ndarray:
        """Positions of the samples whose group has other targets, too."""
        _, number = np.unique(self.columns.round(9), axis=0, return_inverse=True)
        both = np.unique(np.stack([groups, number.ravel()]), axis=1)[0]
        members, targets = np.unique(both, return_counts=True)
        return np.flatnonzero(np.isin(groups, members[targets > 1]))


def know_targets(y: Any, task: str = "auto") -> KnownTargets:
    """Targets, and of which kind they are.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Classes, labels as a matrix of zeros and ones, or numbers.
    task : {"auto", "classification", "multilabel", "regression"}, default="auto"
        "auto" takes floats that are no whole numbers for regression.

    Raises
    ------
    ValueError
        If `task` is unknown, y is missing, has missing values or strings among numbers, may be either kind, or has one
        class.

    Examples
    --------
    >>> know_targets(["a", "b", "a"]).counts.tolist()
    [2, 1]
    """
    if task not in TASKS:
        raise ValueError(f"task={task!r} is unknown. Use one of {', '.join(map(repr, TASKS))}.")
    if y is None:
        raise ValueError("y is None. Give the classes, labels or numbers that are to be learned.")
    values = as_numbers(y) if task == "regression" else as_targets(y)
    if task == "auto":
        task = "multilabel" if target_kind(values) == "multilabel-indicator" else resolve_task(values)
    if task == "classification":
        return _classes(values)
    if task == "multilabel":
        return _columns(task, _labels(values))
    values = values.astype(np.float64).reshape(len(values), -1)
    scale = values.std(0)
    return _columns(task, (values - values.mean(0)) / np.where(scale > 0, scale, 1.0))


def _classes(y: np.ndarray) -> KnownTargets:
    if y.ndim > 1:
        raise ValueError(f"y has shape {y.shape} with task='classification'. Give one class per sample.")
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"y has one class, {classes.tolist()[0]!r}: there is nothing to advise on.")
    return KnownTargets("classification", np.eye(len(classes))[codes], codes.astype(np.int64), tuple(classes.tolist()))


def _labels(y: np.ndarray) -> np.ndarray:
    if y.dtype.kind not in "fiub" or not np.isin(y, (0, 1)).all():
        raise ValueError(
            "y holds other values than 0 and 1 with task='multilabel'. Give a matrix of zeros and ones, as "
            "sklearn.preprocessing.MultiLabelBinarizer makes it of lists of names."
        )
    return y.astype(np.float64).reshape(len(y), -1)


def _columns(task: str, columns: np.ndarray) -> KnownTargets:
    return KnownTargets(task, columns, None, tuple(range(columns.shape[1])))
