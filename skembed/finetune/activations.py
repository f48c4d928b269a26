"""Storage of samples on their way through the network, in memory up to a budget and in temporary files beyond it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from skembed.backbones.base import Item
from skembed.inference.bounded_map import count_bytes

__all__ = ["INPUT", "MEMORY", "ActivationStore", "Sample", "regroup"]

#: Default budget in bytes.
MEMORY = 2 * 1024**3
#: Boundary below all blocks: prepared samples, as they enter the network.
INPUT = -1

Sample = Sequence[Item]


class ActivationStore:
    """Activations of samples at boundaries of the network.

    A boundary is the block whose outputs are stored; a stage of training resumes the network there. When memory is used
    up, samples that the current stage requires take the place of boundaries that earlier stages used, then of lower
    ones, which later stages may never reach. If no other boundary is left, samples are written to a temporary file.

    Parameters
    ----------
    budget : int, default=MEMORY
        Bytes in memory.
    boundaries : iterable of int, default=()
        Boundaries of later stages, whose samples are stored ahead of time while there is room for them.
    """

    def __init__(self, budget: int = MEMORY, boundaries: Iterable[int] = ()):
        self.budget = budget
        self._layers = {boundary: _Layer() for boundary in boundaries}

    @property
    def boundaries(self) -> list[int]:
        """Boundaries whose samples are stored, or would be; ascending."""
        return sorted(self._layers)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(layer.nbytes for layer in self._layers.values())

    @property
    def bytes_on_disk(self) -> int:
        """Bytes in temporary files, which disappear with the store."""
        return sum(layer.file.nbytes for layer in self._layers.values() if layer.file is not None)

    def put(
        self, view: int, boundary: int, positions: Iterable[int], samples: Iterable[Sample], *, required: bool = True
    ) -> None:
        """Store samples, except those that are stored already.

        Parameters
        ----------
        view, boundary : int
            View of the samples, and the last block that they have passed.
        positions : iterable of int
            Positions of the samples in the data.
        samples : iterable of samples
            Prepared samples, or their activations.
        required : bool, default=True
            False stores only what fits into memory, and nothing at a boundary that was discarded.

        Raises
        ------
        OSError
            If memory is used up and the disk is full.
        """
        for position, sample in zip(positions, samples, strict=True):
            layer = self._layers.setdefault(boundary, _Layer()) if required else self._layers.get(boundary)
            if layer is not None and (view, position) not in layer.samples:
                fits = self._make_room(count_bytes(sample), boundary, required)
                if fits or required:
                    layer.add((view, position), sample, spill=not fits)

    def get(self, view: int, boundary: int, positions: Iterable[int]) -> list[Sample]:
        """Return stored samples."""
        layer = self._layers[boundary]
        return [layer.get((view, int(position))) for position in positions]

    def missing(self, view: int, boundary: int, positions: Iterable[int]) -> list[int]:
        """Return the positions of samples that are not stored."""
        layer = self._layers.get(boundary, _Layer())
        return [position for position in positions if (view, position) not in layer.samples]

    def discard(self, *boundaries: int) -> None:
        """Remove all samples at some boundaries, where only required ones are stored from then on."""
        for boundary in boundaries:
            self._layers.pop(boundary, None)

    def _make_room(self, size: int, boundary: int, required: bool) -> bool:
        """Discard other boundaries until a sample of this size fits; return whether it fits."""
        while self.nbytes + size > self.budget:
            if required and max(self._layers) > boundary:
                self.discard(max(self._layers))
            elif min(self._layers) < boundary:
                self.discard(min(self._layers))
            else:
                return False
        return True


@dataclass
class _Layer:
    """Samples at one boundary, by view and position."""

    samples: dict[tuple[int, int], Sample] = field(default_factory=dict)
    #: Bytes in memory.
    nbytes: int = 0
    file: _SpillFile | None = None

    def add(self, key: tuple[int, int], sample: Sample, *, spill: bool) -> None:
        if spill:
            self.file = self.file or _SpillFile()
            sample = self.file.write(sample)
        else:
            self.nbytes += count_bytes(sample)
        self.samples[key] = sample

    def get(self, key: tuple[int, int]) -> Sample:
        return self.samples[key] if self.file is None else self.file.read(self.samples[key])


class _Place(NamedTuple):
    """Place of an array in the file."""

    offset: int
    dtype: Any
    shape: tuple[int, ...]


class _SpillFile:
    """Temporary file for the arrays of samples. It has no name, so that even a killed process leaves nothing behind."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="skembed-")  # noqa: SIM115, it lives as long as the store
        self.nbytes = 0

    def write(self, sample: Sample) -> Sample:
        """Write the arrays of a sample; return the sample with their places instead of them."""
        self._file.seek(0, os.SEEK_END)
        sample = [replace(item, data={k: self._write(v) for k, v in item.data.items()}) for item in sample]
        # Here, so that a full disk shows before anything relies on the sample.
        self._file.flush()
        return sample

    def read(self, sample: Sample) -> Sample:
        """Return a sample with its arrays; a sample that was never written is returned unchanged."""
        return [replace(item, data={k: self._read(v) for k, v in item.data.items()}) for item in sample]

    def _write(self, value: Any) -> Any:
        if not isinstance(value, (np.ndarray, Tensor)):
            return value
        self._file.write(_memory(value))
        offset, self.nbytes = self.nbytes, self.nbytes + value.nbytes
        return _Place(offset, value.dtype, tuple(value.shape))

    def _read(self, value: Any) -> Any:
        if not isinstance(value, _Place):
            return value
        empty = torch.empty if isinstance(value.dtype, torch.dtype) else np.empty
        array = empty(value.shape, dtype=value.dtype)
        self._file.seek(value.offset)
        if self._file.readinto(_memory(array)) < array.nbytes:
            raise OSError("a temporary file is shorter than what was written to it")
        return array


def _memory(array: np.ndarray | Tensor) -> memoryview:
    """Return the bytes of an array; if it is not contiguous, those of a copy."""
    if isinstance(array, Tensor):
        return array.contiguous().flatten().view(torch.uint8).numpy().data
    # Not through torch, which rejects negative strides and warns of read-only arrays.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def regroup(items: Iterable[Item], samples: Sequence[Sample]) -> list[Sample]:
    """Return items in one list per sample, each as long as the sample."""
    remaining = iter(items)
    return [[next(remaining) for _ in sample] for sample in samples]
