"""Kinds of targets (classes, labels, numbers), and the columns that linear models predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skembed.inputs.labels import as_numbers, as_targets, is_number, target_kind

__all__ = [
    "TASKS",
    "KnownTargets",
    "as_classes_or_labels",
    "as_task_targets",
    "check_class_weight",
    "class_codes",
    "describe_one_hot",
    "first_fraction",
    "know_targets",
    "looks_like_numbers",
    "resolve_task",
    "target_columns",
]

#: What scores are defined for; advice also takes "multilabel".
TASKS = ("auto", "classification", "regression")
#: More distinct numbers than this, with fewer samples of each on average, are rarely classes.
MOST_LIKELY_CLASSES = 20
FEW_SAMPLES_PER_CLASS = 5


# -- the task that y is for ---------------------------------------------------------------------------------


def resolve_task(y: Any, task: str = "auto") -> str:
    """Return the task that y is for.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Classes or numbers.
    task : {"auto", "classification", "regression"}, default="auto"
        "auto" takes floats with a fraction for regression and everything else for classes. It refuses to guess where
        there are many different whole numbers with few samples each.

    Returns
    -------
    {"classification", "regression"}

    Raises
    ------
    ValueError
        If `task` is unknown, or y is of a kind that no score is defined for, mixes strings and numbers, or may be
        either kind.
    """
    _check_task(task, TASKS)
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


def _check_task(task: str, tasks: Sequence[str]) -> None:
    if task not in tasks:
        raise ValueError(f"task={task!r} is unknown. Use one of {', '.join(map(repr, tasks))}.")


def _refuse_counts(y: np.ndarray) -> None:
    """Raise ValueError if whole numbers may be quantities, such as ages or prices."""
    n_values = len(np.unique(y)) if y.dtype.kind in "iuf" else 0
    if n_values > max(MOST_LIKELY_CLASSES, len(y) / 4):
        raise ValueError(
            f"y holds {n_values} different whole numbers in {len(y)} samples, which may be quantities or classes. "
            "Pass task='regression' or task='classification'."
        )


def as_task_targets(y: Any, task: str, *, warn_column: bool = True) -> np.ndarray:
    """Return y as an array, of numbers for ``task="regression"``, else of its own type."""
    convert = as_numbers if task == "regression" else as_targets
    return convert(y, warn_column=warn_column)


# -- columns of numbers -------------------------------------------------------------------------------------


def class_codes(y: Any, n_samples: int) -> tuple[np.ndarray, int]:
    """Return classes as whole numbers.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        Classes: strings, numbers or booleans.
    n_samples : int
        Number of rows that y belongs to.

    Returns
    -------
    codes : ndarray of shape (n_samples,), int
        From 0, in the sorted order of the classes.
    n_classes : int

    Raises
    ------
    ValueError
        If the length differs, a class is missing, y mixes strings and numbers, or there are fewer than two classes or
        as many classes as samples.
    """
    labels = as_targets(y)
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
    """Return targets of a linear regression: an indicator column per class, or numbers.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Classes or numbers.
    n_samples : int
        Number of rows that y belongs to.
    task : {"classification", "regression"}

    Returns
    -------
    ndarray of shape (n_samples, n_targets), float64

    Raises
    ------
    ValueError
        If `class_codes` does, or a number is missing, or a target has one value only.
    """
    if task == "classification":
        codes, n_classes = class_codes(y, n_samples)
        return np.eye(n_classes)[codes]
    numbers = as_numbers(y)
    _check_length(numbers, n_samples)
    columns = numbers.reshape(n_samples, -1)
    flat = np.flatnonzero(np.ptp(columns, axis=0) == 0)
    if len(flat):
        raise ValueError(f"y has one value only in target {flat[0]}: there is nothing to predict. Leave it out.")
    return columns


def _check_length(values: np.ndarray, n_samples: int) -> None:
    if len(values) != n_samples:
        raise ValueError(f"y has {len(values)} values for {n_samples} samples in X. Give one value per sample.")


@dataclass(frozen=True)
class KnownTargets:
    """Targets of one kind, as columns that a linear probe can predict.

    Parameters
    ----------
    task : {"classification", "multilabel", "regression"}
    columns : ndarray of shape (n_samples, n_targets), float64
        Indicators of classes, labels as they are, or standardized numbers.
    codes : ndarray of shape (n_samples,), int64, or None
        The class of each sample as a column of the indicators; None without classes.
    names : tuple
        Names of the columns.
    """

    task: str
    columns: np.ndarray
    codes: np.ndarray | None
    names: tuple[Any, ...]

    @property
    def counts(self) -> np.ndarray:
        """Number of samples per class or label; for numbers, of all samples."""
        return np.array([len(self.columns)]) if self.task == "regression" else self.columns.sum(0).astype(int)

    def take(self, positions: np.ndarray) -> KnownTargets:
        """Return the targets of some samples; classes keep their columns."""
        codes = None if self.codes is None else self.codes[positions]
        return KnownTargets(self.task, self.columns[positions], codes, self.names)

    def conflicts(self, groups: np.ndarray) -> np.ndarray:
        """Return the positions of the samples whose group also has other targets."""
        _, number = np.unique(self.columns.round(9), axis=0, return_inverse=True)
        both = np.unique(np.stack([groups, number.ravel()]), axis=1)[0]
        members, targets = np.unique(both, return_counts=True)
        return np.flatnonzero(np.isin(groups, members[targets > 1]))


def know_targets(y: Any, task: str = "auto") -> KnownTargets:
    """Return targets together with their kind.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Classes, labels as a matrix of zeros and ones, or numbers.
    task : {"auto", "classification", "multilabel", "regression"}, default="auto"
        "auto" takes floats with a fraction for regression, and a matrix of zeros and ones for labels.

    Raises
    ------
    ValueError
        If `task` is unknown, y is None, has missing values, mixes strings and numbers, may be either kind, or has one
        class.

    Examples
    --------
    >>> know_targets(["a", "b", "a"]).counts.tolist()
    [2, 1]
    """
    _check_task(task, ("auto", "classification", "multilabel", "regression"))
    if y is None:
        raise ValueError("y is None. Give the classes, labels or numbers that are to be learned.")
    values = as_task_targets(y, task)
    if task == "auto":
        task = "multilabel" if target_kind(values) == "multilabel-indicator" else resolve_task(values)
    if task == "classification":
        return _known_classes(values)
    columns = _label_matrix(values) if task == "multilabel" else _standardized(values)
    return KnownTargets(task, columns, None, tuple(range(columns.shape[1])))


def _known_classes(y: np.ndarray) -> KnownTargets:
    if y.ndim > 1:
        raise ValueError(f"y has shape {y.shape} with task='classification'. Give one class per sample.")
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"y has one class, {classes.tolist()[0]!r}: there is nothing to advise on.")
    return KnownTargets("classification", np.eye(len(classes))[codes], codes.astype(np.int64), tuple(classes.tolist()))


def _label_matrix(y: np.ndarray) -> np.ndarray:
    if y.dtype.kind not in "fiub" or not np.isin(y, (0, 1)).all():
        raise ValueError(
            "y holds other values than 0 and 1 with task='multilabel'. Give a matrix of zeros and ones, as "
            "sklearn.preprocessing.MultiLabelBinarizer makes it of lists of names."
        )
    return y.astype(np.float64).reshape(len(y), -1)


def _standardized(y: np.ndarray) -> np.ndarray:
    values = y.astype(np.float64).reshape(len(y), -1)
    scale = values.std(0)
    return (values - values.mean(0)) / np.where(scale > 0, scale, 1.0)


# -- targets of the wrong kind ------------------------------------------------------------------------------


def as_classes_or_labels(y: Any, name: str = "y", *, warn_column: bool = True) -> np.ndarray:
    """Return classes of shape (n_samples,), or a matrix of zeros and ones as int64.

    Parameters
    ----------
    y, name, warn_column
        See `skembed.inputs.as_targets`.

    Raises
    ------
    ValueError
        If y holds fractions or several columns of classes, or `as_targets` raises.
    """
    y = as_targets(y, name, warn_column=warn_column)
    kind = target_kind(y, name)
    if kind.startswith("continuous"):
        raise ValueError(
            f"Unknown label type: {kind}. {name} holds numbers that are not classes, such as "
            f"{first_fraction(y)}. Use FineTuneRegressor, which predicts numbers; or make classes of them."
        )
    if kind.startswith("multiclass-"):
        raise ValueError(
            f"{name} is a {kind} target: several columns of classes. Fit one estimator per column; or give a matrix of "
            "zeros and ones for labels, which sklearn.preprocessing.MultiLabelBinarizer makes of lists of names."
        )
    return y.astype(np.int64) if kind == "multilabel-indicator" else y


def first_fraction(y: Any) -> float:
    """Return the first number that cannot be a class: not whole, or beyond the range of int64."""
    values = np.asarray(y, dtype=np.float64).ravel()
    return float(values[(values != np.floor(values)) | (np.abs(values) >= 2**63)][0])


def looks_like_numbers(classes: np.ndarray, n_samples: int) -> bool:
    """Return True if classes are probably numbers: many, rare, and not counted from 0 or 1.

    Examples
    --------
    >>> looks_like_numbers(np.arange(0, 500, 10), 100), looks_like_numbers(np.arange(50), 100)
    (True, False)
    """
    if classes.dtype.kind not in "iuf" or len(classes) <= MOST_LIKELY_CLASSES:
        return False
    if n_samples >= FEW_SAMPLES_PER_CLASS * len(classes):
        return False
    counted = classes[0] in (0, 1) and np.array_equal(classes, classes[0] + np.arange(len(classes)))
    return not (counted and n_samples >= 2 * len(classes))


def describe_one_hot(y: np.ndarray) -> list[str]:
    """Return a sentence if a matrix of labels looks like one-hot classes, else an empty one.

    Parameters
    ----------
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Whole numbers are labels.
    """
    if y.ndim == 1 or y.dtype.kind != "i" or not (y.sum(axis=1) == 1).all():
        return []
    return [
        "Every sample has exactly one of the labels. If they exclude one another, give y.argmax(axis=1): classes are "
        "trained then, whose probabilities sum to one."
    ]


def check_class_weight(class_weight: Any, classes: np.ndarray | None) -> None:
    """Raise ValueError for class weights that do not fit the classes.

    Parameters
    ----------
    class_weight : dict, "balanced" or None
        See `FineTuneClassifier`.
    classes : ndarray of shape (n_classes,), or None
        None where y is a matrix of labels.

    Raises
    ------
    ValueError
        If a weight is not positive; if a weight is for a class that y lacks while a class of y has none; or if y is a
        matrix of labels.
    """
    if not isinstance(class_weight, dict):
        return
    if classes is None:
        raise ValueError("class_weight is a dict and y a matrix of labels: use 'balanced', or sample_weight.")
    for label, weight in class_weight.items():
        if not is_number(weight) or not 0 < float(weight) < np.inf:
            raise ValueError(
                f"class_weight has {weight!r} for the class {label!r}. Give positive numbers, and leave the samples of "
                "a class out that should not be learned."
            )
    known = classes.tolist()
    unknown, without = [c for c in class_weight if c not in known], [c for c in known if c not in class_weight]
    if unknown and without:
        raise ValueError(
            f"class_weight names the class {unknown[0]!r}, which y does not have, and lacks {without[0]!r}. "
            f"Give the classes as y has them: {', '.join(map(repr, known[:10]))}{', ...' if len(known) > 10 else ''}."
        )
