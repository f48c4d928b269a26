"""Cross-validated scores of small models on embeddings: nearest neighbors and a linear probe."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from skembed.inputs.target_kinds import resolve_task
from skembed.probes.cross_validated import cross_validate, linear_probe_folds

__all__ = ["knn_score", "linear_probe_score"]


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
    """Cross-validate the vote of the nearest neighbors, or their mean for numbers.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings.
    y : array-like of shape (n_samples,)
        Classes or numbers.
    n_neighbors : int, default=5
        Number of neighbors that vote.
    metric : str, default="cosine"
        Distance, see `sklearn.neighbors.KNeighborsClassifier`.
    cv : int or splitter, default=5
        Folds, shuffled and for classes stratified; or a scikit-learn splitter.
    scoring : str, default=None
        Name of a scikit-learn score; None is accuracy for classes and R^2 for numbers.
    task : {"auto", "classification", "regression"}, default="auto"
        "auto" takes floats with a fraction for regression and everything else for classes.
    random_state : int or None, default=0
        Seed that shuffles the folds.

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
    folds = cross_validate(model, X, y, cv=cv, scoring=scoring, task=task, random_state=random_state)
    return float(np.mean(folds))


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
    """Cross-validate a linear model on standardized features.

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
