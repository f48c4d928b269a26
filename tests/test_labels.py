"""Forms of y that every entry takes, and those that every entry refuses, with the same words."""

from __future__ import annotations

import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import DataConversionWarning
from sklearn.model_selection import cross_val_score

from skembed import FineTuneClassifier, FineTuneRegressor, advise, diagnose, find_learning_rate
from skembed.selection import (
    BackboneSelector,
    h_score,
    knn_score,
    leep,
    linear_probe_score,
    logme,
    nleep,
    rank_backbones,
    transrate,
)
from skembed.testing import ArrayEmbedder

pl = pytest.importorskip("polars")

N = 24
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 4)).astype(np.float32)
CODES = np.r_[[0, 1, 0, 1], (X[4:, 0] > 0).astype(int)]
NAMES = np.where(CODES == 1, "yes", "no")
LABELS = np.stack([CODES, 1 - CODES, RNG.integers(0, 2, N)], axis=1)
TEXTS = [f"text {i}" for i in range(N)]


def _classifier(**parameters):
    return FineTuneClassifier(ArrayEmbedder(), strategy="head", max_epochs=0, random_state=0, **parameters)


FITTED = _classifier(validation_fraction=None).fit(X, NAMES)


def _confusion(y):
    from skembed.displays import ConfusionExamplesDisplay

    return ConfusionExamplesDisplay.from_predictions(y, y, TEXTS).matrix_


def _estimator_confusion(y):
    from skembed.displays import ConfusionExamplesDisplay

    return ConfusionExamplesDisplay.from_estimator(FITTED, X, y).matrix_


def _map(door):
    def draw(y):
        from skembed.displays import EmbeddingMapDisplay

        display = getattr(EmbeddingMapDisplay, door)(ArrayEmbedder(), X, y)
        return np.concatenate([points.get_offsets() for points in display.ax_.collections])

    return draw


def _layer_probe(y):
    from skembed.displays import LayerProbeDisplay

    return LayerProbeDisplay.from_embedder(ArrayEmbedder(), X, y, layers=[-1], cv=2).scores


def _find_rate(y):
    return find_learning_rate(
        FineTuneClassifier(ArrayEmbedder(), strategy="head", random_state=0), X, y, n_steps=10
    ).losses


#: Functions of y alone that return numbers which depend on y.
FITS = {
    "classifier": lambda y: _classifier().fit(X, y).head_coef_,
    "y_val": lambda y: _classifier().fit(X, y, X_val=X[::-1], y_val=y[::-1]).validation_score_,
    "find_learning_rate": _find_rate,
    "selector": lambda y: BackboneSelector({"one": ArrayEmbedder()}).fit(X, y).best_score_,
}
SCORES = {
    "advise": lambda y: advise(X, y, ArrayEmbedder()).evidence["n_samples"],
    "rank_backbones": lambda y: rank_backbones(X, y, {"one": ArrayEmbedder()}, scores=["logme", "knn"])["knn"],
    "knn_score": lambda y: knn_score(X, y),
    "linear_probe_score": lambda y: linear_probe_score(X, y),
    "logme": lambda y: logme(X, y),
    "h_score": lambda y: h_score(X, y),
    "nleep": lambda y: nleep(X, y),
    "leep": lambda y: leep(np.eye(2)[CODES], y),
    "transrate": lambda y: transrate(X, y),
}
DISPLAYS = {
    "confusion": _confusion,
    "map": _map("from_embedder"),
    "estimator map": _map("from_estimator"),
    "layer probe": _layer_probe,
}
OF_FITTED = {
    "score": lambda y: FITTED.score(X, y),
    "diagnose": lambda y: list(diagnose(FITTED, X, y).numbers.values()),
    "estimator confusion": _estimator_confusion,
}
ENTRIES = {**FITS, **SCORES, **DISPLAYS}
DRAWN = {*DISPLAYS, "estimator confusion"}
#: Fitted on `NAMES`, so that other classes are another question.
ALL = {**ENTRIES, **OF_FITTED}


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    if "matplotlib.pyplot" in __import__("sys").modules:
        __import__("matplotlib.pyplot").pyplot.close("all")


def _each(entries):
    return pytest.mark.parametrize("name", entries)


def _run(name, y):
    if name in DRAWN:
        pytest.importorskip("matplotlib").use("agg")
    return ALL[name](y)


def _same(first, second):
    np.testing.assert_allclose(np.ravel(first).tolist(), np.ravel(second).tolist(), rtol=1e-6)


