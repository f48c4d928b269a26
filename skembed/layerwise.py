"""What several layers of a network make of samples, from one pass; and how far its blocks moved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from skembed._warn import silenced
from skembed.backbones.spec import BackboneSpec
from skembed.base import BaseEmbedder
from skembed.encoder import Encoder
from skembed.exceptions import TruncationWarning
from skembed.measures import weight_drift

__all__ = ["block_drift", "layer_rows"]


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
    encoder = Encoder(embedder)
    widths = [encoder.refitted(layers=layer, **plain).width for layer in layers]
    with silenced(TruncationWarning):  # the embedder itself warned, of the same samples
        joint = encoder.refitted(**{**plain, "layers": list(layers), "truncate_dim": sum(widths)})
        joined = joint.embed(samples)
    return np.split(joined, np.cumsum(widths)[:-1], axis=1)


def block_drift(before: BackboneSpec, after: BackboneSpec) -> dict[str, float]:
    """For each block the norm of the change of its weights, as a part of that of its weights before.

    Weights are compared as they compute: low-rank updates are merged, and tensors that an adapter brought along have
    nothing to be compared with.

    Parameters
    ----------
    before, after : BackboneSpec
        A network, and the same one after training.

    Returns
    -------
    dict of str to float
        By block, the lowest first.
    """
    import torch

    from skembed.backbones.loading import load

    # In float32 whatever the embedder's precision is: rounding would look like drift.
    networks = [load(spec, torch.device("cpu"), "float32") for spec in (before, after)]
    old, new = (dict(each.module.named_parameters()) for each in networks)
    # What did not change is one tensor in both.
    changed = {name: value.numpy() for name, value in new.items() if name in old and value is not old[name]}
    drift = weight_drift({name: value.numpy() for name, value in old.items()}, changed, networks[0].blocks)
    return dict(zip((block.name for block in networks[0].blocks), drift.tolist(), strict=True))
