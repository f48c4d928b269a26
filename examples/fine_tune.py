"""Digits that a network for photographs has never seen: a frozen probe, and training as deep as it helps.

    python examples/fine_tune.py [n_train]

Runs offline in about two minutes on two cores.
"""

from __future__ import annotations

import argparse
import pickle

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from skembed import FineTuneClassifier, ImageEmbedder


def enlarged(image: np.ndarray) -> np.ndarray:
    """An 8 x 8 digit as an RGB image of 64 x 64."""
    return np.repeat((image * 15.9).astype(np.uint8)[..., None], 3, axis=2).repeat(8, axis=0).repeat(8, axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("n_train", type=int, nargs="?", default=300, help="digits to train on, 20 to 1,700")
    n_train = parser.parse_args().n_train
    # Ten classes, and two digits of each for the fit to train on and to validate with.
    if not 20 <= n_train <= 1700:
        parser.error(f"n_train is {n_train}; use a number from 20 to 1700")
    run(n_train)


def run(n_train: int) -> None:
    """Compare a frozen probe with fine-tuning, and use what was learned elsewhere."""
    digits = load_digits()
    images = [enlarged(image) for image in digits.images]
    X, X_test, y, y_test = train_test_split(
        images, digits.target, train_size=n_train, stratify=digits.target, random_state=0
    )
    embedder = ImageEmbedder(image_size=64)
    classifier = FineTuneClassifier(embedder, random_state=0, verbose=1).fit(X, y)
    print(f"\n{classifier.report_}\n")
    probe = FineTuneClassifier(embedder, max_epochs=0, random_state=0).fit(X, y)
    print(f"frozen probe {probe.score(X_test, y_test):.3f}, fine-tuned {classifier.score(X_test, y_test):.3f}")
    sizes = len(pickle.dumps(classifier)) / 1e6, len(pickle.dumps(probe)) / 1e3
    print(f"pickle: {sizes[0]:.1f} MB, the frozen probe's {sizes[1]:.0f} kB")
    # What was learned serves other estimators.
    again = FineTuneClassifier(classifier.embedder_, max_epochs=0, random_state=0).fit(X, y)
    frozen, tuned = (
        make_pipeline(base, LogisticRegression(max_iter=1000)).fit(X, y) for base in (embedder, classifier.embedder_)
    )
    print(
        f"on the tuned embeddings: the probe fitted anew {again.score(X_test, y_test):.3f}, scikit-learn's logistic "
        f"regression {tuned.score(X_test, y_test):.3f} (on the frozen ones {frozen.score(X_test, y_test):.3f})\n"
        "The tuned head followed the blocks step by step while they moved; a probe that is fitted anew is at the\n"
        "optimum for where they ended. The logistic regression differs from the probe on frozen embeddings too: it\n"
        "takes them as they are, with C=1, and the probe standardises them first."
    )


if __name__ == "__main__":
    main()
