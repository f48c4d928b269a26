"""How accurate fine-tuning is against a frozen probe, on held-out data that no fit has seen.

    python -m benchmarks.accuracy [--only topics images digits] [--repeats 3] [--train 600]

For each data set and each repeat one stratified split: raw features (TF-IDF, pixels) with a logistic regression, a
frozen probe (`StandardScaler` and a logistic regression on all training samples' embeddings), and
`FineTuneClassifier` with each strategy and otherwise its defaults. Accuracy, seconds and epochs; the standard deviation
is over the repeats. Digits are scikit-learn's, 8 x 8 pixels enlarged: a domain far from the photographs that the
network was trained on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from benchmarks import data
from benchmarks.common import RESULTS, Goal, document, print_table, write
from skembed import FineTuneClassifier, ImageEmbedder, TextEmbedder

__all__ = ["GOALS", "main"]

STRATEGIES = ("head", "partial", "progressive", "full")
RAW, PROBE = "raw features", "frozen probe"


class Labelled(NamedTuple):
    """Samples, their labels, and how they are read."""

    X: list
    y: np.ndarray
    embedder: Any
    raw: Any
    n_train: int


def _topics(n_train: int) -> Labelled:
    texts, labels, _ = data.labelled_texts(2400)
    raw = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10, max_iter=500))
    return Labelled(texts, np.array(labels), TextEmbedder(data.minilm(), device="cpu"), raw, n_train)


def _images(n_train: int) -> Labelled:
    paths = data.images(1000).samples
    embedder = ImageEmbedder(data.efficientnet(), device="cpu")
    return Labelled(paths, np.array([Path(path).parent.name for path in paths]), embedder, None, n_train)


def _digits(n_train: int) -> Labelled:
    from sklearn.datasets import load_digits

    digits = load_digits()
    enlarged = [
        np.repeat((image * 15.9).astype(np.uint8)[..., None], 3, 2).repeat(8, 0).repeat(8, 1) for image in digits.images
    ]
    embedder = ImageEmbedder(data.efficientnet(), image_size=64, device="cpu")
    flat = FunctionTransformer(lambda images: np.stack([image[::8, ::8, 0].ravel() for image in images]))
    raw = make_pipeline(flat, StandardScaler(), LogisticRegression(max_iter=500))
    return Labelled(enlarged, digits.target, embedder, raw, n_train)


SETS: dict[str, tuple[Callable[[int], Labelled], int]] = {
    "topics": (_topics, 600),
    "images": (_images, 230),
    "digits": (_digits, 400),
}


def _one_split(labelled: Labelled, seed: int, strategies: Sequence[str]) -> dict[str, dict[str, float]]:
    """Accuracy, seconds and epochs of each way on one split."""
    X, y = labelled.X, labelled.y
    X, X_test, y, y_test = train_test_split(X, y, train_size=labelled.n_train, stratify=y, random_state=seed)
    X_test, y_test = X_test[:1000], y_test[:1000]
    found = {}

    def measure(name: str, fit: Callable[[], Any], X_test=X_test) -> None:
        start = time.perf_counter()
        fitted = fit()
        seconds = time.perf_counter() - start
        found[name] = {
            "accuracy": float(fitted.score(X_test, y_test)),
            "seconds": seconds,
            "epochs": float(getattr(fitted, "n_epochs_", 0)),
            "kept_probe": float(getattr(fitted, "kept_", "") == "probe"),
        }

    if labelled.raw is not None:
        measure(RAW, lambda: labelled.raw.fit(X, y))
    embedder = labelled.embedder
    rows, rows_test = embedder.fit_transform(X), embedder.transform(X_test)
    measure(PROBE, lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(rows, y), rows_test)
    for strategy in strategies:
        classifier = FineTuneClassifier(embedder, strategy=strategy, random_state=seed)
        measure(strategy, lambda classifier=classifier: classifier.fit(X, y))
        print(f"  {strategy}: {classifier.report_.splitlines()[-2]}", flush=True)
    return found


def _summary(splits: list[dict[str, dict[str, float]]]) -> list[dict[str, Any]]:
    rows = []
    for way in splits[0]:
        each = [split[way] for split in splits]
        accuracies = [one["accuracy"] for one in each]
        rows.append(
            {
                "way": way,
                "accuracy": float(np.mean(accuracies)),
                "std": float(np.std(accuracies, ddof=1)) if len(each) > 1 else 0.0,
                "gain over the probe": float(np.mean([s[way]["accuracy"] - s[PROBE]["accuracy"] for s in splits])),
                "seconds": float(np.median([one["seconds"] for one in each])),
                "epochs": float(np.median([one["epochs"] for one in each])),
                "kept the probe": float(np.mean([one["kept_probe"] for one in each])),
            }
        )
    return rows


def _gain(name: str) -> Callable[[Any], float]:
    def value(found) -> float:
        (row,) = [row for row in found["results"][name] if row["way"] == "progressive"]
        return 100 * row["gain over the probe"]

    return value


def _error_removed(found) -> float:
    rows = {row["way"]: row["accuracy"] for row in found["results"]["digits"]}
    return 100 * (rows["progressive"] - rows[PROBE]) / (1 - rows[PROBE])


GOALS = [
    Goal(f"{name}, progressive: points of accuracy", "a frozen probe", _gain(name), -1.0, " points")
    for name in ("topics", "images")
] + [Goal("digits (a far domain), progressive: error removed", "a frozen probe", _error_removed, 20, " %", digits=0)]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--train", type=int, default=None, help="training samples")
    parser.add_argument("--json", type=Path, default=RESULTS / "accuracy.json")
    options = parser.parse_args(arguments)
    results = {}
    for name in options.only:
        build, n_train = SETS[name]
        labelled = build(options.train or n_train)
        splits = []
        for seed in range(options.repeats):
            print(f"{name}, split {seed}", flush=True)
            splits.append(_one_split(labelled, seed, options.strategies))
        results[name] = _summary(splits)
        print_table(f"{name}: {labelled.n_train} training samples, {options.repeats} splits", results[name])
    write(document("accuracy", repeats=options.repeats, results=results), options.json)


if __name__ == "__main__":
    main()
