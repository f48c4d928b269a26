"""Configured output containers reach users' calls of `transform`, and no computation inside the library."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skembed import (
    BackboneSelector,
    FineTuneClassifier,
    FineTuneRegressor,
    Progressive,
    advise,
    diagnose,
    find_learning_rate,
)
from skembed import rank_backbones as rank
from skembed.displays import DriftDisplay, EmbeddingMapDisplay, LayerProbeDisplay
from skembed.selection import nleep
from skembed.testing import ArrayEmbedder, check_embedder, embedder_checks

PACKAGE = Path(__file__).parents[1] / "skembed"
FRAMES = {"pandas": pd.DataFrame, "polars": pl.DataFrame}
#: Modules that call methods of these names, and how often: for users' own transformers, for the user, or matplotlib's.
WRAPPED_CALLS = {
    "utils/sklearn_private.py": 1,
    "utils/plot_layout.py": 2,
    "displays/estimators.py": 1,
    "selection/selector.py": 1,
}

RNG = np.random.default_rng(0)
X = list(RNG.normal(size=(40, 4)).astype(np.float32))
Y = np.where(np.array(X)[:, 0] > 0, "yes", "no")
NUMBERS = np.array(X)[:, :2].astype(float)
FIT = {"max_epochs": 2, "strategy": Progressive(stage_epochs=1), "random_state": 0}
CONFIGURED = {
    "pandas, globally": ("pandas", None),
    "polars, by set_output": (None, "polars"),
}


def _embedder(output, **parameters):
    embedder = ArrayEmbedder(precision="float32", **parameters)
    return embedder if output is None else embedder.set_output(transform=output)


def _classifier(output, **parameters):
    return FineTuneClassifier(_embedder(output, on_error="nan")).set_params(**{**FIT, **parameters})


def _fits(output):
    fitted = _classifier(output, strategy="partial", learning_rate=1e-2, validation_fraction=None).fit(X, Y)
    yield from (fitted.predict_proba(X), fitted.score(X, Y), fitted.validation_score_, fitted.predict(X))
    yield from (diagnose(fitted, X, Y).numbers, diagnose(fitted, X, Y).blocks)
    regressor = FineTuneRegressor(_embedder(output), max_epochs=0, random_state=0).fit(X, NUMBERS)
    predicted = regressor.predict(X)
    assert isinstance(predicted, np.ndarray)
    yield predicted


def _advice(output):
    yield advise(X, Y, _embedder(output)).reasons
    yield _classifier(output, strategy="auto", max_epochs=0).fit(X, Y).strategy_


def _learning_rates(output):
    yield find_learning_rate(_classifier(output, strategy="partial"), X, Y, n_steps=10).losses


def _searches(output):
    search = GridSearchCV(_classifier(output, max_epochs=1), {"strategy": ["head", "partial"]}, cv=2).fit(X, Y)
    yield search.cv_results_["mean_test_score"]
    pipeline = make_pipeline(_embedder(output), StandardScaler(), LogisticRegression())
    yield pipeline.fit(X, Y).predict(X)
    yield GridSearchCV(pipeline, {"arrayembedder__layers": [0, -1]}, cv=2).fit(X, Y).cv_results_["mean_test_score"]


def _rankings(output):
    scores = ["logme", "knn", "linear_probe", "h_score", "nleep", "transrate"]
    table = rank(X, Y, [_embedder(output), make_pipeline(StandardScaler())], layers=[0, -1], scores=scores)
    yield table[["candidate", *scores, "error"]].to_numpy().tolist()
    selector = BackboneSelector([_embedder(output), StandardScaler()], layers=[0, -1]).fit(X, Y)
    yield np.asarray(selector.transform(X))


def _displays(output):
    embedder, fitted = _embedder(output), _classifier(output, max_epochs=0).fit(X, Y)
    yield EmbeddingMapDisplay.from_embedder(embedder, X, Y).positions
    yield EmbeddingMapDisplay.from_estimator(fitted, X, Y).positions
    yield EmbeddingMapDisplay.from_estimator(make_pipeline(embedder, StandardScaler()).fit(X), X).positions
    yield LayerProbeDisplay.from_embedder(embedder, X, Y, cv=2).scores
    tuned = _classifier(output, strategy="full", learning_rate=1e-2, validation_fraction=None).fit(X, Y)
    yield DriftDisplay.from_estimator(tuned, X).cka


ENTRIES = {
    "fits": _fits, "advice": _advice, "learning rates": _learning_rates, "searches": _searches,
    "rankings": _rankings, "displays": _displays,
}  # fmt: skip


@pytest.fixture(scope="module")
def plain():
    """Results of each entry without any configured container."""
    results = {}

    def of(entry):
        if entry not in results:
            results[entry] = list(ENTRIES[entry](None))
        return results[entry]

    return of


@pytest.fixture(autouse=True)
def _figures():
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


@pytest.mark.parametrize("configured", CONFIGURED)
@pytest.mark.parametrize("entry", ENTRIES)
def test_results_do_not_depend_on_the_configured_container(entry, configured, plain):
    globally, own = CONFIGURED[configured]
    expected = plain(entry)
    with config_context(transform_output=globally or "default"):
        results = list(ENTRIES[entry](own))
    assert len(results) == len(expected)
    for result, value in zip(results, expected, strict=True):
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            # A user's scaler may round columns of a frame differently from rows of an array.
            np.testing.assert_allclose(result, value, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_equal(result, value)


@pytest.mark.parametrize("library", FRAMES)
def test_the_user_gets_the_configured_container(library):
    """Of the embedder, the fine-tuner and the selector: from the configuration, and from `set_output` before it."""
    estimators = [
        ArrayEmbedder(),
        FineTuneClassifier(ArrayEmbedder(), max_epochs=0),
        BackboneSelector([ArrayEmbedder()]),
    ]
    for estimator in estimators:
        rows = clone(estimator).fit(X, Y).transform(X)
        assert isinstance(rows, np.ndarray)
        frames = [clone(estimator).set_output(transform=library).fit(X, Y).transform(X)]
        with config_context(transform_output=library):
            frames.append(clone(estimator).fit(X, Y).transform(X))
            assert isinstance(clone(estimator).set_output(transform="default").fit(X, Y).transform(X), np.ndarray)
        for frame in frames:
            assert isinstance(frame, FRAMES[library])
            assert list(frame.columns) == [f"arrayembedder{i}" for i in range(8)]
            np.testing.assert_array_equal(frame.to_numpy(), rows)


def test_a_selector_of_another_transformer_follows_its_own_container():
    """A candidate that is no embedder is wrapped by the global configuration, too."""
    selector = BackboneSelector([StandardScaler()]).set_output(transform="default").fit(X, Y)
    with config_context(transform_output="pandas"):
        assert isinstance(selector.transform(X), np.ndarray)


def test_embed_returns_an_array_whatever_is_configured():
    embedder = ArrayEmbedder().set_output(transform="pandas").fit(X)
    rows = embedder.embed(X)
    assert isinstance(rows, np.ndarray)
    np.testing.assert_array_equal(rows, embedder.transform(X).to_numpy())


def test_scores_of_rows_do_not_depend_on_the_configured_container():
    """The components of NLEEP are scaled by one number; of a frame each column would have its own."""
    expected = nleep(np.array(X), Y)
    with config_context(transform_output="pandas"):
        assert nleep(np.array(X), Y) == expected


def test_embedder_checks_run_under_any_configuration(monkeypatch):
    some = {name: check for name, check in embedder_checks().items() if name in ("check_output", "check_pipeline")}
    monkeypatch.setattr("skembed.testing.checks.embedder_checks", lambda: some)
    embedder = ArrayEmbedder().set_output(transform="pandas")
    with config_context(transform_output="pandas"):
        assert check_embedder(embedder, X[:5]) == 2


def _wrapped_calls(path: Path) -> list[str]:
    """Calls of methods that `set_output` wraps, but for those of matplotlib's transforms."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    methods = [call.func for call in calls if isinstance(call.func, ast.Attribute)]
    wrapped = [ast.unparse(method) for method in methods if method.attr in ("transform", "fit_transform")]
    return [call for call in wrapped if not re.search(r"\btrans(Data|Axes|Figure)\b", call)]


def test_no_module_computes_with_wrapped_methods():
    """An embedder has `embed`, and for scikit-learn's transformers there is `fit_transform_array`."""
    modules = {str(path.relative_to(PACKAGE)): path for path in PACKAGE.rglob("*.py")}
    del modules["testing/checks.py"]  # checks the user's own calls, under the default configuration
    calls = {name: _wrapped_calls(path) for name, path in modules.items()}
    unexpected = {name: found for name, found in calls.items() if len(found) != WRAPPED_CALLS.get(name, 0)}
    assert not unexpected
