"""Leave-one-out predictions against explicit refits, and the permutation test at its level."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from skembed.probes.leave_one_out import LeftOut, LinearProbe


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(30, 4), (12, 25)])
def test_left_out_predictions_equal_those_of_refits(rng, shape):
    """The rows are standardized together, which uses no targets."""
    n, d = shape
    X, Y = rng.normal(size=(n, d)) * np.linspace(1, 3, d), rng.normal(size=(n, 2)) + 5
    Y[:, 0] += X[:, 0]
    left_out = LinearProbe(X).left_out(Y)
    rows = (X - X.mean(0)) / X.std(0)
    ridge = Ridge(alpha=left_out.penalty * d, solver="cholesky")
    others = [np.delete(np.arange(n), i) for i in range(n)]
    expected = np.stack([ridge.fit(rows[o], Y[o]).predict(rows[[i]])[0] for i, o in enumerate(others)])
    np.testing.assert_allclose(left_out.outputs, expected, rtol=1e-6)
    errors = np.square(Y - expected).sum() / np.square(Y - [Y[o].mean(0) for o in others]).sum()
    assert left_out.r2 == pytest.approx(1 - errors)


def test_the_penalty_is_the_one_with_the_smallest_error(rng):
    X = rng.normal(size=(60, 30))
    assert LinearProbe(X).left_out(rng.normal(size=60)).penalty == 10.0
    assert LinearProbe(X).left_out(X @ rng.normal(size=30)).penalty == 0.001


def test_structure_is_distinguished_from_shuffled_targets(rng):
    X = rng.normal(size=(100, 10))
    y = X[:, 0] + rng.normal(size=100)
    assert not LinearProbe(X).is_chance(y, rng)
    shuffled = [LinearProbe(X).is_chance(rng.permutation(y), rng) for _ in range(40)]
    assert np.mean(shuffled) >= 0.85  # a level of 0.05


def test_constant_rows_are_predicted_by_the_mean():
    left_out = LinearProbe(np.ones((12, 3))).left_out(np.arange(12.0))
    assert left_out.r2 == pytest.approx(0)


def test_quality_of_classes_is_accuracy_and_of_numbers_r2():
    targets = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    wrong_once = LeftOut(np.array([[0.9, 0.2], [0.6, 0.5], [0.7, 0.1]]), 0.0, 1.0)
    assert wrong_once.quality(targets, np.array([0, 1, 0])).tolist() == [1.0, 0.0, 1.0]
    numbers, predicted = np.array([[1.0], [2.0], [6.0]]), np.array([[1.0], [4.0], [5.0]])
    r2 = 1 - (4 + 1) / (4 + 1 + 9)
    assert LeftOut(predicted, 0.0, 1.0).quality(numbers, None).mean() == pytest.approx(r2)
    assert LeftOut(np.ones((3, 1)), 0.0, 1.0).quality(np.ones((3, 1)), None).tolist() == [1.0, 1.0, 1.0]
