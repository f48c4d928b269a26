"""Scores that train something small on the embeddings: nearest neighbours and a linear probe, cross-validated."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skembed.inputs.target_kinds import class_codes, resolve_task, target_columns
from skembed.selection.scores import check_rows

__all__ = ["knn_score", "linear_probe_folds", "linear_probe_score"]


def knn_score(
    X,
    y,
    *,
    n_neighbors: int = 5,
    metric: str = "cosine",
    cv: int | Any = 5,
    scoring: str | None = None,
    task: str = "auto",
    random_state: int | None = 0,
) -> float:
    """Cross-validated score of the nearest neighbours' vote, or of their mean for numbers.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings.
    y : array-like of shape (n_samples,)
        Classes or numbers.
    n_neighbors : int, default=5
        Neighbours that vote.
    metric : str, default="cosine"
        Distance, see `sklearn.neighbors.KNeighborsClassifier`.
    cv : int or splitter, default=5
        Folds, shuffled and for classes stratified; or a scikit-learn splitter.
    scoring : str, default=None
        What is measured, see scikit-learn's scoring; None is accuracy for classes and R^2 for numbers.
    task : {"auto", "classification", "regression"}, default="auto"
        "auto" takes floats that are no whole numbers for regression and all else for classes.
    random_state : int or None, default=0
        How folds are shuffled.

    Returns
    -------
    float
        Mean over the folds.

    Raises
    ------
    ValueError
        If X is not finite, y does not fit it, or a class is too small for the folds.

    References
    ----------
    .. [1] Puigcerver et al. (2021), Scalable Transfer Learning with Expert Models.

    Examples
    --------
    >>> import numpy as np
    >>> from skembed.selection import knn_score
    >>> X = np.repeat(np.eye(2), 10, axis=0) + np.random.default_rng(0).normal(size=(20, 2)) / 10
    >>> knn_score(X, np.repeat(["a", "b"], 10))
    1.0
    """
    if resolve_task(y, task) == "classification":
        model: BaseEstimator = KNeighborsClassifier(n_neighbors, metric=metric)
    else:
        model = KNeighborsRegressor(n_neighbors, metric=metric)
    return float(np.mean(_cross_validate(model, X, y, cv, scoring, task, random_state)))


def linear_probe_score(
    X,
    y,
    *,
    C: float = 1.0,
    cv: int | Any = 5,
    scoring: str | None = None,
    task: str = "auto",
    random_state: int | None = 0,
) -> float:
    """Cross-validated score of a linear model on standardised features.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings.
    y : array-like of shape (n_samples,) or, for numbers, (n_samples, n_targets)
        Classes, for logistic regression; or numbers, for ridge regression with its penalty chosen in each fold.
    C : float, default=1.0
        Inverse penalty of the logistic regression.
    cv, scoring, task, random_state
        See `knn_score`.

    Returns
    -------
    float
        Mean over the folds.

    Raises
    ------
    ValueError
        If X is not finite, y does not fit it, or a class is too small for the folds.

    References
    ----------
    .. [1] Alain & Bengio (2017), Understanding intermediate layers using linear classifier probes.

    Examples
    --------
    >>> import numpy as np
    >>> from skembed.selection import linear_probe_score
    >>> X = np.random.default_rng(0).normal(size=(100, 3))
    >>> linear_probe_score(X, X[:, 0] - X[:, 1]) > 0.99
    True
    """
    folds = linear_probe_folds(X, y, C=C, cv=cv, scoring=scoring, task=task, random_state=random_state)
    return float(np.mean(folds))


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
    """What `linear_probe_score` is the mean of: the score of each fold.

    Parameters
    ----------
    X, y, C, cv, scoring, task, random_state
        See `linear_probe_score`.

    Returns
    -------
    ndarray of shape (n_folds,), float64

    Raises
    ------
    ValueError
        See `linear_probe_score`.

    Examples
    --------
    >>> import numpy as np
    >>> from skembed.selection.probes import linear_probe_folds
    >>> X = np.repeat(np.eye(2), 6, axis=0)
    >>> linear_probe_folds(X, np.repeat(["a", "b"], 6), cv=3)
    array([1., 1., 1.])
    """
    if resolve_task(y, task) == "classification":
        model: BaseEstimator = LogisticRegression(C=C, max_iter=500)
    else:
        model = RidgeCV(np.logspace(-3, 5, 9))
    return _cross_validate(
        make_pipeline(StandardScaler().set_output(transform="default"), model), X, y, cv, scoring, task, random_state
    )


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


def _cross_validate(model, X, y, cv, scoring, task: str, random_state) -> np.ndarray:
    rows = check_rows(X)
    if resolve_task(y, task) == "classification":
        values, _ = class_codes(y, len(rows))
        check_folds(values, cv)
        default: Any = StratifiedKFold
    else:
        values = target_columns(y, len(rows), "regression")
        values = values[:, 0] if values.shape[1] == 1 else values
        default = KFold
    folds = default(cv, shuffle=True, random_state=random_state) if isinstance(cv, int) else cv
    with warnings.catch_warnings():
        # A probe is compared with its like: the last digits of its weights do not matter.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return cross_val_score(model, rows, values, cv=folds, scoring=scoring, error_score="raise")
