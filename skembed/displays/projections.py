"""Projections of embeddings to two dimensions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from skembed.utils.sklearn_private import fit_transform_array

__all__ = ["projection"]

#: Fewest samples that make a map.
_MIN_SAMPLES = 3
#: Defaults of UMAP and of t-SNE, which small data sets lower.
_UMAP_NEIGHBORS, _TSNE_PERPLEXITY = 15, 30.0
#: t-SNE of fewer samples runs in one thread: on two busy cores 40 took 0.6 s so and 25 s with two threads that wait for
#: each other a thousand times.
_TSNE_ONE_THREAD = 1000
#: Spread, relative to the largest value, below which rows differ by float32 rounding alone.
_ROUNDING = 4 * float(np.finfo(np.float32).eps)

Fit = Callable[[np.ndarray], tuple[np.ndarray, tuple[str, str]]]


def projection(method: str, random_state: int | None) -> Fit:
    """Return a function from rows to positions and the names of the axes.

    Rows that are not finite get the position NaN. Where all rows are equal, every position is the origin.

    Parameters
    ----------
    method : {"pca", "tsne", "umap"}
        Projection to use.
    random_state : int or None
        Seed of the projection.

    Returns
    -------
    project : callable
        Raises ValueError where fewer than three rows are finite.

    Raises
    ------
    ValueError
        If `method` is unknown.
    ImportError
        If umap-learn is needed and not installed.

    Examples
    --------
    >>> positions, names = projection("pca", 0)(np.ones((4, 3)))
    >>> positions.tolist(), names
    ([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]], ('all embeddings are equal', ''))
    """
    methods = {"pca": _pca, "tsne": _tsne, "umap": _umap}
    if method not in methods:
        raise ValueError(f'method={method!r} is unknown. Use "pca", "tsne" or "umap".')
    fit = methods[method](random_state)

    def project(rows: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
        rows = np.asarray(rows, dtype=np.float64)
        finite = np.isfinite(rows).all(axis=1)
        if finite.sum() < _MIN_SAMPLES:
            raise ValueError(f"A map needs at least three samples with finite embeddings, got {finite.sum()}.")
        positions = np.full((len(rows), 2), np.nan)
        positions[finite], names = _at_origin(rows[finite]) if _all_equal(rows[finite]) else fit(rows[finite])
        return positions, names

    return project


def _all_equal(rows: np.ndarray) -> bool:
    return bool(np.ptp(rows, axis=0).max(initial=0.0) <= _ROUNDING * np.abs(rows).max(initial=0.0))


def _at_origin(rows: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    # PCA and the start of t-SNE would divide by a variance of zero.
    return np.zeros((len(rows), 2)), ("all embeddings are equal", "")


def _pca(random_state: int | None) -> Fit:
    def fit(rows: np.ndarray):
        if rows.shape[1] < 2:
            return np.column_stack([rows, np.zeros(len(rows))]), ("the only feature", "")
        pca = PCA(2, random_state=random_state)
        places = fit_transform_array(pca, rows)
        shares = [f"{100 * share:.0f} % of the variance" for share in pca.explained_variance_ratio_]
        return places, (f"first principal component, {shares[0]}", f"second principal component, {shares[1]}")

    return fit


def _tsne(random_state: int | None) -> Fit:
    def fit(rows: np.ndarray):
        # About three times the perplexity are neighbors of a sample, so it stays below a third of the samples.
        perplexity = min(_TSNE_PERPLEXITY, (len(rows) - 1) / 3)
        init = "pca" if rows.shape[1] > 1 else "random"
        tsne = TSNE(2, perplexity=perplexity, init=init, random_state=random_state)
        with threadpool_limits(1 if len(rows) < _TSNE_ONE_THREAD else None):
            positions = fit_transform_array(tsne, rows)
        return positions, ("t-SNE, first dimension", "t-SNE, second dimension")

    return fit


def _umap(random_state: int | None) -> Fit:
    try:
        from umap import UMAP
    except ImportError as error:
        raise ImportError('method="umap" needs umap-learn: pip install umap-learn. Or use method="pca".') from error

    def fit(rows: np.ndarray):
        # The neighbors must be fewer than the samples; seeded, UMAP runs in one thread.
        n_jobs = -1 if random_state is None else 1
        umap = UMAP(n_neighbors=min(_UMAP_NEIGHBORS, len(rows) - 1), random_state=random_state, n_jobs=n_jobs)
        return fit_transform_array(umap, rows), ("UMAP, first dimension", "UMAP, second dimension")

    return fit
