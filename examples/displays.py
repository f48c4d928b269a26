"""Pictures of choosing, training and predicting: one PNG a display.

    python examples/displays.py [DIRECTORY]

Runs offline in about a minute on two cores and writes to a temporary directory if none is named. Needs
``pip install -e ".[bundled,plot]"``. Images are scikit-learn's digits, texts the first paragraphs of docstrings, to be
told apart by their library.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from own_data import clear_errors
from quickstart import docstrings
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skembed import FineTuneClassifier, ImageEmbedder, Progressive, TextEmbedder, rank_backbones
from skembed.displays import (
    ConfusionExamplesDisplay,
    DriftDisplay,
    EmbeddingMapDisplay,
    FineTuneDisplay,
    LayerProbeDisplay,
    TransferabilityDisplay,
)


def digits(n: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Digits of 8 x 8 pixels, dark on white."""
    found = load_digits()
    chosen = np.random.default_rng(0).permutation(len(found.images))[:n]
    return [(255 - 15.9 * found.images[i]).astype(np.uint8) for i in chosen], found.target[chosen]


def pictures_of_digits():
    """Layers, a fine-tuning, what it changed, the map that it made, and what it still confuses."""
    images, numbers = digits(700)
    X, X_test, y, y_test = train_test_split(images, numbers, train_size=250, stratify=numbers, random_state=0)
    # They gain nothing from being enlarged to more than this.
    embedder = ImageEmbedder(image_size=64)
    yield "layers", LayerProbeDisplay.from_embedder(embedder, X, y)
    table = rank_backbones(X, y, {"EfficientNet-Lite0": embedder}, layers=[1, 2, 3, 4, 5, 6, -1], scores=["logme"])
    yield "ranking", TransferabilityDisplay.from_ranking(table)
    classifier = FineTuneClassifier(
        embedder, strategy=Progressive(stage_epochs=3), max_epochs=15, refit=False, random_state=0
    ).fit(X, y)
    print(classifier.report_)
    yield "history", FineTuneDisplay.from_estimator(classifier)
    yield "drift", DriftDisplay.from_estimator(classifier, X_test[:100])
    yield "map_frozen", EmbeddingMapDisplay.from_embedder(embedder, X_test, y_test, thumbnails=True)
    yield "map_tuned", EmbeddingMapDisplay.from_estimator(classifier, X_test, y_test, thumbnails=True)
    yield "confusions_images", ConfusionExamplesDisplay.from_estimator(classifier, X_test, y_test)


def pictures_of_texts():
    """A map and the confusions of a pipeline over texts."""
    texts, libraries = docstrings()
    X, X_test, y, y_test = train_test_split(texts, libraries, stratify=libraries, random_state=0)
    embedder = TextEmbedder(long_text="chunk")
    pipeline = make_pipeline(embedder, StandardScaler(), LogisticRegression(max_iter=500)).fit(X, y)
    yield "map_texts", EmbeddingMapDisplay.from_embedder(embedder, texts, libraries)
    yield "confusions_texts", ConfusionExamplesDisplay.from_estimator(pipeline, X_test, y_test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, nargs="?", help="where to write the pictures; by default a new one")
    arguments = parser.parse_args()
    directory = arguments.directory or Path(tempfile.mkdtemp(prefix="skembed-displays-"))
    with clear_errors(parser):
        directory.mkdir(parents=True, exist_ok=True)
    draw(directory)


def draw(directory: Path) -> None:
    """Write each display to a file of its name."""
    start = time.perf_counter()
    for pictures in (pictures_of_digits(), pictures_of_texts()):
        for name, display in pictures:
            path = directory / f"{name}.png"
            display.figure_.savefig(path, dpi=110)
            plt.close(display.figure_)
            print(f"{time.perf_counter() - start:5.1f} s  {type(display).__name__}: {path}", flush=True)


if __name__ == "__main__":
    main()
