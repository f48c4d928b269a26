"""Advice and diagnosis on real texts and images: faults that are put in are named, and others are not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from skembed import FineTuneClassifier, ImageEmbedder, TextEmbedder, advise, diagnose

pytestmark = pytest.mark.realdata


@pytest.fixture(scope="module")
def topics(data):
    table = pd.read_csv(data / "package_topics.csv").drop_duplicates("text").sample(600, random_state=0)
    return table["text"].to_numpy(), table["topic"].to_numpy()


@pytest.fixture(scope="module")
def embedder():
    return TextEmbedder(cache="memory")


def test_faults_of_texts_are_named_before_training(topics, embedder):
    X, y = topics
    healthy = advise(X, y, embedder)
    assert not {"no signal", "label noise", "far domain", "unknown words"} & {found.name for found in healthy.findings}
    assert healthy.strategy.name == "progressive"
    assert "no signal" in advise(X, np.random.default_rng(0).permutation(y), embedder)
    assert advise(np.append(X, X[:60]), np.append(y, y[:60]), embedder)["leakage"].severity == "serious"
    codes = [[chr(0x430 + ord(letter) % 32) for letter in text] for text in X[:200]]
    assert "unknown words" in advise(["".join(code) for code in codes], y[:200], embedder)


def test_flipped_labels_of_texts_are_found(topics, embedder):
    """Measured: precision 0.56, recall 0.67, where a probe is right on about 0.82 of the texts."""
    X, y = topics
    rng, classes = np.random.default_rng(0), np.unique(y)
    flipped = rng.permutation(len(y))[:60]
    noisy = y.copy()
    noisy[flipped] = [rng.choice(classes[classes != label]) for label in y[flipped]]
    found = advise(X, noisy, embedder)["label noise"].samples
    print(f"precision {np.isin(found, flipped).mean():.2f}, recall {np.isin(flipped, found).mean():.2f}")
    assert np.isin(found, flipped).mean() >= 0.45
    assert np.isin(flipped, found).mean() >= 0.55


def test_a_fit_of_texts_is_healthy_and_a_hasty_one_is_not(topics, embedder):
    X, y = topics
    settings = {"strategy": "partial", "max_epochs": 3, "random_state": 0}
    healthy = FineTuneClassifier(embedder, **settings).fit(X[:450], y[:450])
    found = diagnose(healthy, X[450:], y[450:])
    assert {each.name for each in found.findings if each.severity != "note"} == {"class imbalance"}, found
    assert "'education' (2 samples, 0 held out)" in found["class imbalance"].evidence
    hasty = FineTuneClassifier(embedder, learning_rate=0.3, **settings).fit(X[:450], y[:450])
    assert {"instability", "negative transfer"} <= set(hasty.diagnosis_.names)


def test_digits_are_far_from_photographs_and_photographs_are_not(data):
    from sklearn.datasets import load_digits

    digits = load_digits(n_class=5)
    images = [np.repeat(image[..., None] * 15.9, 3, axis=2).astype(np.uint8).repeat(8, 0).repeat(8, 1)
              for image in digits.images[:250]]  # fmt: skip
    embedder = ImageEmbedder(image_size=64, cache="memory")
    assert "far domain" in advise(images, digits.target[:250], embedder)
    paths = sorted((data / "images").glob("*/*.jpg"))
    assert "far domain" not in advise(paths, [path.parent.name for path in paths], ImageEmbedder(image_size=128))
