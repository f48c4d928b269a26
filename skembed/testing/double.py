"""Embedder of rows of numbers, so that scikit-learn's own checks can run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import validate_data
from torch import Tensor, nn

from skembed.backbones.base import Backbone, Block, Item, Tokens
from skembed.backbones.blocks import enter_behind, record_blocks
from skembed.backbones.models.resuming import advance_each, collate_advanced
from skembed.backbones.spec import BackboneSpec
from skembed.embedders.base import BaseEmbedder
from skembed.inputs import array_key

__all__ = ["ArrayBackbone", "ArrayEmbedder", "array_backbone"]


class _Mixing(nn.Module):
    """Linear map and tanh, summed in a fixed order, so that a row does not depend on its neighbors."""

    def __init__(self, n_in: int, n_out: int, generator: torch.Generator):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in, generator=generator) / n_in**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh((x.unsqueeze(-2) * self.weight).sum(-1))


class _Network(nn.Module):
    def __init__(self, n_features: int, width: int, depth: int):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.stem = _Mixing(n_features, width, generator)
        self.layers = nn.ModuleList(_Mixing(width, width, generator) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = layer(x)
        return x


class ArrayBackbone(Backbone):
    """Small seeded network over rows of numbers, behind the interface of `Backbone`."""

    def preprocess(self, samples: Sequence[Any], options: Any) -> list[list[Item]]:
        return [[Item({"values": np.asarray(sample, dtype=np.float32)}, length=1)] for sample in samples]

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        if "hidden" in items[0].data:
            return collate_advanced(items)
        return {"values": torch.from_numpy(np.stack([item.data["values"] for item in items]))}

    def forward_blocks(self, batch: Mapping[str, Tensor], layers: Iterable[int]) -> list[Tokens]:
        layers = list(layers)
        network: Any = self.module
        stack, values = list(network.layers), batch.get("values")
        entered: AbstractContextManager = nullcontext()
        if values is None:
            # Nothing below the block is computed but the stem, on one row of zeros.
            values = batch["hidden"].new_zeros(1, network.stem.weight.shape[1])
            entered = enter_behind(stack, int(batch["block"]), batch["hidden"])
        top = len(self.blocks) - 1
        with entered, record_blocks(stack, layers, stop=top not in layers) as found:
            found[top] = self.module(values)
        return [Tokens(found[i].unsqueeze(1), found[i].new_ones(len(found[i]), 1, dtype=torch.bool)) for i in layers]

    def advance(self, items: Sequence[Item], batch: Mapping[str, Tensor], blocks: Sequence[int]) -> list[list[Item]]:
        read = self.forward_blocks(batch, blocks)
        return advance_each(items, {block: tokens.values[:, 0] for block, tokens in zip(blocks, read, strict=True)})


def array_backbone(n_features: int = 4, width: int = 8, depth: int = 2) -> ArrayBackbone:
    """Return a backbone over rows of `n_features` numbers, the same at every call.

    Parameters
    ----------
    n_features, width, depth : int
        Numbers per row, features of the output, and blocks after the stem.

    Returns
    -------
    ArrayBackbone
        Seeded, untrained backbone.

    Examples
    --------
    >>> from skembed.testing import array_backbone
    >>> [block.name for block in array_backbone().blocks]
    ['stem', 'layers.0', 'layers.1']
    """
    names = [f"layers.{i}" for i in range(depth)]
    return ArrayBackbone(
        spec=BackboneSpec("factory", "skembed.testing.double:array_backbone"),
        module=_Network(n_features, width, depth),
        width=width,
        blocks=(Block("stem", ("stem",)), *(Block(name, (name,)) for name in names)),
        fingerprint="",
    )


class ArrayEmbedder(BaseEmbedder):
    """Embed rows of numbers, for scikit-learn's estimator checks.

    Parameters
    ----------
    backbone : str or callable, default=array_backbone
        Name or function of the backbone. A function is called with ``n_features=``.
    revision, layers, pooling, normalize, truncate_dim, batch_size, device, precision, cache, on_error, verbose
        See `skembed.TextEmbedder`.

    Examples
    --------
    >>> from skembed.testing import ArrayEmbedder
    >>> ArrayEmbedder().fit_transform([[0.0, 1.0], [1.0, 0.0]]).shape
    (2, 8)
    """

    _modality = "array"

    def __init__(
        self,
        backbone=array_backbone,
        *,
        revision=None,
        layers=-1,
        pooling="auto",
        normalize="auto",
        truncate_dim=None,
        batch_size="auto",
        device="auto",
        precision="auto",
        cache="auto",
        on_error="raise",
        verbose=False,
    ):
        self.backbone = backbone
        self.revision = revision
        self.layers = layers
        self.pooling = pooling
        self.normalize = normalize
        self.truncate_dim = truncate_dim
        self.batch_size = batch_size
        self.device = device
        self.precision = precision
        self.cache = cache
        self.on_error = on_error
        self.verbose = verbose

    def _network_options(self):
        return (("n_features", self.n_features_in_),)

    def _samples(self, X, *, reset: bool):
        return list(validate_data(self, X, reset=reset, dtype=np.float32))

    def _reader(self, backbone):
        return lambda sample: (np.asarray(sample), False)

    def _key(self):
        return array_key

    def _probe(self) -> np.ndarray:
        return np.zeros(self.n_features_in_, dtype=np.float32)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.one_d_array = False
        tags.input_tags.string = False
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
