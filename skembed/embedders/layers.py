"""Rows of several layers of a network, from one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from skembed.embedders.base import BaseEmbedder
from skembed.embedders.encoder import Encoder
from skembed.exceptions import TruncationWarning
from skembed.utils.warnings import silenced

__all__ = ["layer_rows"]


def layer_rows(embedder: BaseEmbedder, samples: Sequence[Any], layers: Sequence[int]) -> list[np.ndarray]:
    """Return rows of several layers, neither truncated nor scaled to length one.

    Parameters
    ----------
    embedder : BaseEmbedder
        Fitted embedder, whose pooling is used.
    samples : sequence
        Raw samples.
    layers : sequence of int
        Layers, counted from 0.

    Returns
    -------
    list of ndarray of shape (n_samples, n_features_of_the_layer), float32
    """
    # A pooling that weighs layers against each other has no meaning for each of them.
    pooling = "auto" if embedder.pooling == "layer_attention" else embedder.pooling
    plain: dict[str, Any] = {"normalize": False, "truncate_dim": None, "pooling": pooling}
    encoder = Encoder(embedder)
    widths = [encoder.refitted(layers=layer, **plain).width for layer in layers]
    with silenced(TruncationWarning):  # the embedder itself warned, of the same samples
        joint = encoder.refitted(**{**plain, "layers": list(layers), "truncate_dim": sum(widths)})
        joined = joint.embed(samples)
    return np.split(joined, np.cumsum(widths)[:-1], axis=1)
