"""Embedders with tuned weights: changes alone, with the files of the base, or merged."""

from __future__ import annotations

import torch
from safetensors.torch import save

from skembed.backbones.loading.card import identify
from skembed.backbones.loading.load import load
from skembed.backbones.spec import TunedWeights
from skembed.backbones.weights.archive import pack_directory
from skembed.embedders.base import BaseEmbedder
from skembed.embedders.encoder import Encoder
from skembed.finetune.network import FrozenNetwork, Network

__all__ = ["merged", "tuned_embedder", "with_base"]


def tuned_embedder(embedder: BaseEmbedder, network: FrozenNetwork) -> BaseEmbedder:
    """Return an embedder with the trained weights, or the given one if no weight changed."""
    changed = network.changed()
    if not changed:
        return embedder
    assert isinstance(network, Network)
    return _with_backbone(
        embedder, TunedWeights.of(network.base.spec, network.base.fingerprint, changed, network.added)
    )


def with_base(embedder: BaseEmbedder) -> BaseEmbedder:
    """Return the embedder with the files of its base inside.

    Raises
    ------
    ValueError
        If the backbone has no directory.
    """
    spec = embedder.spec_
    base = spec if spec.tuned is None else spec.tuned.base
    located = identify(base)
    if located is None:
        raise ValueError(
            f"{base.name!r} is a function and has no directory that could be included. Save its weights yourself."
        )
    archive = pack_directory(located.directory)
    tuned = TunedWeights(base, located.fingerprint, save({})) if spec.tuned is None else spec.tuned
    return _with_backbone(embedder, TunedWeights(base, located.fingerprint, tuned.data, archive, tuned.added))


def merged(embedder: BaseEmbedder) -> BaseEmbedder:
    """Return the embedder with low-rank factors merged into whole weights."""
    spec = embedder.spec_
    if spec.tuned is None or all(record["method"] != "lora" for record in spec.tuned.added.values()):
        return embedder
    backbone = load(spec, torch.device("cpu"), "float32")
    return _with_backbone(embedder, spec.tuned.merged(backbone.module.state_dict()))


def _with_backbone(embedder: BaseEmbedder, tuned: TunedWeights) -> BaseEmbedder:
    """Return the fitted embedder with other weights of the same network."""
    # Its card is that of the base, so nothing is loaded to be described.
    return Encoder(embedder).refitted(backbone=tuned).embedder
