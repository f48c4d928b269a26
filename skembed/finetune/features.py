"""Sources of features for training: a table, or samples that enter the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from skembed.augment.mixing import Mix
from skembed.finetune.activations import Sample
from skembed.finetune.network import Network

__all__ = ["NetworkSource", "TableSource"]


class TableSource:
    """Features from a table.

    Parameters
    ----------
    tables : sequence of ndarray of shape (n_samples, n_features), float32
        One table per view of the samples; the first is of the unchanged samples.
    device : torch.device
        Device of the head.
    """

    def __init__(self, tables: Sequence[np.ndarray], device: torch.device):
        self.tables = [torch.from_numpy(table).to(device) for table in tables]

    def features(self, indices: np.ndarray, view: int = 0) -> Tensor:
        table = self.tables[view % len(self.tables)]
        return table[torch.from_numpy(indices).to(table.device)]


class NetworkSource:
    """Features that the network computes for each batch.

    Parameters
    ----------
    network : Network
    samples : callable
        Takes positions and the number of a view; returns prepared samples, or activations of the frozen blocks.
    """

    def __init__(self, network: Network, samples: Callable[[np.ndarray, int], list[Sample]]):
        self.network, self.samples = network, samples

    def features(self, indices: np.ndarray, view: int = 0) -> Tensor:
        return self.network.features(self.samples(indices, view))

    def mixed_features(self, indices: np.ndarray, mix: Mix, view: int = 0) -> tuple[Tensor, float]:
        """Return features of samples that are mixed before they enter, and the share of each that stays."""
        return self.network.mixed_features(self.samples(indices, view), mix)
