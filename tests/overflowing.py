"""A backbone whose rows grow as 10 to the power of a sample's first number, so that they overflow where asked."""

from __future__ import annotations

import dataclasses

import numpy as np

from skembed.backbones.base import Item
from skembed.testing import ArrayBackbone, array_backbone


class OverflowingBackbone(ArrayBackbone):
    """Splits a sample whose last number is 1 into two windows, of which only the second is scaled."""

    def preprocess(self, samples, options):
        windows = [[s * (0, 1, 1, 1), s] if s[-1] == 1 else [s] for s in map(np.float32, samples)]
        return [[Item({"values": np.float32(values)}, length=1) for values in each] for each in windows]

    def forward_blocks(self, batch, layers):
        scale = 10 ** batch["values"][:, :1].unsqueeze(1)
        tokens = super().forward_blocks(batch, layers)
        return [dataclasses.replace(each, values=each.values * scale) for each in tokens]


def overflowing_backbone(n_features: int = 4) -> OverflowingBackbone:
    backbone = array_backbone(n_features)
    backbone.__class__ = OverflowingBackbone
    return backbone
