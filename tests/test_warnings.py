"""Warnings point at the user's line, and those about settings are given once per process."""

from __future__ import annotations

import warnings

import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_validate
from sklearn.pipeline import make_pipeline

from skembed import FineTuneClassifier, TextEmbedder
from skembed.exceptions import TruncationWarning
from tests.backbones.tiny import bert

TEXTS = [f"the cat sat on the mat and the dog looked at it {i}" for i in range(12)]
LABELS = [0, 1] * 6


def _given(work):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work()
    return [(each.category, each.filename, str(each.message)) for each in caught]


def test_a_cross_validation_warns_of_cut_texts_once(tmp_path):
    bert(tmp_path)
    pipeline = make_pipeline(TextEmbedder(str(tmp_path), max_length=5), LogisticRegression())
    given = _given(lambda: cross_validate(pipeline, TEXTS, LABELS, cv=3))
    (message,) = [message for category, _, message in given if category is TruncationWarning]
    assert message.startswith("8 of 8 texts")
    assert {filename for _, filename, _ in given} == {__file__}


def test_a_warning_that_was_silenced_is_given_later(tmp_path):
    bert(tmp_path)
    embedder = TextEmbedder(str(tmp_path), max_length=5)
    classifier = FineTuneClassifier(embedder, strategy="auto", max_epochs=0, random_state=0)
    given = _given(lambda: classifier.fit(TEXTS, LABELS))
    assert [category for category, _, _ in given].count(TruncationWarning) == 1


def test_other_settings_warn_again(tmp_path):
    bert(tmp_path)
    for max_length in (5, 6):
        with pytest.warns(TruncationWarning):
            TextEmbedder(str(tmp_path), max_length=max_length).fit_transform(TEXTS)