def _put(y, place, value):
    return [*y[:place], value, *y[place + 1 :]]


# -- what is taken ----------------------------------------------------------------------------------------


def _frame(values):
    return pd.DataFrame({"label": values})


@_each([name for name in ALL if name != "y_val"])
def test_a_one_column_frame_is_a_column_of_classes(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataConversionWarning)
        _same(_run(name, _frame(NAMES)), _run(name, NAMES))


@_each(["classifier", "advise", "logme", "map", "score"])
@pytest.mark.parametrize("form", [
    pytest.param(lambda: NAMES[:, None], id="column"),
    pytest.param(lambda: pl.DataFrame({"label": NAMES.tolist()}), id="polars frame"),
    pytest.param(lambda: pl.Series(NAMES.tolist(), dtype=pl.Categorical), id="polars categories"),
    pytest.param(lambda: pd.DataFrame({"label": pd.Categorical(NAMES)}), id="categories"),
])  # fmt: skip
def test_every_form_of_a_column(name, form):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataConversionWarning)
        _same(_run(name, form()), _run(name, NAMES))


@_each(["classifier", "selector", "advise", "knn_score", "logme", "rank_backbones"])
def test_a_column_gives_the_warning_of_scikit_learn_once(name):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _run(name, _frame(NAMES))
    told = [str(warning.message) for warning in caught if warning.category is DataConversionWarning]
    assert len(told) == 1
    assert told[0].startswith("A column-vector y was passed when a 1d array was expected.")


@_each(["score", *sorted(DRAWN)])
def test_a_column_gives_no_warning_where_scikit_learn_gives_none(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataConversionWarning)
        _run(name, NAMES[:, None])


@_each([name for name in ENTRIES if name not in ("y_val", "nleep", "linear_probe_score")])
@pytest.mark.parametrize("values", [CODES, CODES == 1], ids=["int", "bool"])
def test_numbers_of_dtype_object_are_numbers(name, values):
    objects = pd.Series(values.tolist(), dtype=object, index=range(100, 100 + N))
    _same(_run(name, objects), _run(name, values))


@pytest.mark.parametrize(("values", "kind"), [(CODES, "i"), (CODES == 1, "b"), (CODES.astype(float), "f")])
def test_a_classifier_fitted_on_objects_can_be_scored_on_them(values, kind):
    objects = np.array(values.tolist(), dtype=object)
    classifier = _classifier().fit(X, objects)
    assert classifier.classes_.dtype.kind == classifier.predict(X).dtype.kind == kind
    assert classifier.score(X, objects) == classifier.score(X, values) == (classifier.predict(X) == values).mean()
    assert np.isfinite(cross_val_score(_classifier(), X, objects, cv=2, error_score="raise")).all()


def test_label_matrices_of_dtype_object_are_labels():
    objects = pd.DataFrame({"one": LABELS[:, 0], "two": LABELS[:, 1] == 1, "three": LABELS[:, 2]})
    assert np.asarray(objects).dtype == object
    for y in (objects, LABELS.astype(object), LABELS.tolist()):
        classifier = _classifier().fit(X, y)
        np.testing.assert_array_equal(classifier.head_coef_, _classifier().fit(X, LABELS).head_coef_)
        assert classifier.score(X, y) == classifier.score(X, LABELS)
        assert diagnose(classifier, X, y).numbers == diagnose(classifier, X, LABELS).numbers
        assert advise(X, y, ArrayEmbedder()).task == "multilabel"


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="NumPy 2")
@_each(["classifier", "advise", "rank_backbones", "logme", "h_score", "confusion", "map", "layer probe", "score"])
def test_strings_of_variable_width_are_strings(name):
    _same(_run(name, NAMES.astype(np.dtypes.StringDType())), _run(name, NAMES))


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="NumPy 2")
def test_classes_of_variable_width_strings_are_ordinary_strings():
    variable = np.dtypes.StringDType
    classifier = _classifier().fit(X, NAMES.astype(variable()))
    assert classifier.classes_.dtype.kind == "U"
    assert classifier.score(X, NAMES.astype(variable())) == classifier.score(X, NAMES)
    gaps = np.array(_put(NAMES.tolist(), 5, None), dtype=variable(na_object=None))
    with pytest.raises(ValueError, match=r"y\[5\] is None, the first of 1"):
        _classifier().fit(X, gaps)


