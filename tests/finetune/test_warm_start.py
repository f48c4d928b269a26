"""Warm starts: what is taken from the earlier fit is matched by its meaning and never by its shape."""

from __future__ import annotations

import numpy as np
import pytest

from skembed import FineTuneClassifier, FineTuneRegressor
from skembed.testing import ArrayEmbedder, array_backbone

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 4)).astype(np.float32)
#: Four classes, one for each quadrant.
CODES = (X[:, 0] > 0) + 2 * (X[:, 1] > 0)
Y = np.array(["ant", "bee", "cat", "dog"])[CODES]
PROBE = {"max_epochs": 0, "validation_fraction": None, "random_state": 0}
TRAINED = {"strategy": "full", "max_epochs": 4, "learning_rate": 1e-2, "validation_fraction": None, "random_state": 0}


def other_backbone(n_features: int = 4):
    return array_backbone(n_features, width=8, depth=3)


def _embedder(**parameters):
    return ArrayEmbedder(precision="float32", **parameters)


def _classifier(**parameters):
    return FineTuneClassifier(_embedder(), warm_start=True).set_params(**{**PROBE, **parameters})


def test_renamed_classes_are_new_classes():
    """The issue's case: the old head, put on by its shape, named every sample wrongly."""
    classifier = _classifier().fit(X, Y)
    expected = classifier.score(X, Y)
    renamed = np.array(["zebra", "yak", "wolf", "vole"])[CODES]  # sorted the other way round
    assert classifier.fit(X, renamed).score(X, renamed) == expected
    assert classifier.classes_.tolist() == ["vole", "wolf", "yak", "zebra"]


def test_rows_of_the_head_follow_their_classes():
    """Of classes that moved in the order, and of some of them alone."""
    classifier = _classifier().fit(X, Y)
    logits = dict(zip(classifier.classes_, classifier.head_coef_, strict=True))
    some = CODES > 0  # "ant" is gone: each class moves up by one
    classifier.fit(X[some], Y[some])
    assert classifier.classes_.tolist() == ["bee", "cat", "dog"]
    for label, row in zip(classifier.classes_, classifier.head_coef_, strict=True):
        np.testing.assert_allclose(row, logits[label], atol=1e-9)


def test_classes_of_another_type_are_other_classes():
    classifier = _classifier().fit(X, CODES)
    expected = classifier.score(X, CODES)
    text = (3 - CODES).astype(str)
    assert classifier.fit(X, text).score(X, text) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("fraction", [None, 0.3])
def test_a_new_class_is_learned_beside_the_known_ones(fraction):
    cold = (
        FineTuneClassifier(_embedder()).set_params(**{**PROBE, "validation_fraction": fraction}).fit(X, Y).score(X, Y)
    )
    known = CODES != 1  # "bee" comes later, between the others
    classifier = _classifier(validation_fraction=fraction).fit(X[known], Y[known])
    assert classifier.fit(X, Y).score(X, Y) > cold - 0.1
    assert classifier.classes_.tolist() == ["ant", "bee", "cat", "dog"]
    assert classifier.head_coef_.shape == (4, 8)


def test_the_trained_backbone_goes_on_with_other_classes():
    classifier = _classifier(**TRAINED).fit(X, Y)
    rows = classifier.transform(X)
    classifier.set_params(max_epochs=0).fit(X, np.where(CODES > 1, "high", "low"))
    np.testing.assert_array_equal(classifier.transform(X), rows)


def test_labels_and_classes_are_not_matched_with_each_other():
    """Two columns of labels make a head of the shape of two classes."""
    labels = np.column_stack([CODES % 2, CODES // 2])
    expected = FineTuneClassifier(_embedder(), **PROBE).fit(X, labels).predict_proba(X)
    classifier = _classifier().fit(X, CODES // 2)
    np.testing.assert_allclose(classifier.fit(X, labels).predict_proba(X), expected, atol=1e-9)


@pytest.mark.parametrize("columns", [1, 3])
def test_another_number_of_targets_is_an_error(columns):
    regressor = FineTuneRegressor(_embedder(), warm_start=True, **PROBE).fit(X, X[:, :2].astype(float))
    with pytest.raises(ValueError, match=rf"warm_start=True: y has {columns} columns and had 2"):
        regressor.fit(X, X[:, :columns].astype(float))


def test_targets_in_other_units_are_not_mistaken_for_the_old_ones():
    """The head's outputs are standardized, with a mean and a scale that each fit has of its own."""
    celsius = 20 + 5 * X[:, 0].astype(float)
    regressor = FineTuneRegressor(_embedder(), warm_start=True, **PROBE).fit(X, celsius)
    before = regressor.predict(X)
    regressor.fit(X[:40], celsius[:40] + 300)
    np.testing.assert_allclose(regressor.predict(X), before, atol=1e-6)


@pytest.mark.parametrize("changed", [{"pooling": "max"}, {"layers": 0}, {"normalize": True}, {"truncate_dim": 5}])
def test_changed_parameters_of_the_embedder_apply(changed):
    """Its features mean something else: the head begins afresh, on the trained backbone."""
    classifier = _classifier(**TRAINED).fit(X, Y)
    trained = classifier.embedder_.backbone
    classifier.set_params(max_epochs=0, **{f"embedder__{name}": value for name, value in changed.items()}).fit(X, Y)
    assert all(getattr(classifier.embedder_, name) == value for name, value in changed.items())
    assert classifier.embedder_.backbone is trained
    head = FineTuneClassifier(classifier.embedder_, **PROBE).fit(X, Y)
    np.testing.assert_allclose(classifier.predict_proba(X), head.predict_proba(X), atol=1e-9)


def test_parameters_that_change_no_meaning_keep_the_head():
    classifier = _classifier(**TRAINED).fit(X, Y)
    expected = classifier.predict_proba(X)
    classifier.set_params(max_epochs=0, embedder__batch_size=7, embedder__on_error="nan").fit(X, Y)
    assert classifier.embedder_.batch_size == 7
    assert classifier.embedder_.on_error == "nan"
    np.testing.assert_allclose(classifier.predict_proba(X), expected, atol=1e-6)


def test_another_backbone_begins_afresh():
    classifier = _classifier(**TRAINED).fit(X, Y)
    classifier.set_params(max_epochs=0, embedder__backbone=other_backbone).fit(X, Y)
    expected = FineTuneClassifier(_embedder(backbone=other_backbone), **PROBE).fit(X, Y)
    np.testing.assert_array_equal(classifier.predict_proba(X), expected.predict_proba(X))
    assert classifier.embedder_.fingerprint_ == expected.embedder_.fingerprint_


def test_the_same_backbone_by_another_spelling_goes_on():
    classifier = _classifier(**TRAINED).fit(X, Y)
    trained = classifier.embedder_.backbone
    spelled = "skembed.testing.double:array_backbone"
    classifier.set_params(max_epochs=0, embedder=_embedder(backbone=spelled)).fit(X, Y)
    assert classifier.embedder_.backbone is trained
