"""Augmentation inside a fit: which samples are changed, how often, and what is still replayed."""

from __future__ import annotations

import numpy as np
import pytest

from skembed import Augmentation, FineTuneClassifier, TextEmbedder
from skembed.augment.text import WordDropout
from tests.backbones import tiny

SETTINGS = {"learning_rate": 1e-2, "max_epochs": 3, "random_state": 0, "refit": False, "optimization__dropout": 0.0}
SEEN: list[str] = []


def noted(text: str) -> str:
    """An operation of the user's that does nothing but look."""
    SEEN.append(text)
    return text


@pytest.fixture(scope="module")
def texts():
    words = ["cat", "mat", "sat", "on", "the", "a", "dog", "and"]
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(words, size=6)) for _ in range(30)], np.arange(30) % 2


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bert")
    tiny.BUILDERS["bert"](directory)
    return TextEmbedder(str(directory), device="cpu", precision="float32")


def _fit(embedder, texts, *, replay=True, **parameters):
    classifier = FineTuneClassifier(embedder).set_params(**{**SETTINGS, **parameters})
    classifier._replay = replay
    return classifier.fit(*texts)


@pytest.mark.parametrize("strategy", ["head", "partial"])
def test_training_samples_are_changed_anew_in_each_epoch_and_held_out_ones_never(embedder, texts, strategy):
    SEEN.clear()
    classifier = _fit(embedder, texts, strategy=strategy, augment=noted)
    assert len(classifier.history_) == 3
    assert len(SEEN) == 3 * 24
    assert len(set(SEEN)) <= 24, "of thirty texts six are held out"
    assert not any(record["replayed"] for record in classifier.history_)
    assert "Augmentation(..., views=4)" in classifier.report_


@pytest.mark.parametrize("strategy", ["head", "partial"])
def test_stored_views_are_made_once_and_replayed(embedder, texts, strategy):
    SEEN.clear()
    classifier = _fit(
        embedder, texts, strategy=strategy, augment=Augmentation(noted, views=3), max_epochs=9, patience=9
    )
    assert all(record["replayed"] for record in classifier.history_)
    # Two changed views of all samples, however many epochs; the third is the unchanged one.
    assert len(SEEN) == 2 * 30
    plain = _fit(embedder, texts, strategy=strategy, max_epochs=9, patience=9)
    np.testing.assert_allclose(
        [r["train_loss"] for r in classifier.history_], [r["train_loss"] for r in plain.history_], rtol=1e-4
    )


def test_views_differ_and_the_same_seed_gives_the_same(embedder, texts):
    parameters = {"strategy": "partial", "augment": [("word_dropout", {"rate": 0.5})]}
    losses = [
        [r["train_loss"] for r in _fit(embedder, texts, **{**parameters, **more}).history_]
        for more in ({}, {}, {"random_state": 1}, {"augment": Augmentation(views=4)}, {"augment": None})
    ]
    assert losses[0] == losses[1]
    assert len({tuple(each) for each in losses[1:]}) == 4


def test_views_are_the_same_replayed_and_computed_in_every_epoch(embedder, texts):
    parameters = {"strategy": "partial", "augment": Augmentation("standard", views=2), "max_epochs": 4, "patience": 4}
    replayed, plain = (_fit(embedder, texts, replay=replay, **parameters) for replay in (True, False))
    # The plain one begins with the second view.
    assert [r["replayed"] for r in plain.history_] == [False] * 4
    assert np.isfinite([r["train_loss"] for r in replayed.history_ + plain.history_]).all()


def test_predictions_of_several_views_are_averaged(embedder, texts):
    X, _ = texts
    operation = WordDropout(rate=0.4)
    classifier = _fit(embedder, texts, strategy="head", augment=operation)
    single = classifier.decision_function(X)
    many = classifier.set_params(n_views=4).decision_function(X)
    assert np.abs(many - single).max() > 1e-3
    np.testing.assert_array_equal(many, classifier.decision_function(X))
    # Against the operation itself, applied beforehand and embedded plainly.
    from skembed.augment import sample_rng

    outputs = [
        classifier.set_params(n_views=1).decision_function(
            [operation.on_sample(text, sample_rng(0, view, i)) for i, text in enumerate(X)]
        )
        for view in (1, 2, 3)
    ]
    np.testing.assert_allclose(many, np.mean([single, *outputs], axis=0), atol=1e-5)


def test_an_unknown_operation_is_an_error_before_anything_is_computed(embedder, texts):
    with pytest.raises(ValueError, match=r"augment: 'word_drop' is not known\. Did you mean 'word_dropout'"):
        _fit(embedder, texts, augment="word_drop")
