"""Cross-validated probes against scikit-learn's own cross-validation and against chance."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skembed.selection import knn_score, linear_probe_score

X, y = load_wine(return_X_y=True)


@pytest.mark.parametrize(
    ("score", "model"),
    [
        (knn_score, KNeighborsClassifier(5, metric="cosine")),
        (linear_probe_score, make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))),
    ],
)
def test_scores_are_those_of_a_plain_loop(score, model):
    """Fails without shuffling (the wines are sorted), without the scaler, or with another metric."""
    folds = StratifiedKFold(5, shuffle=True, random_state=0).split(X, y)
    plain = np.mean([accuracy_score(y[test], model.fit(X[train], y[train]).predict(X[test])) for train, test in folds])
    assert score(X, y) == pytest.approx(plain)


def test_no_sample_is_its_own_neighbour():
    """A score on the training samples would be one: labels are random and every row is its own nearest."""
    rng = np.random.default_rng(0)
    assert knn_score(rng.normal(size=(200, 5)), rng.integers(2, size=200), n_neighbors=1) < 0.65


def test_numbers_are_scored_by_r2():
    rows, target = load_diabetes(return_X_y=True)
    linear = linear_probe_score(rows, target + 0.5)
    assert 0.4 < linear < 0.55
    assert 0.2 < knn_score(rows, target + 0.5, metric="euclidean") < linear
    with pytest.raises(ValueError, match=r"214 different whole numbers in 442 samples.*task='regression'"):
        linear_probe_score(rows, target)
    assert linear_probe_score(rows, target, task="regression") == pytest.approx(linear, abs=1e-6)


def test_scoring_and_folds_of_ones_own():
    groups = np.arange(len(y)) % 10
    folds = list(GroupKFold(5).split(X, y, groups))
    predicted = cross_val_predict(KNeighborsClassifier(5, metric="cosine"), X, y, cv=folds)
    expected = np.mean([accuracy_score(y[test], predicted[test]) for _, test in folds])
    assert knn_score(X, y, cv=folds) == pytest.approx(expected)
    assert knn_score(X, y, scoring="neg_log_loss") < 0


def test_seeds_shuffle_folds():
    assert linear_probe_score(X, y, random_state=1) != linear_probe_score(X, y, random_state=2)


@pytest.mark.parametrize("score", [knn_score, linear_probe_score])
def test_a_class_smaller_than_the_folds_is_named(score):
    with pytest.raises(ValueError, match=r"cv=5: the smallest class has 3 samples.*cv=3"):
        score(X[:62], y[:62])
