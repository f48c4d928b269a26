"""BackboneSelector: scikit-learn's contract, and that the best is what it takes."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import estimator_checks as checks

from skembed import TextEmbedder
from skembed.exceptions import SkembedWarning
from skembed.selection import BackboneSelector, logme
from skembed.testing import ArrayEmbedder
from tests.selection.test_ranking import broken_backbone, wide_backbone

X, y = load_iris(return_X_y=True)


def _noise(rows):
    return np.random.default_rng(0).normal(size=(len(rows), 3))


def _selector(**parameters):
    return BackboneSelector([ArrayEmbedder(), ArrayEmbedder(wide_backbone)], layers=[0, -1], **parameters)


def test_estimator_checks():
    """scikit-learn's own suite, on candidates that read rows of numbers. It gives some around 100, of which the
    double makes the same row for all samples: a candidate that fails, and another that is taken."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = checks.check_estimator(BackboneSelector([ArrayEmbedder(), StandardScaler()]), on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] not in ("passed", "skipped")}
    assert not failed, failed
    assert sum(r["status"] == "passed" for r in results) >= 40


@pytest.mark.parametrize("name", ["check_set_output_transform_pandas", "check_transformer_get_feature_names_out",
                                  "check_dataframe_column_names_consistency"])  # fmt: skip
def test_never_yielded_checks(name):
    getattr(checks, name)("BackboneSelector", BackboneSelector([ArrayEmbedder()]))


@pytest.mark.parametrize("criterion", ["logme", "knn", "transrate"])
def test_the_best_by_the_criterion_is_taken(criterion):
    """Fails for the worst, for the first, and for a criterion that is not passed on."""
    selector = _selector(criterion=criterion).fit(X, y)
    values = [line[criterion] for line in selector.ranking_]
    assert len(values) == 4
    assert selector.best_score_ == max(values)
    np.testing.assert_array_equal(values, sorted(values, reverse=True))
    best = selector.ranking_[0]
    assert selector.best_embedder_.layers == best["layers"]
    assert selector.best_embedder_.backbone.__name__ == best["candidate"]
    np.testing.assert_array_equal(selector.transform(X), selector.best_embedder_.transform(X))


def test_criteria_of_ones_own_and_baselines():
    def negative(rows, y):
        return -logme(rows, y)

    candidates = {"noise": FunctionTransformer(_noise), "same": StandardScaler()}
    assert BackboneSelector(candidates).fit(X, y).ranking_[0]["candidate"] == "same"
    worst = BackboneSelector(candidates, criterion=negative).fit(X, y)
    assert worst.ranking_[0]["candidate"] == "noise"
    assert worst.best_score_ == worst.ranking_[0]["negative"]


def test_clone_pickle_and_parameters():
    candidates = [ArrayEmbedder(), ArrayEmbedder(wide_backbone)]
    selector = BackboneSelector(candidates, layers=[0, -1])
    fitted = clone(selector).fit(X, y)
    assert selector.candidates is candidates
    assert not hasattr(candidates[0], "spec_")
    again = clone(fitted)
    assert not hasattr(again, "best_embedder_")
    assert again.get_params()["layers"] == [0, -1]
    content = pickle.dumps(fitted)
    assert len(content) < 20_000
    np.testing.assert_array_equal(pickle.loads(content).transform(X), fitted.transform(X))


def test_grid_search_and_nested_parameters():
    pipeline = make_pipeline(_selector(), LogisticRegression(max_iter=1000))
    grid = {"backboneselector__criterion": ["logme", "knn"], "backboneselector__layers": [[0], [-1]]}
    search = GridSearchCV(pipeline, grid, cv=3, error_score="raise").fit(X, y)
    assert search.best_score_ > 0.85
    assert search.best_estimator_[0].layers == search.best_params_["backboneselector__layers"]


