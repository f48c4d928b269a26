"""Embedding of a candidate's rows, with the time of its parts."""

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
        Time before the first sample: to find, check and, if any row was missing, read the weights, to import their
        library, and to run a first small input. NaN for transformers that are not embedders.
    embedding_seconds : float
        Time of the samples that were computed, from reading them to storing their rows; NaN if there were none. For
        other transformers, the time of `fit_transform`.
    n_embedded : float
        Number of samples that were computed: neither cached nor equal to an earlier one. NaN if unknown.
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
        Unfitted transformer, which is fitted.
    X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
        Raw samples.
    y : array-like of shape (n_samples,)
        Targets, for transformers that need them.

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
