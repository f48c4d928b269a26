"""Targets as advice looks at them: what kind they are, and numbers that a linear probe can predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.multiclass import type_of_target

from skembed.inputs import check_one_kind, check_present
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
    check_present(y)
    if task != "regression":
        y = check_one_kind(y)
    if task == "auto":
        kind = type_of_target(y, input_name="y")
        task = "multilabel" if kind == "multilabel-indicator" else resolve_task(y)
    if task == "classification":
        classes, codes = np.unique(np.asarray(y), return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y has one class, {classes.tolist()[0]!r}: there is nothing to advise on.")
        return KnownTargets(task, np.eye(len(classes))[codes], codes.astype(np.int64), tuple(classes.tolist()))
    values = np.asarray(y.toarray() if hasattr(y, "toarray") else y, dtype=np.float64)
    values = values.reshape(len(values), -1)
    if task == "regression":
        scale = values.std(0)
        values = (values - values.mean(0)) / np.where(scale > 0, scale, 1.0)
    return KnownTargets(task, values, None, tuple(range(values.shape[1])))
