"""Embedding a candidate's rows, and what of it took how long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from skembed.embedders.base import BaseEmbedder
from skembed.embedders.encoder import Encoder

__all__ = ["Cost", "embed_timed", "timed"]

_NAN = float("nan")


@dataclass
class Cost:
    """Seconds and samples that the rows of a candidate took.

    Parameters
    ----------
    load_seconds : float
        Until the first sample could be computed: the weights found, checked and, where any row was missing, read, their
        library imported, and a first small input run, which is slow once. NaN for other transformers than embedders.
    embedding_seconds : float
        Of the samples that were computed, from reading them to keeping their rows; NaN where there were none. Of other
        transformers the whole of `fit_transform`.
    n_embedded : float
        Samples that were computed: neither known to a cache nor equal to an earlier one. NaN where it is not known.
    """

    load_seconds: float = _NAN
    embedding_seconds: float = _NAN
    n_embedded: float = _NAN


def timed(function: Callable, *arguments: Any) -> tuple[Any, float]:
    """Return the result of a function, and the seconds that it took."""
    start = time.perf_counter()
    return function(*arguments), time.perf_counter() - start


def embed_timed(candidate: Any, X: Any, y: Any) -> tuple[Any, Cost]:
    """Fit a candidate, and embed X.

    Parameters
    ----------
    candidate : transformer
        Unfitted; it is fitted.
    X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
        Raw samples.
    y : array-like of shape (n_samples,)
        Their targets, for transformers that ask for them.

    Returns
    -------
    rows : array or dataframe of shape (n_samples, n_features)
    cost : Cost
    """
    if not isinstance(candidate, BaseEmbedder):
        rows, seconds = timed(candidate.fit_transform, X, y)
        return rows, Cost(embedding_seconds=seconds)
    cost = Cost(load_seconds=timed(candidate.fit, X, y)[1], n_embedded=0)
    encoder = Encoder(candidate)

    def compute(samples: Sequence[Any], *, positions: Sequence[int]) -> Iterator[Any]:
        if not cost.n_embedded:
            cost.load_seconds += timed(encoder.warm_up)[1]
            cost.embedding_seconds = 0.0
        start = time.perf_counter()
        yield from encoder.compute(samples, positions=positions)
        cost.embedding_seconds += time.perf_counter() - start
        cost.n_embedded += len(samples)

    return encoder.embed(X, compute), cost