def test_lists_of_single_tensors_and_decimals():
    torch = pytest.importorskip("torch")
    for y in ([torch.tensor(code) for code in CODES], [np.array(code) for code in CODES], torch.tensor(CODES)):
        np.testing.assert_array_equal(_classifier().fit(X, y).classes_, [0, 1])
    decimals = [Decimal(code) / 2 for code in CODES.tolist()]
    with pytest.raises(ValueError, match=r"continuous.*such as 0\.5.*FineTuneRegressor"):
        _classifier().fit(X, decimals)
    regressor = FineTuneRegressor(ArrayEmbedder(), strategy="head", max_epochs=0, random_state=0).fit(X, decimals)
    assert regressor.score(X, decimals) == regressor.score(X, CODES / 2)


def test_a_regressor_is_scored_on_every_form_that_it_is_fitted_on():
    numbers = CODES + X[:, 0].astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataConversionWarning)
        regressor = FineTuneRegressor(ArrayEmbedder(), strategy="head", max_epochs=0, random_state=0)
        regressor.fit(X, _frame(numbers))
    expected = regressor.score(X, numbers)
    for y in (_frame(numbers), numbers.astype(object), [str(number) for number in numbers]):
        assert regressor.score(X, y) == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"Input y contains NaN: y\[2\] is nan, the first of 1"):
        regressor.score(X, _put(numbers.tolist(), 2, np.nan))


def test_callbacks_get_a_y_that_scorers_take():
    callback = pytest.importorskip("sklearn.callback")
    scores = []
    for y in (CODES, np.array(CODES.tolist(), dtype=object)):
        monitor = callback.ScoringMonitor(scoring="accuracy")
        classifier = FineTuneClassifier(ArrayEmbedder(), strategy="head", max_epochs=1, random_state=0)
        classifier.set_callbacks(monitor).fit(X, y)
        scores.append([row["accuracy"] for row in monitor.get_logs().data])
    assert scores[0] == scores[1]
    assert len(scores[0]) == 2


# -- what is missing --------------------------------------------------------------------------------------


@_each(ALL)
@pytest.mark.parametrize("missing", [None, np.nan, pd.NA], ids=["None", "NaN", "NA"])
def test_a_missing_class_has_one_error_everywhere(name, missing):
    y = _put(_put(NAMES.tolist(), 3, missing), 7, missing)
    label = "y_true" if name == "confusion" else "y"
    kind = "NaN" if isinstance(missing, float) else "missing values"
    said = rf"Input {label} contains {kind}: {label}\[3\] is (None|nan|<NA>), the first of 2\. Every sample needs one"
    with pytest.raises(ValueError, match=said):
        _run(name, y)


@_each(["classifier", "advise", "selector", "logme", "confusion", "map", "layer probe", "score"])
@pytest.mark.parametrize("form", [
    pytest.param(lambda: np.array(_put(CODES.astype(float), 3, np.nan)), id="NaN"),
    pytest.param(lambda: pd.Series(_put(CODES.tolist(), 3, None), dtype="Int64"), id="NA"),
    pytest.param(lambda: pd.Series(_put(list(pd.to_datetime(["2020", "2021"] * 12)), 3, pd.NaT)), id="NaT"),
    pytest.param(lambda: pd.Series(_put(NAMES.tolist(), 3, None), dtype="category"), id="category"),
    pytest.param(lambda: _frame(_put(NAMES.tolist(), 3, None)), id="frame"),
    pytest.param(lambda: pl.Series(_put(NAMES.tolist(), 3, None)), id="polars"),
    pytest.param(lambda: np.ma.masked_array(CODES, mask=np.arange(N) == 3), id="masked"),
    pytest.param(lambda: [Decimal("NaN") if i == 3 else Decimal(1) for i in range(N)], id="decimal"),
])  # fmt: skip
def test_every_form_of_a_missing_class(name, form):
    with pytest.raises(ValueError, match=r"y(_true)?\[3\] is (nan|NaN|None|<NA>|NaT), the first of 1"):
        _run(name, form())


def test_missing_groups_of_advice_are_named():
    with pytest.raises(ValueError, match=r"groups\[1\] is None, the first of 1"):
        advise(X, NAMES, ArrayEmbedder(), groups=_put(TEXTS, 1, None))


# -- what is refused --------------------------------------------------------------------------------------


@_each(ALL)
@pytest.mark.parametrize("form", [set, list, tuple])
def test_several_names_per_sample_lead_to_multi_label_binarizer(name, form):
    y = [form(["x"]) if code else form(["y", "z"]) for code in CODES]
    with pytest.raises(ValueError, match=r"y(_true)?\[0\] is .'y', 'z'.: several labels.*MultiLabelBinarizer"):
        _run(name, y)


