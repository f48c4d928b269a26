"""Helpers of the examples: five-fold comparison of estimators, a table of results, and saved models."""

from __future__ import annotations

import os
import shlex
import time
import warnings
from collections import Counter
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from own_data import N_FOLDS
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDS = StratifiedKFold(N_FOLDS, shuffle=True, random_state=0)


def classifier():
    """Logistic regression on standardised features."""
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))


def score(name: str, estimator, X, y, *, extra_seconds: float = 0.0) -> dict:
    """Mean and spread of the accuracy over five folds, the seconds it took, and the predictions."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        predictions = cross_val_predict(estimator, X, y, cv=FOLDS)
    seconds = time.perf_counter() - start + extra_seconds
    hits = predictions == np.asarray(y)
    folds = [hits[test].mean() for _, test in FOLDS.split(hits, y)]
    return {
        "features": name,
        "accuracy": np.mean(folds),
        "std": np.std(folds),
        "seconds": seconds,
        "predictions": predictions,
    }


def score_embeddings(name: str, embedder, X, y, *, model=None) -> dict:
    """Embed once and cross-validate a model on the rows; without a model, `classifier`.

    A frozen embedder learns nothing from X, so embedding before the split leaks nothing.
    """
    start = time.perf_counter()
    rows = embedder.fit_transform(X)
    model = classifier() if model is None else model
    return score(name, model, rows, y, extra_seconds=time.perf_counter() - start)


def score_chance(y) -> dict:
    """Accuracy of always predicting the most frequent class, which other accuracies are to be compared with."""
    return score("none: the most frequent class", DummyClassifier(), np.zeros((len(y), 1)), y)


def table(results: list[dict]) -> str:
    """Results as a readable table."""
    frame = pd.DataFrame(results)[["features", "accuracy", "std", "seconds"]]
    return frame.round({"accuracy": 3, "std": 3, "seconds": 1}).to_string(index=False)


def most_confused(y, predictions) -> str:
    """Say which class is taken for which other one most often."""
    wrong = Counter((true, guess) for true, guess in zip(y, predictions, strict=True) if true != guess)
    if not wrong:
        return f"All {len(y)} held-out predictions are right."
    (true, guess), n = wrong.most_common(1)[0]
    n_true = sum(each == true for each in y)
    return f"Most confused: {n} of {n_true} samples of '{true}' are taken for '{guess}'."


def fit_and_save(pipeline, X, y, path: Path, sample) -> str:
    """Write a pipeline, fitted on all samples, to a file; return the command that classifies a sample with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        joblib.dump(pipeline.fit(X, y), path)
    script = os.path.relpath(Path(__file__).with_name("predict.py"))
    command = shlex.join(["python", script, str(path), str(sample)])
    return f"Saved the model, fitted on all {len(y)} samples: {path}\nClassify with it: {command}"
