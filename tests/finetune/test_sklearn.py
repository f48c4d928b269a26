"""The estimators through scikit-learn's own suite, on the double that reads rows of numbers, and inside its tools."""

from __future__ import annotations

import pickle
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import StackingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, cross_val_predict, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from skembed import FineTuneClassifier, FineTuneRegressor, Progressive
from skembed.testing import ArrayBackbone, ArrayEmbedder, array_backbone

#: What is held out is drawn from samples, whatever they weigh.
DRAWN = {"check_sample_weight_equivalence_on_dense_data": "the held-out split draws samples, not weights"}


def wide_backbone(n_features: int = 4) -> ArrayBackbone:
    """Random features enough for a linear function of ten numbers."""
    return array_backbone(n_features, width=64)


def _run_checks(estimator, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(estimator, on_fail=None, on_skip=None, expected_failed_checks=expected)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert not failed, failed
    return sum(r["status"] == "passed" for r in results)


def test_classifier_checks():
    classifier = FineTuneClassifier(ArrayEmbedder(), max_epochs=4, strategy=Progressive(stage_epochs=1), random_state=0)
    assert _run_checks(classifier, DRAWN) >= 70


def test_classifier_checks_of_the_probe_alone():
    """Nothing drawn, so a sample of weight two is a sample that came twice."""
    probe = FineTuneClassifier(ArrayEmbedder(), max_epochs=0, validation_fraction=None)
    assert _run_checks(probe, {}) >= 71


def test_regressor_checks():
    regressor = FineTuneRegressor(
        ArrayEmbedder(wide_backbone), max_epochs=4, strategy=Progressive(stage_epochs=1), random_state=0
    )
    assert _run_checks(regressor, DRAWN) >= 63


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 4)).astype(np.float32)
    return X, np.where(X[:, 0] + 0.5 * X[:, 1] > 0, "yes", "no")


def _quick(**parameters):
    settings = {"max_epochs": 2, "strategy": Progressive(stage_epochs=1), "random_state": 0, **parameters}
    return FineTuneClassifier(ArrayEmbedder()).set_params(**settings)


def test_grid_search_over_strategy_and_the_embedder(rows):
    grid = {"strategy": ["head", "partial"], "embedder__layers": [-1, -2], "learning_rate": [1e-3, 1e-2]}
    search = GridSearchCV(_quick(), grid, cv=3).fit(*rows)
    assert search.best_score_ > 0.8
    assert len(search.cv_results_["params"]) == 8
    assert search.best_estimator_.report_


def test_halving_search_over_epochs(rows):
    search = HalvingGridSearchCV(
        _quick(refit=False),
        {"learning_rate": [1e-3, 1e-2, 1e-1]},
        resource="max_epochs",
        max_resources=9,
        cv=2,
        factor=3,
    ).fit(*rows)
    assert set(search.cv_results_["n_resources"]) == {3, 9}


def test_inside_other_estimators(rows):
    X, y = rows
    frame = pd.DataFrame(X, columns=list("abcd"))
    stack = StackingClassifier([("tuned", _quick()), ("plain", LogisticRegression())], cv=2).fit(X, y)
    calibrated = CalibratedClassifierCV(_quick(), cv=2).fit(X, y)
    columns = make_pipeline(ColumnTransformer([("keep", "passthrough", ["a", "b", "c", "d"])]), _quick()).fit(frame, y)
    for fitted, data in ((stack, X), (calibrated, X), (columns, frame)):
        assert fitted.score(data, y) > 0.8
    assert cross_val_predict(_quick(), X, y, cv=2, method="predict_proba").shape == (120, 2)


def test_groups_and_weights_are_routed(rows):
    X, y = rows
    seen = []

    class Watched(FineTuneClassifier):
        def fit(self, X, y, sample_weight=None, *, groups=None, X_val=None, y_val=None):
            seen.append((sample_weight is not None, groups is not None))
            return super().fit(X, y, sample_weight, groups=groups, X_val=X_val, y_val=y_val)

    with config_context(enable_metadata_routing=True):
        classifier = Watched(ArrayEmbedder(), max_epochs=0, random_state=0)
        classifier.set_fit_request(sample_weight=True, groups=True).set_score_request(sample_weight=False)
        cross_validate(classifier, X, y, cv=2, params={"sample_weight": np.ones(120), "groups": np.arange(120) // 4})
    assert seen == [(True, True)] * 2


def test_the_tuned_embedder_works_in_other_pipelines(rows):
    X, y = rows
    classifier = _quick(strategy="full", max_epochs=3, learning_rate=1e-2, validation_fraction=None)
    classifier.fit(X, y)
    assert classifier.kept_ == "fine-tuned"
    embedder = classifier.embedder_
    expected = classifier.transform(X)
    assert np.abs(expected - ArrayEmbedder().fit_transform(X)).max() > 1e-4
    for same in (clone(embedder).fit(X), pickle.loads(pickle.dumps(embedder)), clone(clone(embedder)).fit(X)):
        np.testing.assert_array_equal(same.transform(X), expected)
    assert make_pipeline(embedder, LogisticRegression()).fit(X, y).score(X, y) > 0.8
    assert joblib.hash(embedder) == joblib.hash(clone(embedder).fit(X))


def test_output_containers(rows):
    X, y = rows
    frame = _quick(max_epochs=0).fit(X, y).set_output(transform="pandas").transform(X)
    assert list(frame.columns) == [f"arrayembedder{i}" for i in range(8)]
