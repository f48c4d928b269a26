"""Ctrl-C during a fit: it ends searches, and what was learned so far stays usable."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV, cross_val_score

from skembed import FineTuneClassifier
from skembed.exceptions import FitWarning
from skembed.finetune import loop
from skembed.finetune import recipe as recipe_module
from skembed.testing import ArrayEmbedder
from tests.finetune.test_classifier import LEARNABLE, rows

__all__ = ["rows"]  # a fixture


def _classifier(**parameters):
    return FineTuneClassifier(ArrayEmbedder(precision="float32")).set_params(**{**LEARNABLE, **parameters})


def _interrupt_at(monkeypatch, n_steps):
    """Raise KeyboardInterrupt at a step of training, as Ctrl-C would."""
    original, steps = loop.Epoch.step, []

    def step(self, batch, rng):
        steps.append(1)
        if len(steps) == n_steps:
            raise KeyboardInterrupt
        return original(self, batch, rng)

    monkeypatch.setattr(loop.Epoch, "step", step)


def test_an_interrupt_is_raised_after_the_best_weights_are_set(rows, monkeypatch):
    X, y = rows
    classifier = _classifier(strategy="full", max_epochs=60, patience=60)
    _interrupt_at(monkeypatch, 40)
    with pytest.raises(KeyboardInterrupt, match="fitted with the best weights"):
        classifier.fit(X, y)
    assert 0 < len(classifier.history_) < 60
    assert classifier.validation_score_ >= classifier.probe_score_
    assert classifier.predict(X).shape == (len(X),)
    assert "Ended: interrupted" in classifier.report_


def test_an_interrupted_fit_can_be_kept(rows, monkeypatch):
    _interrupt_at(monkeypatch, 40)
    with pytest.warns(FitWarning, match="interrupted"):
        classifier = _classifier(strategy="full", max_epochs=60, patience=60, on_interrupt="keep").fit(*rows)
    assert "Ended: interrupted" in classifier.report_


def test_an_interrupt_of_the_refit_keeps_the_first_fit(rows, monkeypatch):
    X, y = rows
    expected = _classifier(strategy="full", max_epochs=3, refit=False).fit(*rows).predict_proba(X)
    monkeypatch.setattr(recipe_module.Recipe, "repeat", _interrupted)
    classifier = _classifier(strategy="full", max_epochs=3, refit=True)
    with pytest.raises(KeyboardInterrupt):
        classifier.fit(X, y)
    assert classifier.kept_ == "fine-tuned"
    np.testing.assert_array_equal(classifier.predict_proba(X), expected)


def _interrupted(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "search",
    [
        lambda classifier, X, y: GridSearchCV(classifier, {"optimization__dropout": [0.0, 0.1]}, cv=2).fit(X, y),
        lambda classifier, X, y: cross_val_score(classifier, X, y, cv=2),
    ],
    ids=["GridSearchCV", "cross_val_score"],
)
def test_an_interrupt_ends_a_search(rows, monkeypatch, search):
    classifier = _classifier(strategy="full", max_epochs=5)
    _interrupt_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        search(classifier, *rows)


def test_an_interrupted_fit_resumes_from_its_checkpoint(rows, monkeypatch, tmp_path):
    X, y = rows
    settings = {"strategy": "full", "max_epochs": 6, "patience": 6}
    expected = _classifier(**settings).fit(X, y).predict_proba(X)
    with monkeypatch.context() as patch:
        _interrupt_at(patch, 40)
        with pytest.raises(KeyboardInterrupt):
            _classifier(**settings, checkpoint_dir=tmp_path).fit(X, y)
    assert list(tmp_path.iterdir())
    resumed = _classifier(**settings, checkpoint_dir=tmp_path).fit(X, y)
    np.testing.assert_array_equal(resumed.predict_proba(X), expected)
