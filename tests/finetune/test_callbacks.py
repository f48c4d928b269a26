"""scikit-learn 1.9's callbacks: they get the data, and an estimator that predicts as if the fit had stopped."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skembed import FineTuneClassifier, FineTuneRegressor
from skembed.cache import EmbeddingCache
from skembed.testing import ArrayEmbedder

callback = pytest.importorskip("sklearn.callback")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 4)).astype(np.float32)
Y = np.where(X[:, 0] * (np.abs(X[:, 1]) - 0.7) > 0, "yes", "no")
FIT = {"strategy": "full", "learning_rate": 1e-2, "max_epochs": 3, "random_state": 0}


def _classifier(**parameters):
    embedder = ArrayEmbedder(precision="float32", **parameters.pop("embedder", {}))
    return FineTuneClassifier(embedder).set_params(**{**FIT, **parameters})


class Recorder:
    """Keeps what it is given at the end of each task."""

    def __init__(self, n_epochs=100):
        self.tasks, self.n_epochs = [], n_epochs

    def setup(self, estimator, context): ...
    def teardown(self, estimator, context): ...
    def on_fit_task_begin(self, estimator, context, *, X=None, y=None): ...

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None):
        predicted = None if fitted_estimator is None else fitted_estimator.predict(X)
        self.tasks.append((context.task_name, X, y, metadata, fitted_estimator, predicted))
        return sum(name == "epoch" for name, *_ in self.tasks) >= self.n_epochs


def test_scoring_monitor_records_each_epoch_and_the_fit():
    monitor = callback.ScoringMonitor(scoring="accuracy")
    classifier = _classifier(validation_fraction=None).set_callbacks(monitor).fit(X, Y)
    rows = monitor.get_logs().data
    scores = [row["accuracy"] for row in rows if row["task_name"] == "epoch"]
    assert len(scores) == 3
    assert [row["accuracy"] for row in rows if row["task_name"] != "epoch"] == [classifier.score(X, Y)]
    assert scores[-1] == classifier.score(X, Y)


@pytest.mark.parametrize("strategy", ["full", "head"])
@pytest.mark.parametrize("fraction", [None, 0.3])
def test_the_estimator_of_an_epoch_predicts_as_if_the_fit_had_stopped_there(strategy, fraction):
    whole, stopped = Recorder(), Recorder(n_epochs=2)
    settings = {"strategy": strategy, "validation_fraction": fraction, "refit": False}
    _classifier(**settings).set_callbacks(whole).fit(X, Y)
    expected = _classifier(**settings).set_callbacks(stopped).fit(X, Y)
    assert expected.n_epochs_ == 2
    name, _, _, _, second, _ = whole.tasks[1]
    assert (name, second.n_epochs_, second.kept_) == ("epoch", 2, expected.kept_)
    assert (second.strategy_, second.method_) == (expected.strategy_, expected.method_)
    np.testing.assert_allclose(second.predict_proba(X), expected.predict_proba(X), rtol=1e-6)


def test_callbacks_do_not_change_the_fit():
    """The best weights are put into the network and the current ones back, between two epochs."""
    plain = _classifier(validation_fraction=0.3, optimization__ema=0.9).fit(X, Y)
    watched = _classifier(validation_fraction=0.3, optimization__ema=0.9).set_callbacks(Recorder()).fit(X, Y)
    assert [e["train_loss"] for e in watched.history_] == [e["train_loss"] for e in plain.history_]
    np.testing.assert_array_equal(watched.predict_proba(X), plain.predict_proba(X))


def test_callbacks_get_the_data_of_the_fit():
    recorder, weights = Recorder(), np.ones(60)
    _classifier(max_epochs=1).set_callbacks(recorder).fit(X, Y, sample_weight=weights)
    assert [name for name, *_ in recorder.tasks] == ["epoch", "fit"]
    for _, given, y, metadata, _, _ in recorder.tasks:
        assert given is X
        assert y is Y
        np.testing.assert_array_equal(metadata["sample_weight"], weights)


def test_samples_that_the_fit_leaves_out_are_left_out_for_callbacks():
    recorder, weights = Recorder(), np.r_[0.0, np.ones(59)]
    _classifier(max_epochs=1).set_callbacks(recorder).fit(X, Y, sample_weight=weights)
    _, given, y, metadata, _, _ = recorder.tasks[0]
    np.testing.assert_array_equal(given, X[1:])
    np.testing.assert_array_equal(y, Y[1:])
    np.testing.assert_array_equal(metadata["sample_weight"], weights[1:])


def test_rows_of_passing_weights_are_not_cached():
    cache, plain = EmbeddingCache(), EmbeddingCache()
    _classifier(embedder={"cache": plain}, validation_fraction=None).fit(X, Y)
    monitor = callback.ScoringMonitor(scoring="accuracy")
    _classifier(embedder={"cache": cache}, validation_fraction=None).set_callbacks(monitor).fit(X, Y)
    assert cache.info().entries <= plain.info().entries + len(X), "rows of the fit's own weights, and no others"


def test_scoring_monitor_inside_a_search_and_for_numbers():
    monitor = callback.ScoringMonitor(scoring="r2")
    regressor = FineTuneRegressor(ArrayEmbedder(precision="float32")).set_params(**{**FIT, "max_epochs": 1})
    regressor.set_callbacks(monitor)
    GridSearchCV(
        make_pipeline(StandardScaler(), regressor), {"finetuneregressor__optimization__dropout": [0.0]}, cv=2
    ).fit(X, X[:, 0].astype(float))
    logs = monitor.get_logs(select="all")
    assert sum("r2" in row and row["task_name"] == "epoch" for log in logs for row in log.data) >= 3