def test_the_choice_is_made_without_the_held_out_samples():
    """Fails when labels of the test fold reach the choice: each fold's selector has seen two thirds of them."""
    seen = []

    def spy(rows, y):
        seen.append(len(rows))
        return logme(rows, y)

    pipeline = make_pipeline(BackboneSelector([ArrayEmbedder()], criterion=spy), LogisticRegression(max_iter=1000))
    cross_val_score(pipeline, X, y, cv=3, error_score="raise")
    assert seen == [100, 100, 100]


def test_feature_names_and_output():
    selector = _selector().set_output(transform="pandas").fit(X, y)
    frame = selector.transform(X)
    assert frame.columns.tolist() == selector.get_feature_names_out().tolist()
    assert frame.columns[0] == "arrayembedder0"
    with sklearn.config_context(transform_output="pandas"):
        assert _selector().fit_transform(X, y).shape == frame.shape


def test_a_draw_is_for_the_choice_only():
    """A baseline that learns from X is fitted to all of it in the end."""
    selector = BackboneSelector([StandardScaler()], max_samples=30).fit(X, y)
    np.testing.assert_allclose(selector.best_embedder_.mean_, X.mean(axis=0))
    assert selector.best_embedder_.n_samples_seen_ == 150


def test_failing_candidates_are_passed_over_with_a_warning():
    with pytest.warns(SkembedWarning, match="1 of 2 candidates failed.*out of luck"):
        selector = BackboneSelector([ArrayEmbedder(broken_backbone), ArrayEmbedder()]).fit(X, y)
    assert selector.ranking_[0]["candidate"] == "array_backbone"
    assert "out of luck" in selector.ranking_[1]["error"]


def test_when_all_fail_the_error_names_each():
    bad = [ArrayEmbedder(broken_backbone), ArrayEmbedder(layers=9)]
    with pytest.raises(ValueError, match=r"none of the 2.*\n.*out of luck\n.*layers=9"):
        BackboneSelector(bad).fit(X, y)


def test_a_score_that_is_not_finite_is_no_score():
    selector = BackboneSelector([ArrayEmbedder()], criterion=lambda rows, y: float("nan"))
    with pytest.raises(ValueError, match="no finite score"):
        selector.fit(X, y)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"criterion": "leep"}, "'criterion' parameter"),
        ({"criterion": "accuracy"}, "'criterion' parameter"),
        ({"max_samples": 1}, "'max_samples' parameter"),
        ({"task": "ranking"}, "'task' parameter"),
        ({"random_state": -1}, "'random_state' parameter"),
        ({"candidates": []}, "candidates is empty"),
    ],
)
def test_wrong_parameters_fail_in_fit(parameters, message):
    with pytest.raises(ValueError, match=message):
        _selector().set_params(**parameters).fit(X, y)


def test_unfitted_and_without_labels():
    for method in (lambda s: s.transform(X), lambda s: s.get_feature_names_out()):
        with pytest.raises(NotFittedError):
            method(_selector())
    with pytest.raises(ValueError, match="requires y"):
        _selector().fit(X, None)


def test_html_and_tags():
    selector = _selector()
    assert "BackboneSelector" in selector._repr_html_()
    assert selector.__sklearn_tags__().target_tags.required
    assert selector.__sklearn_tags__().input_tags.two_d_array
    assert not BackboneSelector([TextEmbedder()]).__sklearn_tags__().input_tags.two_d_array
    assert BackboneSelector({"a": TextEmbedder()}).__sklearn_tags__().input_tags.string
    assert not BackboneSelector(["some/name"]).__sklearn_tags__().input_tags.two_d_array


@pytest.mark.bundled
def test_texts_in_a_pipeline():
    texts = [f"the {animal} number {i}" for animal in ("cat", "car") for i in range(8)]
    labels = ["animal"] * 8 + ["thing"] * 8
    pipeline = Pipeline([("rows", BackboneSelector([TextEmbedder()], layers=[0, -1])), ("model", LogisticRegression())])
    assert cross_val_score(pipeline, texts, labels, cv=2, error_score="raise").mean() == 1.0