@_each(ALL)
def test_bytes_are_to_be_decoded(name):
    for y in (np.array([name.encode() for name in NAMES]), [name.encode() for name in NAMES]):
        with pytest.raises(TypeError, match=r"y(_true)?\[0\] is b'no', which is bytes\. Decode"):
            _run(name, y)


@_each([name for name in ALL if name != "y_val"])  # which turns y round
@pytest.mark.parametrize("y", [3, "noyes", dict(enumerate(NAMES)), set(range(N)), iter(NAMES), np.array(1)])
def test_what_is_no_collection(name, y):
    with pytest.raises(TypeError, match=rf"y(_true)? is a {type(y).__name__}, not a collection with one value"):
        _run(name, y)


@pytest.mark.parametrize(("y", "said"), [
    ([*[0] * 23, 2**70], r"y holds 1180591620717411303424, which does not fit into 64 bits"),
    ([*["a"] * 23, pd.Timestamp("2020")], r"Unknown label type: y\[23\] is Timestamp.*, a Timestamp\. Give strings"),
    (CODES + 0j, "Complex data not supported"),
    (np.zeros((N, 2, 2)), r"y has shape \(24, 2, 2\)"),
    ([[0, "a"]] * N, r"y mixes strings with other values: y\[0, 0\] is 0 and y\[0, 1\] is 'a'"),
    (np.stack([NAMES, NAMES], 1), "multiclass-multioutput.*MultiLabelBinarizer"),
])  # fmt: skip
def test_a_classifier_says_what_it_cannot_read(y, said):
    with pytest.raises(ValueError, match=said):
        _classifier().fit(X, y)


def test_strings_and_numbers_are_not_compared():
    numbers, words = CODES, CODES.astype(str)
    said = r"{} holds .* and {} holds .*: strings on one side and numbers on the other"
    with pytest.raises(ValueError, match=said.format("y_val", "y")):
        _classifier().fit(X, numbers, X_val=X, y_val=words)
    classifier = _classifier().fit(X, numbers)
    for ask in (lambda: classifier.score(X, words), lambda: diagnose(classifier, X, words)):
        with pytest.raises(ValueError, match=said.format("y", "classes_")):
            ask()
    pytest.importorskip("matplotlib").use("agg")
    from skembed.displays import ConfusionExamplesDisplay

    with pytest.raises(ValueError, match=said.format("y_true", "y_pred")):
        ConfusionExamplesDisplay.from_predictions(words, numbers, TEXTS)


def test_displays_check_y_before_they_compute(monkeypatch):
    pytest.importorskip("matplotlib").use("agg")
    from skembed.displays import ConfusionExamplesDisplay

    monkeypatch.setattr(FITTED, "predict", lambda X: pytest.fail("predicted"), raising=False)
    monkeypatch.setattr(ArrayEmbedder, "embed", lambda self, X: pytest.fail("embedded"))
    with pytest.raises(ValueError, match=r"y\[0\] is None"):
        ConfusionExamplesDisplay.from_estimator(FITTED, X, _put(NAMES.tolist(), 0, None))
    for name in ("map", "estimator map"):
        with pytest.raises(ValueError, match=r"y\[0\] is None"):
            _run(name, _put(NAMES.tolist(), 0, None))


def test_numbers_of_several_columns_have_no_map():
    pytest.importorskip("matplotlib").use("agg")
    from skembed.displays import EmbeddingMapDisplay

    with pytest.raises(ValueError, match="y is a continuous-multioutput target"):
        EmbeddingMapDisplay(X[:, :2], X[:, 2:]).plot()


def test_numbers_are_no_classes_of_a_confusion_matrix():
    pytest.importorskip("matplotlib").use("agg")
    with pytest.raises(ValueError, match=r"y_true holds numbers that are not classes, such as -?\d+\.\d+"):
        _confusion(X[:, 0])


@pytest.mark.parametrize(("y", "task", "said"), [
    (NAMES, "regression", r"y\[0\] is 'no', which is not a number"),
    (LABELS, "classification", r"y has shape \(24, 3\) with task='classification'"),
    (NAMES, "multilabel", "y holds other values than 0 and 1 with task='multilabel'"),
    (LABELS + 1, "multilabel", "y holds other values than 0 and 1 with task='multilabel'"),
])  # fmt: skip
def test_advice_refuses_what_is_not_of_the_task(y, task, said):
    with pytest.raises(ValueError, match=said):
        advise(X, y, ArrayEmbedder(), task=task)
