"""Which layer and which pooling suit these images? Ask before training anything, and then check the answer.

    python examples/choose_backbone.py [PATH] [--plot ranking.png]

Needs pip install -e ".[bundled,plot]". PATH is a folder with one sub-folder a class; without it, handwritten digits
that come with scikit-learn. Runs offline in under a minute on two cores: layers and poolings of the default backbone
are ranked by scores that train nothing, and compared with the accuracy that each of them reaches in cross-validation.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from common import FOLDS, classifier, require_classes
from image_folder import SUFFIXES
from PIL import Image
from scipy.stats import kendalltau
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skembed import ImageEmbedder
from skembed.selection import BackboneSelector, TransferabilityDisplay, rank_backbones

LAYERS = [1, 2, 3, 4, 5, 6, -1]
SCORES = ["logme", "h_score", "nleep", "transrate", "knn"]


def pixels(images) -> np.ndarray:
    """Raw pixels of 8 x 8 thumbnails, a baseline without a backbone."""
    opened = [Image.open(image) if isinstance(image, Path) else Image.fromarray(image) for image in images]
    return np.stack([np.asarray(image.convert("RGB").resize((8, 8))).ravel() / 255 for image in opened])


def candidates(image_size: int | None) -> dict:
    """Two poolings of one backbone, which are tried with all layers, and the baseline."""
    return {
        "EfficientNet-Lite0": ImageEmbedder(image_size=image_size),
        "EfficientNet-Lite0, max": ImageEmbedder(image_size=image_size, pooling="max"),
        "pixels": FunctionTransformer(pixels),
    }


def accuracy(rows, y) -> float:
    """A score of one's own: what a classifier reaches in five folds, which is what the other scores foretell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return cross_val_score(classifier(), rows, y, cv=FOLDS).mean()


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """How well each score foretells the accuracy: the order of all candidates, and its choice."""
    return pd.DataFrame(
        {
            "score": score,
            "Kendall's tau with accuracy": kendalltau(table[score], table["accuracy"]).statistic,
            "accuracy of its choice": table["accuracy"][table[score].idxmax()],
            "seconds for all candidates": table[f"{score}_seconds"].sum(),
        }
        for score in [*SCORES, "accuracy"]
    ).round(3)


def read(path: Path | None) -> tuple[list, list]:
    """Images and classes of a folder; or 300 digits of 8 x 8 pixels."""
    if path is not None:
        files = sorted(file for file in path.glob("*/*") if file.suffix.lower() in SUFFIXES)
        return files, [file.parent.name for file in files]
    digits = load_digits()
    chosen = np.random.default_rng(0).permutation(len(digits.images))[:300]
    return list((digits.images[chosen] * 15).astype(np.uint8)), digits.target[chosen].tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, nargs="?", help="folder with one sub-folder a class")
    parser.add_argument("--plot", type=Path, help="where to write the picture; a temporary file if not given")
    arguments = parser.parse_args()
    images, labels = read(arguments.path)
    require_classes(labels)
    print(f"{len(images)} images of {len(set(labels))} classes\n")

    # Digits of 8 x 8 pixels gain nothing from being blown up to more than 64.
    tried = candidates(64 if arguments.path is None else None)
    table = rank_backbones(images, labels, tried, layers=LAYERS, scores=[*SCORES, accuracy])
    shown = ["candidate", "layers", *SCORES, "accuracy", "embedding_seconds", "width", "megabytes"]
    print(f"{table[shown].round(3).to_string(index=False)}\n\n{agreement(table).to_string(index=False)}\n")

    X, X_test, y, y_test = train_test_split(images, labels, stratify=labels, random_state=0)
    selector = BackboneSelector(tried, layers=LAYERS, criterion="knn")
    pipeline = make_pipeline(selector, classifier()).fit(X, y)
    best = pipeline[0].ranking_[0]
    print(f"In a pipeline, from the training images alone: {best['candidate']}, layers={best['layers']}.")
    print(f"Accuracy on held-out images: {pipeline.score(X_test, y_test):.3f}")

    path = arguments.plot or Path(tempfile.mkdtemp()) / "ranking.png"
    TransferabilityDisplay.from_ranking(table).figure_.savefig(path, dpi=120)
    print(f"Picture: {path}")


if __name__ == "__main__":
    main()
