"""Which layer and which pooling suit these images? Ask before training anything, and then check the answer.

    python examples/choose_backbone.py [PATH] [--plot FILE] [--save FILE]

Needs pip install -e ".[bundled,plot]". PATH is a folder with one sub-folder per class; without it, handwritten digits
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
from common import FOLDS, classifier, fit_and_save, most_confused
from image_folder import SUFFIXES, thumbnails
from own_data import InputError, check_classes, check_writable, clear_errors, read_folder
from scipy.stats import kendalltau
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skembed import ImageEmbedder
from skembed.selection import BackboneSelector, TransferabilityDisplay, rank_backbones

LAYERS = [1, 2, 3, 4, 5, 6, -1]
# The first sorts and chooses. Over four sets of images, "knn" had a mean tau of .72 with the accuracy, and its choice
# lacked 1.1 points; "logme" had .67 and 2.6. On texts and recordings "logme" is better: .55 and .29 over seven sets.
SCORES = ["knn", "logme", "h_score", "nleep", "transrate"]
EXPLANATION = """\
One line per backbone, layer and pooling. In each column of scores, higher is better; compare within a column only.
  knn        accuracy of the five nearest neighbors, cross-validated
  logme      log evidence of a linear model, in nats per sample, of either sign
  h_score    variance between the classes in units of the whole; at most the number of classes less one
  nleep      log-likelihood of the classes given clusters of the embeddings, in nats per sample; at most 0
  transrate  information that the embeddings hold about the classes, in nats per sample
  accuracy   of a linear classifier, cross-validated: what the other scores are to predict
embedding_seconds are for all images, width counts features, and megabytes are those of the weights."""
AGREEMENT = """\
How well each score predicts the accuracy. A tau of 1 means that both put all candidates into the same order, 0 that
they are unrelated, -1 the reverse. The accuracy of a score's choice is at best that in the last line."""


def candidates(image_size: int | None) -> dict:
    """Two poolings of one backbone, which are tried with all layers, and the baseline."""
    return {
        "EfficientNet-Lite0": ImageEmbedder(image_size=image_size),
        "EfficientNet-Lite0, max": ImageEmbedder(image_size=image_size, pooling="max"),
        "pixels, 8 x 8": FunctionTransformer(thumbnails, kw_args={"size": 8}),
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
        return read_folder(path, SUFFIXES, "images")
    digits = load_digits()
    chosen = np.random.default_rng(0).permutation(len(digits.images))[:300]
    return list((digits.images[chosen] * 15).astype(np.uint8)), digits.target[chosen].tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, nargs="?", help="folder with one sub-folder per class")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="where to write the picture; by default a new folder")
    parser.add_argument("--save", type=Path, metavar="FILE", help="where to write the model; PATH's name + .joblib")
    arguments = parser.parse_args()
    with clear_errors(parser):
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    """Rank the candidates, choose one in a pipeline, and save it for the images of a folder."""
    if arguments.plot is not None:
        check_writable(arguments.plot)
    path = check_writable(arguments.save or Path(f"{(arguments.path or Path('digits')).resolve().name}.joblib"))
    images, labels = read(arguments.path)
    check_classes(labels)
    print(f"{len(images)} images of {len(set(labels))} classes\n")

    # Digits of 8 x 8 pixels gain nothing from being blown up to more than 64.
    tried = candidates(64 if arguments.path is None else None)
    try:
        table = rank_backbones(images, labels, tried, layers=LAYERS, scores=[*SCORES, accuracy])
    except ValueError as error:
        # No candidate can read the images; the message names the first that is damaged.
        raise InputError(str(error)) from error
    shown = ["candidate", "layers", *SCORES, "accuracy", "embedding_seconds", "width", "megabytes"]
    print(f"{EXPLANATION}\n\n{table[shown].round(3).to_string(index=False)}\n")
    print(f"{AGREEMENT}\n\n{agreement(table).to_string(index=False)}\n")
    picture = arguments.plot or Path(tempfile.mkdtemp()) / "ranking.png"
    TransferabilityDisplay.from_ranking(table).figure_.savefig(picture, dpi=120)
    print(f"Picture: {picture}")
    best = choose(tried, images, labels)
    # The digits are not files, and so nothing to try a saved model with.
    if arguments.path is not None:
        print(fit_and_save(make_pipeline(best, classifier()), images, labels, path, sample=images[0]))


def choose(tried: dict, images: list, labels: list):
    """Choose by the training images alone, print what that reaches on the others, and return the choice."""
    X, X_test, y, y_test = train_test_split(images, labels, stratify=labels, random_state=0)
    pipeline = make_pipeline(BackboneSelector(tried, layers=LAYERS, criterion=SCORES[0]), classifier())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        predictions = pipeline.fit(X, y).predict(X_test)
    best = pipeline[0].ranking_[0]
    chance = max(y_test.count(label) for label in set(y)) / len(y_test)
    print(f"\nIn a pipeline, from the training images alone: {best['candidate']}, layers={best['layers']}.")
    print(f"Accuracy on {len(y_test)} held-out images: {np.mean(predictions == np.array(y_test)):.3f}")
    print(f"Always predicting the most frequent class: {chance:.3f}\n{most_confused(y_test, predictions)}")
    return clone(pipeline[0].best_embedder_)


if __name__ == "__main__":
    main()
