"""Copies and near copies among samples."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.special import betaincinv

from skembed.utils.blas import SMALL, one_blas_thread

__all__ = ["Twins", "exact_groups", "find_twins", "join_groups"]

#: Smallest similarity of twins; `find_twins` has the measurement.
_LEAST_SIMILARITY = 0.95
#: Expected number of pairs that are twins by chance, over all pairs.
_EXPECTED_CHANCE_PAIRS = 0.05
#: Difference of float32 sums in another order.
_ROUNDING = 1e-6
#: Number of rows compared at a time, so that a table of similarities stays small.
_CHUNK_ROWS = 512


@dataclass(frozen=True)
class Twins:
    """Groups of samples that are nearly the same.

    Parameters
    ----------
    groups : ndarray of shape (n_samples,), int64
        Group of each sample; twins, and twins of twins, share one.
    threshold : float
        Similarity from which on two samples count as twins.
    """

    groups: np.ndarray
    threshold: float

    @property
    def pairs(self) -> np.ndarray:
        """First sample of each group with each of the others, of shape (n_pairs, 2), int64."""
        first = np.unique(self.groups, return_index=True)[1][self.groups]
        others = np.flatnonzero(first != np.arange(len(first)))
        return np.stack([first[others], others], axis=1)


def join_groups(pairs: np.ndarray, n_samples: int) -> np.ndarray:
    """Return the groups that pairs join samples to, of shape (n_samples,), int64.

    Examples
    --------
    >>> join_groups(np.array([[0, 2], [2, 3]]), 5).tolist()
    [0, 1, 0, 0, 2]
    """
    links = coo_matrix((np.ones(len(pairs), dtype=bool), (pairs[:, 0], pairs[:, 1])), shape=(n_samples, n_samples))
    return connected_components(links, directed=False)[1].astype(np.int64)


def exact_groups(keys: Sequence[Hashable | None]) -> np.ndarray:
    """Group samples whose content is the same.

    Parameters
    ----------
    keys : sequence of hashable or None
        One per sample; a sample without a key is a group of its own.

    Returns
    -------
    ndarray of shape (n_samples,), int64
        Group of each sample, numbered in the order of appearance.

    Examples
    --------
    >>> exact_groups([b"a", b"b", b"a", None, None]).tolist()
    [0, 1, 0, 2, 3]
    """
    numbers: dict[Hashable, int] = {}
    groups = [numbers.setdefault((i,) if key is None else key, len(numbers)) for i, key in enumerate(keys)]
    return np.asarray(groups, dtype=np.int64)


def find_twins(X, *, least: float = _LEAST_SIMILARITY) -> Twins:
    """Find embeddings that are nearly the same.

    Rows are centered, since all embeddings of a network share a direction that says nothing [1]_. The similarity of two
    rows is twice their product over the sum of their squared lengths: their cosine, if they are of one length, and
    less if they are not.

    A pair counts from the larger of two thresholds on. The first is `least`: at 0.95, MiniLM finds 95 of 100 texts
    again after a change of case and punctuation, and joins 11 pairs among 1,000 different texts. Photographs that were
    shrunk and compressed again are rarely found (half of them reach 0.86 with EfficientNet-Lite0), so there may be more
    copies than are found. The second threshold excludes chance if the rows vary in few directions: it is the cosine
    that 0.05 of all pairs would exceed in expectation, if directions were uniform in the effective number of
    dimensions. That number is the squared sum of the variances divided by the sum of their squares (the participation
    ratio).

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings.
    least : float, default=0.95
        First threshold. A lower one finds more twins, and more false ones.

    Returns
    -------
    Twins
        Groups of the samples, and the threshold.

    References
    ----------
    .. [1] Mu & Viswanath (2018), All-but-the-Top: Simple and Effective Postprocessing for Word Representations.

    Examples
    --------
    >>> import numpy as np
    >>> from skembed.measures import find_twins
    >>> X = np.random.default_rng(0).normal(size=(50, 40))
    >>> find_twins(np.concatenate([X, X[[3]] + 0.01])).pairs.tolist()
    [[3, 50]]
    """
    rows = np.asarray(X, dtype=np.float32)
    n_samples = len(rows)
    rows = rows - rows.mean(0)
    threshold = max(least, _chance_similarity(rows, n_samples))
    half = np.square(rows).sum(1) / 2
    groups = np.arange(n_samples)
    for start in range(0, n_samples, _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        # Only what lies above the diagonal: each pair once.
        mean = half[part, None] + half[None, start:]
        with one_blas_thread(when=rows.size < SMALL):
            products = rows[part] @ rows[start:].T
        similar = np.triu(products >= threshold * mean, 1)
        # Joined at once: where most rows are alike, their pairs would fill the memory.
        pairs = np.stack(np.nonzero(similar), axis=1) + start
        groups = join_groups(np.concatenate([pairs, Twins(groups, threshold).pairs]), n_samples)
    return Twins(groups, threshold)


def _chance_similarity(rows: np.ndarray, n_samples: int) -> float:
    """Return the cosine that hardly any pair of random directions exceeds, in the rows' dimensions."""
    wide = rows.astype(np.float64)
    with one_blas_thread(when=rows.size < SMALL):
        scatter = wide @ wide.T if len(wide) < wide.shape[1] else wide.T @ wide
    squared = np.square(scatter).sum()
    dimensions = np.trace(scatter) ** 2 / squared if squared > 0 else 1.0
    chance = _EXPECTED_CHANCE_PAIRS / max(1.0, n_samples * (n_samples - 1) / 2)
    # The squared sine between two random directions of d dimensions is Beta((d - 1) / 2, 1 / 2), and half of the
    # pairs point away from each other.
    sine = betaincinv(max(dimensions - 1, 0.1) / 2, 0.5, 2 * chance)
    return float(min(np.sqrt(1 - sine), 1 - _ROUNDING))
