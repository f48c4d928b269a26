"""The ways to search a pipeline of embedder and classifier, each to be run in a process of its own."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from benchmarks import data
from benchmarks.peers import peer, skrub_encoder

__all__ = ["DISK", "IDEAL", "NO_CACHE", "OURS", "PIPELINE_MEMORY", "WAYS", "SearchWay", "search"]

IDEAL = "ideal"
OURS = "skembed"
DISK = "skembed, disk"
NO_CACHE = "skembed, no cache"
PIPELINE_MEMORY = "Pipeline(memory=)"


class TimedClassifier(LogisticRegression):
    """Counts the seconds that fitting and scoring it took."""

    seconds: ClassVar[float] = 0.0

    def fit(self, X, y, sample_weight=None):
        with self._counted():
            return super().fit(X, y, sample_weight)

    def score(self, X, y, sample_weight=None):
        with self._counted():
            return super().score(X, y, sample_weight)

    @staticmethod
    @contextlib.contextmanager
    def _counted():
        start = time.perf_counter()
        yield
        TimedClassifier.seconds += time.perf_counter() - start


@dataclass(frozen=True)
class SearchWay:
    """One way to search.

    Parameters
    ----------
    build : callable
        Takes a directory for a store, loads what is to be loaded, and returns the pipeline's embedder and
        whatever `Pipeline(memory=)` is to be.
    keeps : bool
        Whether something is left in the store that a second process can use.
    slow : bool
        Whether it embeds each text many times.
    first : bool
        Whether the embedder runs once, before the search.
    """

    build: Callable[[str], tuple[Any, str | None]]
    keeps: bool = False
    slow: bool = True
    first: bool = False


def search(way: SearchWay, n: int, blas_threads: int | None, store: str) -> dict[str, float]:
    """Seconds of one whole search, those of its classifier, and its best score."""
    import pandas as pd
    from threadpoolctl import threadpool_limits

    texts, labels, _ = data.labelled_texts(n)
    column, y = pd.Series(texts, name="text"), np.array(labels)
    with threadpool_limits(blas_threads, user_api="blas"):
        embedder, memory = way.build(store)
        start = time.perf_counter()
        if way.first:
            found = _grid(TimedClassifier(max_iter=500), "C").fit(embedder.fit_transform(column), y)
        else:
            steps = [("embed", embedder), ("classify", TimedClassifier(max_iter=500))]
            found = _grid(Pipeline(steps, memory=memory), "classify__C").fit(column, y)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "classifier_seconds": TimedClassifier.seconds, "score": float(found.best_score_)}


def _grid(estimator, name: str) -> GridSearchCV:
    return GridSearchCV(estimator, {name: np.logspace(-2, 3, 8)}, cv=StratifiedKFold(5))


# -- ways -------------------------------------------------------------------------------------------------


def _ours(store: str, cache: Any = "auto") -> tuple[Any, None]:
    from skembed import TextEmbedder

    # Loads the weights; what is written for this text helps nobody.
    TextEmbedder(data.minilm(), device="cpu", cache=None).fit_transform(["warm-up"])
    return TextEmbedder(data.minilm(), device="cpu", cache=store if cache == "store" else cache), None


def _embetter(store: str) -> tuple[Any, None]:
    encoder = peer("embetter.text").SentenceEncoder(str(data.minilm()))
    encoder.transform(["warm-up"])
    return encoder, None


def _skrub(store: str) -> tuple[Any, None]:
    """All components, so that the classifier has the same features everywhere."""
    import pandas as pd

    encoder = skrub_encoder(data.minilm(), n_components=None)
    encoder.fit(pd.Series(["warm-up", "twice"], name="text"))
    return encoder, None


def _wrapped(store: str, memory: bool = False) -> tuple[Any, str | None]:
    _encode(["warm-up"])
    return FunctionTransformer(_encode), store if memory else None


def _encode(texts) -> np.ndarray:
    # A function of a module: joblib hashes its name and not the network.
    return _sentence_transformer().encode(list(texts))


@functools.cache
def _sentence_transformer():
    return peer("sentence_transformers").SentenceTransformer(str(data.minilm()), device="cpu")


WAYS = {
    IDEAL: SearchWay(functools.partial(_ours, cache=None), slow=False, first=True),
    OURS: SearchWay(_ours, slow=False),
    DISK: SearchWay(functools.partial(_ours, cache="store"), keeps=True, slow=False),
    # As slow as the others, and run with all texts nevertheless: of few, what a cache saves is hidden by what
    # scikit-learn itself does in a search.
    NO_CACHE: SearchWay(functools.partial(_ours, cache=None), slow=False),
    "sentence-transformers": SearchWay(_wrapped),
    PIPELINE_MEMORY: SearchWay(functools.partial(_wrapped, memory=True), keeps=True),
    "embetter": SearchWay(_embetter),
    "skrub": SearchWay(_skrub),
}
