"""Embeddings by several layers of one network, from one pass."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import clone

from skembed.base import BaseEmbedder
from skembed.exceptions import TruncationWarning

__all__ = ["layer_rows"]


def layer_rows(embedder: BaseEmbedder, samples: Sequence[Any], layers: Sequence[int]) -> list[np.ndarray]:
    """What each of several layers makes of samples, neither cut nor scaled to length one.

    Parameters
    ----------
    embedder : BaseEmbedder
        Fitted; its pooling is used.
    samples : sequence
        Raw samples.
    layers : sequence of int
        From 0.

    Returns
    -------
    list of ndarray of shape (n_samples, n_features_of_the_layer), float32
    """
    # A pooling that weighs layers against each other has no meaning for each of them.
    pooling = "auto" if embedder.pooling == "layer_attention" else embedder.pooling
    plain: dict[str, Any] = {"normalize": False, "truncate_dim": None, "pooling": pooling}
    probe = np.asarray([embedder._probe()])
    widths = [clone(embedder).set_params(layers=layer, **plain).fit(probe)._width for layer in layers]
    with warnings.catch_warnings():
        # The embedder itself said so, of the same samples.
        warnings.simplefilter("ignore", TruncationWarning)
        joined = clone(embedder).set_params(layers=list(layers), **plain).fit(probe).transform(samples)
    return np.split(joined, np.cumsum(widths)[:-1], axis=1)
