"""Losses, temperatures, scores and predictions against torch's and scikit-learn's own."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from scipy.stats import ttest_rel
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, get_scorer, log_loss, mean_squared_error, r2_score
from torch.nn import functional as F

from skembed.finetune.tasks import Multiclass, Multilabel, Regression, Scores
from skembed.probes.linear import fit_ridge

CLASSES = {
    "two": np.array([0, 1]),
    "two names": np.array(["ham", "spam"]),
    "three": np.array(["a", "b", "c"]),
    "gaps": np.array([2, 5, 7, 11]),
}


def _outputs(n_samples, n_outputs, seed=0, scale=2.0):
    return scale * np.random.default_rng(seed).normal(size=(n_samples, n_outputs))


def _labels(classes, n_samples, seed=1):
    return np.random.default_rng(seed).choice(classes, size=n_samples)


def _tensors(*arrays):
    return [torch.from_numpy(np.asarray(array, dtype=np.float64)) for array in arrays]


class Given(BaseEstimator):
    """An estimator whose samples are its outputs, so that scikit-learn scores it as it scores any other."""

    def fit(self, X, y):
        return self

    def __sklearn_is_fitted__(self):
        return True


class GivenClassifier(ClassifierMixin, Given):
    def __init__(self, classes):
        self.classes = self.classes_ = classes

    def decision_function(self, X):
        return X[:, 1] - X[:, 0] if X.shape[1] == 2 else X

    def predict_proba(self, X):
        return softmax(X, axis=1)

    def predict(self, X):
        return self.classes_[X.argmax(1)]


class GivenRegressor(RegressorMixin, Given):
    def predict(self, X):
        return X


# -- classes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("classes", CLASSES.values(), ids=CLASSES)
def test_cross_entropy_with_label_smoothing_is_that_of_torch(classes, smoothing):
    task, y = Multiclass(classes), _labels(classes, 30)
    outputs, targets = _tensors(_outputs(30, len(classes)), task.encode(y))
    expected = F.cross_entropy(
        outputs, torch.from_numpy(np.searchsorted(classes, y)), reduction="none", label_smoothing=smoothing
    )
    torch.testing.assert_close(task.losses(outputs, targets, smoothing), expected)


def test_classes_are_encoded_in_their_order():
    task = Multiclass(CLASSES["gaps"])
    np.testing.assert_array_equal(task.encode(np.array([7, 2])), [[0, 0, 1, 0], [1, 0, 0, 0]])
    assert task.encode(np.array([7])).dtype == np.float64


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("classes", CLASSES.values(), ids=CLASSES)
def test_predictions_of_classes_agree_with_each_other(classes, temperature):
    task, outputs = Multiclass(classes), _outputs(50, len(classes))
    found = task.predictions(outputs, temperature)
    proba, decision = found["predict_proba"], found["decision_function"]
    np.testing.assert_allclose(proba, softmax(outputs / temperature, axis=1))
    np.testing.assert_array_equal(found["predict"], classes[outputs.argmax(1)])
    if len(classes) == 2:
        assert decision.shape == (50,)
        np.testing.assert_allclose(expit(decision), proba[:, 1])
        np.testing.assert_array_equal(found["predict"] == classes[1], decision > 0)
    else:
        np.testing.assert_allclose(softmax(decision, axis=1), proba)


@pytest.mark.parametrize("classes", CLASSES.values(), ids=CLASSES)
def test_classes_are_judged_by_log_loss_and_accuracy(classes):
    task, y, outputs = Multiclass(classes), _labels(classes, 40), _outputs(40, len(classes))
    weights = np.random.default_rng(3).uniform(0.1, 3, size=40)
    scores = task.judge(outputs, y, task.encode(y), weights)
    proba = softmax(outputs / scores.temperature, axis=1)
    assert scores.loss == pytest.approx(log_loss(y, proba, sample_weight=weights, labels=classes))
    assert scores.score == pytest.approx(accuracy_score(y, classes[outputs.argmax(1)], sample_weight=weights))


def test_worse_is_a_difference_of_more_than_its_standard_error():
    """A paired t statistic above one."""
    rng = np.random.default_rng(0)
    for shift in (-0.3, 0.0, 0.05, 0.1, 0.2, 0.4):
        first, second = rng.normal(size=(2, 30))
        second = first + shift + 0.5 * second
        found = Scores(second.mean(), 0.0, 1.0, tuple(second)).is_worse_than(
            Scores(first.mean(), 0.0, 1.0, tuple(first))
        )
        assert found == (ttest_rel(second, first).statistic > 1)


def test_worse_without_the_losses_of_samples_is_a_higher_loss():
    worst, best = Scores(np.inf, -np.inf), Scores(0.5, 0.9, 1.0, (0.4, 0.6))
    assert worst.is_worse_than(best)
    assert worst.error_against(Scores(0.0, 0.0)) == 0.0, "losses of single samples are not known"
    assert not best.is_worse_than(worst)
    assert not best.is_worse_than(best)
    assert Scores(0.6, 0.9, 1.0, (0.6,)).is_worse_than(Scores(0.5, 0.9, 1.0, (0.5,)))


def test_weighted_losses_of_samples_have_the_loss_as_their_mean():
    task, y, outputs = Multiclass(np.arange(3)), _labels(np.arange(3), 40), _outputs(40, 3)
    weights = np.random.default_rng(3).uniform(0.1, 3, size=40)
    scores = task.judge(outputs, y, task.encode(y), weights)
    each = -np.log(softmax(outputs / scores.temperature, axis=1)[np.arange(40), y])
    np.testing.assert_allclose(scores.each, each * weights / weights.mean())
    assert np.mean(scores.each) == pytest.approx(scores.loss)


# -- labels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_losses_of_labels_are_those_of_torch(smoothing):
    task = Multilabel(3)
    y = np.random.default_rng(0).integers(0, 2, size=(20, 3))
    outputs, targets = _tensors(_outputs(20, 3), task.encode(y))
    # Smoothed: with so much of its weight, a target is a coin.
    for_ones, for_zeros = (F.binary_cross_entropy_with_logits(outputs, torch.full_like(outputs, v), reduction="none")
                           for v in (1 - smoothing / 2, smoothing / 2))  # fmt: skip
    expected = torch.where(targets == 1, for_ones, for_zeros).mean(1)
    torch.testing.assert_close(task.losses(outputs, targets, smoothing), expected)


def test_predictions_and_scores_of_labels():
    task = Multilabel(3)
    y, outputs = np.random.default_rng(0).integers(0, 2, size=(40, 3)), _outputs(40, 3)
    weights = np.random.default_rng(3).uniform(0.1, 3, size=40)
    scores = task.judge(outputs, y, task.encode(y), weights)
    found = task.predictions(outputs, scores.temperature)
    proba = expit(outputs / scores.temperature)
    np.testing.assert_allclose(found["predict_proba"], proba)
    np.testing.assert_allclose(found["decision_function"], outputs / scores.temperature)
    np.testing.assert_array_equal(found["predict"], proba > 0.5)
    assert found["predict"].dtype.kind == "i"
    each = [log_loss(y[:, i], proba[:, i], sample_weight=weights) for i in range(3)]
    assert scores.loss == pytest.approx(np.mean(each))
    assert scores.score == pytest.approx(accuracy_score(y, proba > 0.5, sample_weight=weights))


# -- the temperature --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classes", "labels"])
@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_temperature_is_the_best_of_a_fine_grid(kind, factor):
    """The targets are drawn from the probabilities, so that the outputs were right before they were scaled."""
    rng, n = np.random.default_rng(0), 2000
    right = _outputs(n, 3)
    if kind == "classes":
        task = Multiclass(np.arange(3))
        targets = task.encode((right + rng.gumbel(size=right.shape)).argmax(1))
    else:
        task = Multilabel(3)
        targets = (rng.random((n, 3)) < expit(right)).astype(float)
    weights = rng.uniform(0.1, 2, size=n)
    outputs = factor * right

    def loss(temperature):
        scaled = outputs / temperature
        if kind == "classes":
            each = -(targets * np.log(softmax(scaled, axis=1))).sum(1)
        else:
            each = np.logaddexp(0, np.where(targets == 1, -scaled, scaled)).sum(1)
        effective = weights.sum() ** 2 / np.square(weights).sum()
        return (
            effective * np.average(each, weights=weights)
            + (np.log(temperature) / (0.25 if temperature < 1 else 1.0)) ** 2 / 2
        )

    grid = np.exp(np.linspace(np.log(0.1), np.log(10), 4001))
    found = task.temperature(outputs, targets, weights)
    assert found == pytest.approx(grid[np.argmin([loss(t) for t in grid])], rel=2e-3)
    assert found == pytest.approx(factor, rel=0.2)


def test_the_temperature_is_weighted():
    """Sure and right on one half, sure and wrong on the other: which half counts decides."""
    outputs = np.tile([3.0, -3.0], (40, 1))
    y = np.arange(40) // 20
    y[[5, 25]] = 1 - y[[5, 25]]
    task = Multiclass(np.arange(2))
    first, second = (
        task.temperature(outputs, task.encode(y), np.where(np.arange(40) // 20 == half, 1.0, 1e-9)) for half in (0, 1)
    )
    # 19 of 20 right: the odds are 19 to 1, and the two outputs differ by 6.
    assert first == pytest.approx(6 / np.log(19), rel=0.15)
    assert second > 2 * first


def test_the_temperature_stays_in_its_bounds():
    task, y = Multiclass(np.arange(2)), np.arange(100_000) % 2
    right = task.encode(y)
    assert 0.1 <= task.temperature(right, right, np.ones(len(y))) < 0.2
    assert 9 < task.temperature(-right, right, np.ones(len(y))) <= 10


@pytest.mark.parametrize("kind", ["classes", "labels"])
def test_a_few_samples_that_are_right_make_outputs_hardly_surer(kind):
    """Without the prior the temperature is that of the bound, whatever the outputs."""
    task = Multiclass(np.arange(3)) if kind == "classes" else Multilabel(3)
    right = np.eye(3)[np.arange(8) % 3]
    outputs = 2 * (2 * right - 1)
    found = {n: task.temperature(outputs[:n], right[:n], np.ones(n)) for n in (1, 8)}
    assert 0.6 < found[8] < found[1] < 1
    # Neither samples of no weight nor the scale of the weights change what is known.
    twice, weights = np.repeat(outputs, 2, axis=0), np.tile([1.0, 1e-9], 8)
    assert task.temperature(twice, np.repeat(right, 2, axis=0), weights) == pytest.approx(found[8], rel=1e-3)
    assert task.temperature(outputs, right, np.full(8, 0.01)) == pytest.approx(found[8], rel=1e-3)


def test_no_prediction_changes_with_the_temperature():
    outputs = _outputs(50, 3)
    for task in (Multiclass(np.arange(3)), Multilabel(3)):
        cold, warm = (task.predictions(outputs, temperature)["predict"] for temperature in (0.2, 5.0))
        np.testing.assert_array_equal(cold, warm)


# -- numbers ----------------------------------------------------------------------------------------------


def _regression(y, scoring=None):
    columns = y.reshape(len(y), -1)
    return Regression(columns.mean(0), columns.std(0), y.ndim == 1, scoring)


@pytest.mark.parametrize("shape", [(30,), (30, 2)])
def test_numbers_are_standardised_and_brought_back(shape):
    y = 100 + 5 * np.random.default_rng(0).normal(size=shape)
    task = _regression(y)
    encoded = task.encode(y)
    assert encoded.shape == (30, task.n_outputs)
    np.testing.assert_allclose(encoded.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(encoded.std(0), 1)
    np.testing.assert_allclose(task.predictions(encoded)["predict"], y)
    assert set(task.predictions(encoded)) == {"predict"}
    assert task.fit_probe is fit_ridge


@pytest.mark.parametrize("shape", [(30,), (30, 2)])
def test_numbers_are_judged_by_squared_error_and_r2(shape):
    rng = np.random.default_rng(0)
    y = 100 + 5 * rng.normal(size=shape)
    task, weights = _regression(y), rng.uniform(0.1, 2, size=30)
    encoded = task.encode(y)
    outputs = encoded + 0.3 * rng.normal(size=encoded.shape)
    scores = task.judge(outputs, y, encoded, weights)
    assert scores.loss == pytest.approx(mean_squared_error(encoded, outputs, sample_weight=weights))
    predicted = task.predictions(outputs)["predict"]
    assert scores.score == pytest.approx(r2_score(y, predicted, sample_weight=weights))
    assert scores.temperature == 1.0
    first, second = _tensors(outputs, encoded)
    np.testing.assert_allclose(task.losses(first, second, 0.0), np.square(outputs - encoded).mean(1))


def test_smoothing_is_for_classes():
    first, second = torch.zeros(2, 1), torch.ones(2, 1)
    task = _regression(np.arange(4.0))
    assert torch.equal(task.losses(first, second, 0.3), task.losses(first, second, 0.0))


def test_r2_of_a_single_sample_is_not_defined():
    task = _regression(np.arange(4.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = task.judge(np.zeros((1, 1)), np.ones(1), np.zeros((1, 1)), np.ones(1))
    assert np.isnan(scores.score)
    assert scores.loss == 0


# -- scorers ----------------------------------------------------------------------------------------------


def _answer(score):
    """What comes of a call: a number, or the words of its refusal."""
    try:
        return round(score(), 10)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("scoring", [
    "accuracy", "balanced_accuracy", "f1_macro", "neg_log_loss", "roc_auc_ovr", "average_precision", "roc_auc",
    "neg_brier_score", "d2_log_loss_score", "top_k_accuracy", "matthews_corrcoef",
])  # fmt: skip
@pytest.mark.parametrize("classes", CLASSES.values(), ids=CLASSES)
@pytest.mark.filterwarnings("ignore:'k'")
def test_a_scorer_sees_a_fitted_classifier(classes, scoring):
    """It gives the same number; and what it refuses of any other classifier it refuses here, in the same words."""
    task, y = Multiclass(classes, scoring), _labels(classes, 60)
    targets, weights = task.encode(y), np.ones(60)
    outputs = _outputs(60, len(classes)) + 2 * targets
    calibrated = outputs / task.temperature(outputs, targets, weights)
    found = _answer(lambda: task.judge(outputs, y, targets, weights).score)
    expected = _answer(lambda: get_scorer(scoring)(GivenClassifier(classes), calibrated, y))
    assert found == expected


@pytest.mark.parametrize("scoring", ["r2", "neg_mean_absolute_error", "neg_root_mean_squared_error"])
def test_a_scorer_sees_a_fitted_regressor(scoring):
    rng = np.random.default_rng(0)
    y = rng.normal(size=20) * 3 + 7
    task = _regression(y, scoring)
    outputs = task.encode(y) + rng.normal(size=(20, 1))
    expected = get_scorer(scoring)(GivenRegressor(), task.predictions(outputs)["predict"], y)
    assert task.judge(outputs, y, task.encode(y), np.ones(20)).score == pytest.approx(expected)


@pytest.mark.parametrize(("scoring", "metric"), [
    ("f1_macro", lambda y, outputs: get_scorer("f1_macro")._score_func(y, outputs > 0, average="macro")),
    ("roc_auc", lambda y, outputs: get_scorer("roc_auc")._score_func(y, outputs)),
    ("average_precision", lambda y, outputs: get_scorer("average_precision")._score_func(y, outputs)),
])  # fmt: skip
@pytest.mark.parametrize("n_labels", [2, 3])
def test_a_scorer_sees_labels(scoring, metric, n_labels):
    task = Multilabel(n_labels, scoring)
    y, outputs = np.random.default_rng(0).integers(0, 2, size=(40, n_labels)), _outputs(40, n_labels)
    assert task.judge(outputs, y, task.encode(y), np.ones(40)).score == pytest.approx(metric(y, outputs))


def test_a_scorer_may_be_a_function():
    def share_of_ones(estimator, X, y):
        return float((estimator.predict(X) == 1).mean())

    task, outputs = Multiclass(np.arange(2), share_of_ones), np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 2.0]])
    y = np.array([0, 1, 1])
    assert task.judge(outputs, y, task.encode(y), np.ones(3)).score == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="not a valid scoring value"):
        Multiclass(np.arange(2), "no such score")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_outputs_that_are_no_numbers_are_the_worst(bad):
    task, y = Multiclass(np.arange(2)), np.array([0, 1, 1])
    outputs = np.array([[0.0, 1.0], [bad, 0.0], [0.0, 2.0]])
    scores = task.judge(outputs, y, task.encode(y), np.ones(3))
    assert (scores.loss, scores.score) == (np.inf, -np.inf)
