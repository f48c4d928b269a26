"""What the examples share: five-fold comparison of estimators, and a table of the result."""

from __future__ import annotations

import time
import warnings

import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDS = StratifiedKFold(5, shuffle=True, random_state=0)


def classifier():
    """Logistic regression on standardised features."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))


def score(name: str, estimator, X, y, *, extra_seconds: float = 0.0) -> dict:
    """Mean and spread of the accuracy over five folds, and the seconds it took."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        scores = cross_validate(estimator, X, y, cv=FOLDS)["test_score"]
    seconds = time.perf_counter() - start + extra_seconds
    return {"features": name, "accuracy": scores.mean(), "std": scores.std(), "seconds": seconds}


def score_embeddings(name: str, embedder, X, y, *, model=None) -> dict:
    """Embed once and cross-validate a model on the rows; without a model, `classifier`.

    A frozen embedder learns nothing from X, so embedding before the split leaks nothing.
    """
    start = time.perf_counter()
    rows = embedder.fit_transform(X)
    model = classifier() if model is None else model
    return score(name, model, rows, y, extra_seconds=time.perf_counter() - start)


def table(results: list[dict]) -> str:
    """Results as a readable table."""
    return pd.DataFrame(results).round({"accuracy": 3, "std": 3, "seconds": 1}).to_string(index=False)


def require_classes(y, n_folds: int = 5) -> None:
    """Leave with a clear word where a class is too small to be split into folds."""
    counts = pd.Series(y).value_counts()
    if len(counts) < 2:
        raise SystemExit(f"Need at least two classes, found {list(counts.index)}.")
    if counts.min() < n_folds:
        raise SystemExit(f"Class {counts.idxmin()!r} has {counts.min()} samples; {n_folds}-fold needs {n_folds}.")
