"""Cross-validated scores of scikit-learn models on rows, the linear probe among them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array

from skembed.inputs.target_kinds import class_codes, resolve_task, target_columns

__all__ = ["check_folds", "check_rows", "cross_validate", "linear_probe_folds"]


def check_rows(X: Any) -> np.ndarray:
    """Check embeddings and return them as float64.

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
        If X is not two-dimensional, holds NaN or infinity, or has the same row for every sample.
    """
    # Squares and determinants of many features lose too much in the float32 that embedders give.
    rows = check_array(X, dtype=np.float64, ensure_min_samples=2, input_name="X")
    if not np.ptp(rows, axis=0).any():
        raise ValueError(f"X has the same row for all {len(rows)} samples, so there is nothing to score. Check them.")
    return rows


def linear_probe_folds(
    X,
    y,
    *,
    C: float = 1.0,
    cv: int | Any = 5,
    scoring: str | None = None,
    task: str = "auto",
    random_state: int | None = 0,
) -> np.ndarray:
    """Return the score of a linear model on standardized features in each fold.

    Parameters
    ----------
    X, y, C, cv, scoring, task, random_state
        See `skembed.selection.linear_probe_score`, which is the mean of the folds and raises the same errors.

    Returns
    -------
    ndarray of shape (n_folds,), float64

    Examples
    --------
    >>> import numpy as np
    >>> from skembed.probes.cross_validated import linear_probe_folds
    >>> X = np.repeat(np.eye(2), 6, axis=0)
    >>> linear_probe_folds(X, np.repeat(["a", "b"], 6), cv=3)
    array([1., 1., 1.])
    """
    if resolve_task(y, task) == "classification":
        model: BaseEstimator = LogisticRegression(C=C, max_iter=500)
    else:
        model = RidgeCV(np.logspace(-3, 5, 9))
    standardized = make_pipeline(StandardScaler().set_output(transform="default"), model)
    return cross_validate(standardized, X, y, cv=cv, scoring=scoring, task=task, random_state=random_state)


def cross_validate(
    model: BaseEstimator, X, y, *, cv: int | Any, scoring: str | None, task: str, random_state: int | None
) -> np.ndarray:
    """Return the score of a scikit-learn model in each fold.

    Parameters
    ----------
    model : estimator
        Classifier or regressor, as `task` asks for.
    X, y, cv, scoring, task, random_state
        See `skembed.selection.knn_score`, which raises the same errors.

    Returns
    -------
    ndarray of shape (n_folds,), float64
    """
    rows = check_rows(X)
    if resolve_task(y, task) == "classification":
        values, _ = class_codes(y, len(rows))
        check_folds(values, cv)
        splitter: Any = StratifiedKFold
    else:
        values = target_columns(y, len(rows), "regression")
        values = values[:, 0] if values.shape[1] == 1 else values
        splitter = KFold
    folds = splitter(cv, shuffle=True, random_state=random_state) if isinstance(cv, int) else cv
    with warnings.catch_warnings():
        # Probes are compared with each other: the last digits of their weights do not matter.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return cross_val_score(model, rows, values, cv=folds, scoring=scoring, error_score="raise")


def check_folds(codes: np.ndarray, cv: int | Any) -> None:
    """Raise ValueError where the smallest class has fewer samples than there are folds.

    Parameters
    ----------
    codes : ndarray of shape (n_samples,), int
        Classes, from 0.
    cv : int or splitter
        Folds; a splitter is not checked.
    """
    smallest = int(np.bincount(codes).min())
    # Fewer folds than asked would be another measurement under the same name.
    if isinstance(cv, int) and smallest < cv:
        fewer = f"Use cv={smallest} or fewer, or leave out" if smallest > 1 else "Leave out"
        raise ValueError(
            f"cv={cv}: the smallest class has {smallest} sample{'s' if smallest > 1 else ''}, and every fold needs "
            f"one. {fewer} classes that are too small."
        )
