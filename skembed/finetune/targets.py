"""Targets that are valid but probably meant for another estimator, and weights of classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from skembed.inputs import as_targets, target_kind

__all__ = [
    "check_class_weight",
    "check_labels",
    "describe_one_hot",
    "first_fraction",
    "looks_like_numbers",
]

#: Of more distinct numbers, with fewer samples of each on average, most are no classes.
_MANY_CLASSES, _FEW_SAMPLES = 20, 5


def check_labels(y: Any, name: str = "y", *, warn_column: bool = True) -> np.ndarray:
    """Return the targets of a classification: classes of shape (n_samples,), or a matrix of zeros and ones as int64.

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
            f"Unknown label type: {kind}. {name} holds numbers that are no classes, such as "
            f"{first_fraction(y)}. Use FineTuneRegressor, which predicts numbers; or make classes of them."
        )
    if kind.startswith("multiclass-"):
        raise ValueError(
            f"{name} is a {kind} target: several columns of classes. Fit one estimator per column; or give a matrix of "
            "zeros and ones for labels, which sklearn.preprocessing.MultiLabelBinarizer makes of lists of names."
        )
    return y.astype(np.int64) if kind == "multilabel-indicator" else y


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def looks_like_numbers(classes: np.ndarray, n_samples: int) -> bool:
    """Whether classes are rather numbers to be predicted: many, with few samples each, and not counted from 0 or 1.

    Examples
    --------
    >>> looks_like_numbers(np.arange(0, 500, 10), 100), looks_like_numbers(np.arange(50), 100)
    (True, False)
    """
    if classes.dtype.kind not in "iuf" or len(classes) <= _MANY_CLASSES or n_samples >= _FEW_SAMPLES * len(classes):
        return False
    counted = classes[0] in (0, 1) and np.array_equal(classes, classes[0] + np.arange(len(classes)))
    return not (counted and n_samples >= 2 * len(classes))


def describe_one_hot(y: np.ndarray) -> list[str]:
    """A sentence where a matrix of labels looks like classes, one column each; else none.

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


def first_fraction(y: Any) -> float:
    """The first number that is no class: not whole, or larger than whole numbers are here."""
    values = np.asarray(y, dtype=np.float64).ravel()
    return float(values[(values != np.floor(values)) | (np.abs(values) >= 2**63)][0])


def check_class_weight(class_weight: Any, classes: np.ndarray | None) -> None:
    """Refuse weights of classes that cannot be meant.

    Parameters
    ----------
    class_weight : dict, "balanced" or None
        See `FineTuneClassifier`.
    classes : ndarray of shape (n_classes,), or None
        None where y is a matrix of labels.

    Raises
    ------
    ValueError
        If a weight is not positive, or is for a class that y has not while a class of y has none; or there are labels.
    """
    if not isinstance(class_weight, dict):
        return
    if classes is None:
        raise ValueError("class_weight is a dict and y a matrix of labels: use 'balanced', or sample_weight.")
    for label, weight in class_weight.items():
        if not _is_number(weight) or not 0 < float(weight) < np.inf:
            raise ValueError(
                f"class_weight has {weight!r} for the class {label!r}. Give positive numbers, and leave the samples of "
                "a class out that should not be learned."
            )
    known = classes.tolist()
    unknown, without = [c for c in class_weight if c not in known], [c for c in known if c not in class_weight]
    if unknown and without:
        raise ValueError(
            f"class_weight is for the class {unknown[0]!r}, which y has not, and says nothing of {without[0]!r}. "
            f"Give the classes as y has them: {', '.join(map(repr, known[:10]))}{', ...' if len(known) > 10 else ''}."
        )
