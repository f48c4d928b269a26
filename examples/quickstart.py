"""From raw texts and images to cross-validated classifiers, on data that comes with installed packages.

    python examples/quickstart.py

Runs offline in under two minutes on two cores.
"""

from __future__ import annotations

import argparse
import inspect
import pickle
import pkgutil
import re
import time
import warnings

import numpy as np
import pandas as pd
from common import classifier, score, score_embeddings, table
from sklearn.datasets import load_digits
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skembed import ImageEmbedder, TextEmbedder

LIBRARIES = {
    "numpy": ["numpy", "numpy.linalg", "numpy.ma", "numpy.random", "numpy.polynomial.polynomial"],
    "scipy": ["scipy.stats", "scipy.signal", "scipy.optimize", "scipy.sparse", "scipy.ndimage"],
    "sklearn": ["sklearn.metrics", "sklearn.linear_model", "sklearn.ensemble", "sklearn.preprocessing"],
    "torch": ["torch.nn", "torch.nn.functional", "torch.optim", "torch.distributions"],
    "pandas": ["pandas", "pandas.Series", "pandas.DataFrame", "pandas.Index", "pandas.Timestamp"],
}
NAMES = re.compile("|".join([*LIBRARIES, "scikit-learn", "tensor", "dataframe", "series", "ndarray"]), re.IGNORECASE)


def summary(thing) -> str:
    """First paragraph of prose in a docstring, with the libraries' own names blotted out."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in (inspect.getdoc(thing) or "").split("\n\n"))
    prose = (p for p in paragraphs if len(p) > 30 and p[0].isalpha() and "(" not in p[:40] and "---" not in p)
    return NAMES.sub("_", next(prose, ""))


def docstrings(per_library: int = 80) -> tuple[list[str], list[str]]:
    """Summaries of public functions and classes, labelled by their library."""
    texts, labels = [], []
    for library, homes in LIBRARIES.items():
        found = set()
        for home in homes:
            owner = pkgutil.resolve_name(home)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # some names only warn that they are deprecated
                found |= {summary(getattr(owner, name, None)) for name in dir(owner) if not name.startswith("_")}
        chosen = np.random.default_rng(0).permutation(sorted(found - {""}))[:per_library]
        texts += chosen.tolist()
        labels += [library] * len(chosen)
    return texts, labels


def learning_curve(texts: list[str], labels: list[str], sizes=(25, 50, 100, 200)) -> pd.DataFrame:
    """Accuracy on 150 held-out texts by the number of labelled ones, ten random splits each."""
    baseline = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=500))
    # A frozen embedder learns nothing from its input: embedding once, before the splits, leaks nothing.
    rows = TextEmbedder(long_text="chunk", verbose=True).fit_transform(texts)
    curve = []
    for size in sizes:
        splits = StratifiedShuffleSplit(10, train_size=size, test_size=150, random_state=0)
        curve.append(
            {
                "labelled texts": size,
                "TF-IDF": cross_val_score(baseline, np.array(texts), labels, cv=splits).mean(),
                "TextEmbedder": cross_val_score(classifier(), rows, labels, cv=splits).mean(),
            }
        )
    return pd.DataFrame(curve).round(3)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    start = time.perf_counter()
    texts, libraries = docstrings()
    print(f"{len(texts)} first paragraphs of docstrings; which library is each from? For example:\n  {texts[0]!r}\n")
    curve = learning_curve(texts, libraries)

    digits = load_digits()
    chosen = np.random.default_rng(0).permutation(len(digits.images))[:500]
    images, numbers = (digits.images[chosen] * 15).astype(np.uint8), digits.target[chosen]
    image_results = [
        score("raw pixels", classifier(), images.reshape(len(images), -1), numbers),
        score_embeddings("ImageEmbedder()", ImageEmbedder(verbose=True), images, numbers),
        score_embeddings("ImageEmbedder(layers=-2)", ImageEmbedder(layers=-2, verbose=True), images, numbers),
    ]

    print("\nA grid search over the embedder's own parameters, like any other estimator's:")
    train, test, y_train, y_test = train_test_split(texts, libraries, stratify=libraries, random_state=0)
    search = GridSearchCV(
        make_pipeline(TextEmbedder(long_text="chunk"), StandardScaler(), LogisticRegression(max_iter=500)),
        {"textembedder__layers": [-1, [-2, -1]]},
        cv=3,
    ).fit(train, y_train)
    print(f"  best {search.best_params_}\n  accuracy on held-out texts {search.score(test, y_test):.3f}")

    content = pickle.dumps(search.best_estimator_)
    same = (pickle.loads(content).predict(test) == search.predict(test)).all()
    embedder = len(pickle.dumps(search.best_estimator_[0]))
    print(
        f"\nPickle: the whole pipeline {len(content) / 1000:.0f} kB, its embedder {embedder / 1000:.1f} kB; "
        f"after loading it the predictions {'are the same' if same else 'DIFFER'}."
    )

    print(f"\nWhich library is a docstring from? Accuracy by labelled texts\n{curve.to_string(index=False)}")
    print(f"\nWhich digit is it? ({len(images)} images of 8 x 8 pixels, 5 folds)\n{table(image_results)}")
    print("Such digits are far from the photographs that the backbone was trained on: a lower layer suits them better")
    print("than the last. `layers` is a parameter to search over; list_backbones() names other backbones.")
    print(f"\n{time.perf_counter() - start:.0f} seconds in all.")


if __name__ == "__main__":
    main()
