"""Digits and real weights: where the pre-training was on other images, the whole recipe has to pay.

A file of its own: it takes a minute, and another process runs the files after it meanwhile.
"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skembed import FineTuneClassifier, ImageEmbedder, Progressive

pytestmark = pytest.mark.bundled


def _enlarged(image):
    """An 8 x 8 digit as an RGB image of 32 x 32."""
    return np.repeat((image * 15.9).astype(np.uint8)[..., None], 3, axis=2).repeat(4, axis=0).repeat(4, axis=1)


def test_in_a_far_domain_fine_tuning_removes_much_of_the_error():
    digits = load_digits()
    X, X_test, y, y_test = train_test_split(
        [_enlarged(image) for image in digits.images],
        digits.target,
        train_size=400,
        test_size=500,
        stratify=digits.target,
        random_state=0,
    )
    embedder = ImageEmbedder(image_size=32)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    frozen = classifier.fit(embedder.fit_transform(X), y).score(embedder.transform(X_test), y_test)
    # All stages, with fewer epochs each than by default.
    tuned = FineTuneClassifier(embedder, strategy=Progressive(stage_epochs=3), max_epochs=15, random_state=0).fit(X, y)
    assert tuned.kept_ == "fine-tuned"
    assert tuned.score(X_test, y_test) > frozen + 0.2 * (1 - frozen)
