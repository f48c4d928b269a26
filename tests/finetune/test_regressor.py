"""FineTuneRegressor, and the rate finder."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from skembed import FineTuneClassifier, FineTuneRegressor, Optimization, find_learning_rate
from skembed.displays import RateCurveDisplay
from skembed.testing import ArrayEmbedder


@pytest.fixture(scope="module")
def rows():
    """Numbers that are no linear function of the frozen features; odd, as the double is."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(240, 4)).astype(np.float32)
    return X, 100 + 20 * X[:, 0] * (np.abs(X[:, 1]) - 0.7)


def _regressor(*, replay=True, **parameters):
    settings = {
        "learning_rate": 1e-2,
        "optimization__backbone_factor": 1.0,
        "max_epochs": 40,
        "patience": 15,
        "random_state": 0,
    }
    regressor = FineTuneRegressor(ArrayEmbedder(precision="float32"))
    regressor._replay = replay
    return regressor.set_params(**{**settings, "optimization__dropout": 0.0, **parameters})


def test_training_is_kept_where_it_beats_ridge_regression(rows):
    X, y = rows
    regressor = _regressor(strategy="full").fit(X, y)
    assert regressor.kept_ == "fine-tuned"
    assert regressor.validation_score_ > regressor.probe_score_ + 0.2
    assert "R²" in regressor.report_
    # In the units of y.
    assert abs(regressor.predict(X).mean() - y.mean()) < 5


def test_the_probe_is_a_ridge_regression(rows):
    X, y = rows
    regressor = _regressor(max_epochs=0, validation_fraction=None).fit(X, y)
    features = ArrayEmbedder(precision="float32").fit_transform(X).astype(float)
    scale = features.std(0)
    standardised = (features - features.mean(0)) / np.maximum(scale, 0.1 * np.sqrt((scale**2).mean()))
    expected = Ridge(alpha=0.1 * features.shape[1]).fit(standardised, y).predict(standardised)
    np.testing.assert_allclose(regressor.predict(X), expected, rtol=1e-6)


def test_several_numbers_a_sample(rows):
    X, y = rows
    both = np.stack([y, -2 * y + 3], axis=1)
    regressor = _regressor(strategy="full").fit(X, both)
    predicted = regressor.predict(X)
    assert predicted.shape == (240, 2)
    assert regressor.score(X, both) > 0.3
    assert regressor.predict(X[:1]).shape == (1, 2)
    assert _regressor(max_epochs=0).fit(X, y).predict(X[:1]).shape == (1,)


def test_targets_that_are_no_numbers(rows):
    X, y = rows
    with pytest.raises(ValueError, match="y contains NaN"):
        _regressor().fit(X, np.where(np.arange(len(y)) == 3, np.nan, y))


def test_replayed_and_plain_have_the_same_losses(rows):
    replayed, plain = (
        _regressor(strategy="partial", max_epochs=5, replay=replay).fit(*rows) for replay in (True, False)
    )
    np.testing.assert_allclose(
        [r["train_loss"] for r in replayed.history_], [r["train_loss"] for r in plain.history_], rtol=1e-4
    )


# -- rates ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["head", "full", "progressive"])
def test_the_suggested_rate_learns_faster_than_a_hundredth_of_it(rows, strategy):
    X, y = rows
    labels = (y > 100).astype(int)
    classifier = FineTuneClassifier(
        ArrayEmbedder(), strategy=strategy, optimization=Optimization(backbone_factor=1.0), random_state=0
    )
    curve = find_learning_rate(classifier, X, labels, low=1e-5, high=10.0)
    assert not hasattr(classifier, "embedder_")
    assert len(curve.rates) == len(curve.losses)
    assert np.all(np.diff(curve.rates) > 0)
    assert 1e-4 < curve.suggestion < 1.0
    assert curve.losses[0] == pytest.approx(np.log(2), abs=0.05), "a head that knows nothing"
    assert curve.losses.min() < curve.losses[0] - 0.01
    assert str(curve).startswith(
        f"Suggested: learning_rate={curve.suggestion:.1e}. Of {len(curve.rates)} steps from 1.0e-05 to"
    )
    assert repr(curve) == f"RateCurve(suggestion={curve.suggestion!r})"


def test_rates_are_checked(rows):
    X, y = rows
    regressor = _regressor()
    with pytest.raises(ValueError, match="the smaller first"):
        find_learning_rate(regressor, X, y, low=1.0, high=0.1)
    with pytest.raises(ValueError, match="n_steps=3"):
        find_learning_rate(regressor, X, y, n_steps=3)


def test_the_curve_is_drawn(rows, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    curve = find_learning_rate(_regressor(strategy="head"), *rows, n_steps=30)
    display = curve.plot()
    assert isinstance(display, RateCurveDisplay)
    assert display.ax_.get_xscale() == "log"
    assert display.figure_ is display.ax_.figure
    own = pyplot.figure().add_subplot()
    assert curve.plot(own).ax_ is own
    pyplot.close("all")
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'RateCurve\.plot needs matplotlib: pip install "skembed\[plot\]"'):
        curve.plot()
