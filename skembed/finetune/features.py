"""Where the features of samples come from while training: a table of them, or samples that enter the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from skembed.augment.mixing import Mix
from skembed.finetune.network import Network
from skembed.finetune.replay import ItemStore, Sample

__all__ = ["FreshSource", "NetworkSource", "TableSource"]


class TableSource:
    """Features that are known already.

    Parameters
    ----------
    tables : sequence of ndarray of shape (n_samples, n_features), float32
        One a view of the samples; the first of them as they are.
    device : torch.device
        Where the head is.
    """

    def __init__(self, tables: Sequence[np.ndarray], device: torch.device):
        self.tables = [torch.from_numpy(table).to(device) for table in tables]

    def features(self, indices: np.ndarray, view: int = 0) -> Tensor:
        table = self.tables[view % len(self.tables)]
        return table[torch.from_numpy(indices).to(table.device)]


class NetworkSource:
    """Features that the network computes from kept samples, each time anew.

    Parameters
    ----------
    network : Network
    stores : sequence of ItemStore
        Samples as they were prepared, or what the frozen blocks made of them; one a view, the first of them as they
        are.
    """

    def __init__(self, network: Network, stores: Sequence[ItemStore]):
        self.network, self.stores = network, stores

    def features(self, indices: np.ndarray, view: int = 0) -> Tensor:
        return self.network.features(self.samples(indices, view))

    def mixed_features(self, indices: np.ndarray, mix: Mix, view: int = 0) -> tuple[Tensor, float]:
        """Features of samples that enter the network mixed with one another, and the share of each that stays."""
        return self.network.mixed_features(self.samples(indices, view), mix)

    def samples(self, indices: np.ndarray, view: int) -> list[Sample]:
        """What enters the network."""
        store = self.stores[view % len(self.stores)]
        return [store[int(i)] for i in indices]


class FreshSource(NetworkSource):
    """Features of samples that are changed anew for each view.

    Parameters
    ----------
    network : Network
    store : ItemStore
        Samples as they are, for view 0.
    prepare : callable
        Takes positions and the number of a view; returns prepared samples.
    """

    def __init__(self, network: Network, store: ItemStore, prepare: Callable[[np.ndarray, int], list[Sample]]):
        super().__init__(network, [store])
        self.prepare = prepare

    def samples(self, indices: np.ndarray, view: int) -> list[Sample]:
        return self.prepare(indices, view) if view else super().samples(indices, view)
