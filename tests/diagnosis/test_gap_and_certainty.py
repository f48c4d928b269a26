"""A gap between training and held-out loss is named, and what few held-out samples decided has an interval."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.stats import binomtest

from skembed import FineTuneClassifier, FineTuneRegressor
from skembed.assessment.certainty import wilson_interval
from skembed.testing import ArrayEmbedder
from tests.advice.cases import separable, wide_backbone
from tests.diagnosis.test_curves import _read

GAP = "generalization gap"


def _fit(X, y, n_held_out, estimator=FineTuneClassifier, **parameters):
    embedder = ArrayEmbedder(wide_backbone, precision="float32")
    fitted = estimator(embedder, validation_fraction=None, random_state=0).set_params(**parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fitted.fit(X[n_held_out:], y[n_held_out:], X_val=X[:n_held_out], y_val=y[:n_held_out])


@pytest.fixture(scope="module")
def memorized():
    """Six classes with much noise and few samples, which training learns by heart."""
    rng = np.random.default_rng(0)
    y = np.arange(108) % 6
    X = (0.7 * rng.normal(size=(6, 4))[y] + 0.7 * rng.normal(size=(108, 4))).astype(np.float32)
    settings = {
        "strategy": "full",
        "learning_rate": 1e-2,
        "optimization__backbone_factor": 1.0,
        "optimization__dropout": 0.0,
        "max_epochs": 60,
    }
    return _fit(X, y, 24, patience=60, **settings)


@pytest.mark.parametrize("held_out", [[0.59, 0.58, 0.57, 0.56], [0.5, 0.45, 0.5, 0.6]])
def test_a_gap_is_named_whether_or_not_the_held_out_loss_rose(held_out):
    found = _read(("top", [0.4, 0.05, 0.01, 0.0004], held_out), best_error=0.02)
    assert found[GAP].severity == "warning"
    assert "training loss of 0." in found[GAP].evidence
    assert ("overfitting" in found) == (held_out[-1] > held_out[0])


def test_a_gap_of_low_losses_is_a_note():
    assert _read(("top", [0.4, 0.05, 0.01], [0.5, 0.4, 0.3]))[GAP].severity == "note"


def test_a_gap_that_came_after_what_was_kept_is_a_note():
    found = _read(("top", [0.4, 0.3, 0.001], [0.5, 0.45, 0.46]), best_loss=0.45)
    assert found[GAP].severity == "note"
    assert found[GAP].numbers["train_loss"] == 0.001
    assert "This does not affect epoch 2" in found[GAP].evidence
    assert found[GAP].remedy.startswith("None needed")


@pytest.mark.parametrize(
    ("attempt", "changes"),
    [
        (("top", [0.3, 0.2], [0.5, 0.44]), {}),  # a gap that is not wide
        (("top", [0.3, 0.05], [0.5, 0.44]), {"best_error": 0.2}),  # within its error
        (("top", [0.3, 0.05], None), {"probe_loss": float("nan"), "best_loss": float("nan")}),
    ],
)
def test_no_gap_is_named_without_evidence(attempt, changes):
    assert GAP not in _read(attempt, **changes)


def test_the_gap_of_a_probe_is_named():
    attempt = ("top", [0.5, 0.6], [0.7, 0.8])
    found = _read(attempt, probe_train_loss=0.01, accuracy=0.58)[GAP]
    assert found.severity == "warning"
    assert "The linear probe" in found.evidence
    assert "accuracy 0.58" in found.evidence
    assert GAP not in _read(attempt, probe_train_loss=0.5)


def test_a_fit_that_memorized_is_not_said_to_be_free_of_overfitting(memorized):
    diagnosis = memorized.diagnosis_
    found = diagnosis[GAP]
    assert found.numbers["held_out_loss"] - found.numbers["train_loss"] == pytest.approx(found.numbers["gap"])
    text = str(diagnosis)
    assert "overfitting" not in text[text.find("Not found:") :].split("\n")[0]


def test_what_few_held_out_samples_decided_has_an_interval(memorized):
    numbers, text = memorized.diagnosis_.numbers, " ".join(str(memorized.diagnosis_).split())
    assert "Decided on 24 held-out samples: accuracy 0." in text
    assert numbers["accuracy_low"] < memorized.validation_score_ < numbers["accuracy_high"]
    assert f"(95 % interval {numbers['accuracy_low']:.2f} to {numbers['accuracy_high']:.2f})" in text
    assert numbers["loss_low"] < numbers["best_loss"] < numbers["loss_high"]


@pytest.mark.parametrize(("n_held_out", "said"), [(1, True), (9, True), (24, True), (99, True), (100, False)])
def test_intervals_are_given_below_a_hundred_held_out_samples(n_held_out, said):
    X, y = separable(180, 3)
    diagnosis = _fit(X, y, n_held_out, strategy="head", max_epochs=2).diagnosis_
    assert ("Decided on" in str(diagnosis)) is said
    assert ("accuracy_low" in diagnosis.numbers) is said


def test_scores_other_than_accuracy_have_an_interval_of_the_loss_alone():
    X, y = separable(80, 3)
    number = _fit(X, y.astype(float), 20, FineTuneRegressor, strategy="head", max_epochs=2).diagnosis_
    scored = _fit(X, y, 20, strategy="head", max_epochs=2, scoring="balanced_accuracy").diagnosis_
    for diagnosis in (number, scored):
        assert "loss_low" in diagnosis.numbers
        assert "accuracy_low" not in diagnosis.numbers


def test_nothing_held_out_has_no_interval():
    X, y = separable(60, 3)
    embedder = ArrayEmbedder(wide_backbone, precision="float32")
    fitted = FineTuneClassifier(embedder, strategy="head", max_epochs=2, validation_fraction=None).fit(X, y)
    assert "Decided on" not in str(fitted.diagnosis_)


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 10), (10, 10), (14, 24), (580, 1000)])
def test_wilson_interval_is_that_of_scipy(hits, n):
    expected = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(wilson_interval(hits / n, n), expected, atol=1e-6)
