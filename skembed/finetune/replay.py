"""Resuming a network behind its frozen blocks, whose activations are computed once for all epochs.

Frozen blocks are in eval mode and never change, so their outputs for a sample are the same in every epoch. They are
computed by the shared backbone, with everything that makes inference fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skembed.backbones.base import Backbone, Item
from skembed.finetune.activations import INPUT, Sample, regroup
from skembed.finetune.network import Network
from skembed.inference.extract import computing, each_batch, embed_items
from skembed.inference.reading import Reading
from skembed.utils.device import is_device_fault, move

__all__ = ["FrozenBlocks", "can_resume", "last_frozen", "planned_boundaries"]

#: Number of boundaries that are recorded in one pass, from the highest on. They suffice for stages that double the
#: number of blocks, in networks of up to 16 blocks. A fit may well end before it reaches lower ones.
_MOST_BOUNDARIES = 4
#: Largest difference, relative to the largest value, between a resumed pass and a plain one; in half precision.
_TOLERANCE, _ROUNDED_TOLERANCE = 1e-3, 1e-2
#: Errors of networks that cannot be resumed; NotImplementedError is a RuntimeError.
_CANNOT_RESUME = (IndexError, KeyError, RuntimeError, TypeError, ValueError)


def last_frozen(reading: Reading, n_unfrozen: int) -> int:
    """Return the boundary to resume at: below all blocks that train or are read."""
    return max(INPUT, min(max(reading.layers) - n_unfrozen, *reading.layers))


def planned_boundaries(reading: Reading, stages: Iterable[int]) -> list[int]:
    """Return the boundaries of the first stages that replay frozen blocks, ascending.

    Parameters
    ----------
    reading : Reading
        Layers that are read.
    stages : iterable of int
        Number of blocks that train in each stage.
    """
    boundaries = {last_frozen(reading, n_unfrozen) for n_unfrozen in stages if n_unfrozen}
    return sorted(boundaries - {INPUT})[-_MOST_BOUNDARIES:]


@dataclass
class FrozenBlocks:
    """Network of an embedder, to compute the activations of blocks that do not train.

    Parameters
    ----------
    backbone : Backbone
        Network of any precision.
    reading : Reading
        Layers and pooling.
    batch_size : int, optional
        See `skembed.inference.extract.extract`.
    """

    backbone: Backbone
    reading: Reading
    batch_size: int | None = None

    @property
    def mixed_precision(self) -> bool:
        """Return True if rows depend on the batch by the rounding of half precision."""
        return next(self.backbone.module.parameters()).dtype != torch.float32

    def features(self, samples: Sequence[Sample]) -> Tensor:
        """Return unfinished rows of shape (n_samples, width)."""
        rows: dict[int, np.ndarray] = {}
        for done, vectors in embed_items(self.backbone, samples, self.reading, self.batch_size):
            rows.update(zip(done.tolist(), vectors, strict=True))
        return torch.from_numpy(np.stack([rows[i] for i in range(len(samples))]))

    def activations(
        self,
        samples: Sequence[Sample],
        boundaries: Sequence[int],
        report: Callable[[int], Any] | None = None,
    ) -> list[list[Sample]]:
        """Return the activations of samples at each of the boundaries, from one pass.

        Parameters
        ----------
        samples : sequence of samples
            Prepared samples.
        boundaries : sequence of int
            Blocks, ascending.
        report : callable, optional
            Called with the number of samples that each batch completes.
        """
        flat = [item for sample in samples for item in sample]
        weight = next(self.backbone.module.parameters())

        def run(items: list[Item]) -> list[list[Item]]:
            with computing(weight.device):
                batch = move(self.backbone.collate(items), weight.device, weight.dtype)
                return self.backbone.advance(items, batch, boundaries)

        owner = np.repeat(np.arange(len(samples)), [len(sample) for sample in samples])
        left = np.bincount(owner, minlength=len(samples))
        recorded: list[dict[int, Item]] = [{} for _ in boundaries]
        for batch, outputs in each_batch(self.backbone, flat, run, self.batch_size):
            for at_boundary, items in zip(recorded, outputs, strict=True):
                at_boundary.update(zip(batch, items, strict=True))
            if report is not None:
                np.subtract.at(left, owner[batch], 1)
                report(int((left[np.unique(owner[batch])] == 0).sum()))
        return [regroup((at_boundary[i] for i in range(len(flat))), samples) for at_boundary in recorded]


def can_resume(network: Network | FrozenBlocks, samples: Sequence[Sample], boundaries: Sequence[int]) -> str | None:
    """Return None if a network gives the same rows when it is resumed at boundaries, otherwise the reason.

    Some networks pass on more than the hidden state. That is tried here and not assumed.

    Parameters
    ----------
    network : Network or FrozenBlocks
        Network to resume.
    samples : sequence of samples
        Prepared samples on which it is tried.
    boundaries : sequence of int
        Blocks, ascending.
    """
    boundary = boundaries[-1]
    with torch.no_grad():
        plain = network.features(samples)
        tolerance = (_ROUNDED_TOLERANCE if network.mixed_precision else _TOLERANCE) * plain.abs().max()
        try:
            for boundary, activations in zip(boundaries, network.activations(samples, boundaries), strict=True):
                resumed = network.features(activations)
                if resumed.shape != plain.shape or not bool((resumed - plain).abs().max() <= tolerance):
                    return f"its rows differ when it is entered behind block {boundary}"
        except NotImplementedError as error:
            return str(error)
        except _CANNOT_RESUME as error:
            if is_device_fault(error):
                raise
            return f"entering it behind block {boundary} failed ({type(error).__name__}: {str(error)[:200]})"
    return None
