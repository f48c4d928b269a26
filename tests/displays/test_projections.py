"""Projections of the map: t-SNE, and embeddings that are all equal."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import FunctionTransformer

from skembed.displays import EmbeddingMapDisplay
from skembed.testing import ArrayEmbedder


def _groups(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Two groups far apart in ten dimensions."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    return rng.normal(size=(n, 10)) + 20 * y[:, None], y


def _map(rows, **options) -> EmbeddingMapDisplay:
    return EmbeddingMapDisplay.from_estimator(FunctionTransformer().fit(rows), rows, **options)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_equal_samples_are_drawn_at_one_place_without_a_warning(method):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        display = EmbeddingMapDisplay.from_embedder(ArrayEmbedder(), np.ones((5, 4), np.float32), method=method)
    assert display.positions.tolist() == [[0.0, 0.0]] * 5
    assert display.ax_.get_xlabel() == "all embeddings are equal"


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_rows_that_differ_by_rounding_alone_count_as_equal(method):
    rows = np.full((6, 4), 0.5)
    rows[1, 2] += 1e-8
    assert not _map(rows, method=method).positions.any()
    rows[1, 2] += 1e-3
    assert _map(rows, method=method).positions.any()


def test_tsne_keeps_the_neighbors_of_both_groups():
    rows, y = _groups(40)
    display = _map(rows, y=y, method="tsne")
    _, neighbors = NearestNeighbors(n_neighbors=4).fit(display.positions).kneighbors()
    assert (y[neighbors] == y[:, None]).all()
    assert display.ax_.get_xlabel() == "t-SNE, first dimension"
    assert display.ax_.get_ylabel() == "t-SNE, second dimension"


def test_the_seed_decides_where_tsne_puts_samples():
    rows = _groups(12)[0][:, :1]
    first, again, other = (_map(rows, method="tsne", random_state=seed).positions for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3


@pytest.mark.parametrize("n", [3, 4, 31, 32])
def test_tsne_adapts_its_perplexity_to_few_samples(n):
    rows, _ = _groups(n)
    rows[-1] += 1
    positions = _map(rows, method="tsne").positions
    assert np.isfinite(positions).all()
    assert len(np.unique(positions, axis=0)) == n


def test_an_unknown_method_names_all_that_are_known():
    with pytest.raises(ValueError, match=r'method=\'pacmap\' is unknown. Use "pca", "tsne" or "umap"'):
        _map(_groups(6)[0], method="pacmap")
