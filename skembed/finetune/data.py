"""Samples on their way into training: a table of frozen features, or prepared samples that enter the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skembed.base import BaseEmbedder
from skembed.engine.extract import prepare, workers
from skembed.finetune.loop import Source
from skembed.finetune.network import FrozenNetwork, Network
from skembed.finetune.prefix import ItemStore, Sample, agree, fill_store, replay_block

__all__ = ["TableSource", "TrainingData", "prepared_chunks"]

#: Samples on which a replayed pass is compared with a plain one.
_TRIED = 4


class TableSource:
    """Features that are known already.

    Parameters
    ----------
    table : ndarray of shape (n_samples, n_features), float32
    device : torch.device
        Where the head is.
    """

    def __init__(self, table: np.ndarray, device: torch.device):
        self.table = torch.from_numpy(table).to(device)

    def features(self, indices: np.ndarray) -> Tensor:
        return self.table[torch.from_numpy(indices).to(self.table.device)]


class NetworkSource:
    """Features that the network computes from kept samples, each time anew.

    Parameters
    ----------
    network : Network
    store : ItemStore
        Samples as they were prepared, or what the frozen blocks made of them.
    """

    def __init__(self, network: Network, store: ItemStore):
        self.network, self.store = network, store

    def features(self, indices: np.ndarray) -> Tensor:
        return self.network.features([self.store[int(i)] for i in indices])


def prepared_chunks(embedder: BaseEmbedder, backbone: Any, samples: Sequence[Any]) -> Iterator[list[Sample]]:
    """Decoded and preprocessed samples, a chunk at a time.

    Parameters
    ----------
    embedder : BaseEmbedder
        Fitted.
    backbone : Backbone
        Prepares them.
    samples : sequence
        Raw samples, all of them readable.
    """
    read, size = embedder._reader(backbone), embedder._chunk_size
    with workers() as pool:
        for start in range(0, len(samples), size):
            part = samples[start : start + size]
            positions = range(start, start + len(part))
            prepared, _ = prepare(backbone, part, embedder._reading, read, pool, positions, "raise")
            yield [items for items, _ in prepared]


class TrainingData:
    """The samples of one fit, held-out ones included.

    Parameters
    ----------
    embedder : BaseEmbedder
        Fitted and frozen.
    samples : sequence
        Raw samples.
    frozen : ndarray of shape (n_samples, n_features), float32
        Their embeddings.
    replay : bool
        Whether frozen blocks may be computed once and kept.
    """

    def __init__(self, embedder: BaseEmbedder, samples: Sequence[Any], frozen: np.ndarray, *, replay: bool):
        self.embedder, self.samples, self.frozen, self.replay = embedder, samples, frozen, replay
        #: Why the frozen blocks were not replayed, where they were not.
        self.notes: list[str] = []
        self._whole: ItemStore | None = None
        self._held: tuple[int, ItemStore] | None = None

    def source(self, network: FrozenNetwork, n_unfrozen: int) -> tuple[Source, bool]:
        """Where features come from while so many blocks train, and whether frozen blocks are replayed for it."""
        if n_unfrozen == 0 and self.replay:
            return TableSource(self.frozen, network.device), True
        assert isinstance(network, Network)
        block = replay_block(network, n_unfrozen) if self.replay else None
        if block is not None:
            store = self._replayed(network, block)
            if store is not None:
                return NetworkSource(network, store), True
        return NetworkSource(network, self._prepared(network)), False

    def _replayed(self, network: Network, block: int) -> ItemStore | None:
        if self._held is not None and self._held[0] == block:
            return self._held[1]
        chunks = prepared_chunks(self.embedder, network.backbone, self.samples)
        if self._held is None:
            why = agree(network, next(prepared_chunks(self.embedder, network.backbone, self.samples[:_TRIED])), block)
            if why is not None:
                self._note(f"The frozen blocks were computed in every epoch: {why}.")
                self.replay = False
                return None
        # One block is held at a time: what the next stage needs lies below.
        self._held = None
        batch_size = None if self.embedder.batch_size == "auto" else int(self.embedder.batch_size)
        try:
            store = fill_store(ItemStore(), chunks, backbone=self.embedder._load(), block=block, batch_size=batch_size)
        except OSError as error:
            self._note(f"The frozen blocks were computed in every epoch: what they return could not be kept ({error}).")
            self.replay = False
            return None
        self._held = (block, store)
        return store

    def _prepared(self, network: Network) -> ItemStore:
        if self._whole is None:
            self._whole = fill_store(ItemStore(), prepared_chunks(self.embedder, network.backbone, self.samples))
        return self._whole

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)
