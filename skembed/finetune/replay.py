"""The replayed prefix: what frozen blocks return for each sample is computed once and kept, however many epochs follow.

Frozen blocks are in eval mode and never change, so what they return for a sample is the same in every epoch. It is
computed by the shared backbone, with everything that makes inference fast, and kept in memory, then in a file.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skembed.backbones.base import Backbone, Item
from skembed.finetune.network import Network
from skembed.inference.bounded_map import count_bytes
from skembed.inference.extract import computing, each_batch, embed_items
from skembed.inference.reading import Reading
from skembed.utils.device import is_device_fault, move

__all__ = [
    "MEMORY",
    "ItemStore",
    "Prefixes",
    "agree",
    "fill_store",
    "frozen_blocks",
    "last_frozen",
    "replay_block",
    "run_up_to",
]

#: Bytes of prepared samples, or of activations, that are held in memory; the rest goes to a temporary file.
MEMORY = 2 * 1024**3
#: Blocks whose results are kept on the way to a higher one, from the highest on: as many as stages need that double,
#: each the one before, in networks of up to 16 blocks. A fit may well end before it comes to lower ones.
_KEPT = 4
#: Largest difference, relative to the largest value, between a replayed pass and a plain one; in half precision.
_TOLERANCE, _ROUNDED = 1e-3, 1e-2
#: What networks raise that cannot be entered behind a block; NotImplementedError is a RuntimeError.
_CANNOT_ENTER = (IndexError, KeyError, RuntimeError, TypeError, ValueError)

Sample = Sequence[Item]


class ItemStore:
    """Prepared samples in order, in memory up to a budget and in a memory-mapped temporary file beyond it.

    Parameters
    ----------
    budget : int, default=MEMORY
        Bytes held in memory.
    """

    def __init__(self, budget: int = MEMORY):
        self.budget = budget
        self._samples: list[Sample] = []
        self._held = 0
        self._written = 0
        self._file: Any = None
        self._map: mmap.mmap | None = None

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def bytes_in_memory(self) -> int:
        """Bytes that are held."""
        return self._held

    @property
    def bytes_on_disk(self) -> int:
        """Bytes in the temporary file, which goes away with the store."""
        return self._written

    def append(self, sample: Sample) -> None:
        """Keep one more sample.

        Raises
        ------
        OSError
            If memory is used up and the disk is full.
        """
        size = count_bytes(sample)
        if self._held + size <= self.budget:
            self._held += size
        else:
            sample = [replace(item, data={k: self._spill(v) for k, v in item.data.items()}) for item in sample]
            if self._file is not None:
                # Here, so that a full disk shows before anything relies on the store.
                self._file.flush()
        self._samples.append(sample)

    def __getitem__(self, index: int) -> Sample:
        sample = self._samples[index]
        if self._file is None:
            return sample
        return [replace(item, data={k: self._fetch(v) for k, v in item.data.items()}) for item in sample]

    def _spill(self, value: Any) -> Any:
        if not isinstance(value, (np.ndarray, Tensor)):
            return value
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="skembed-")  # noqa: SIM115, it lives as long as the store
        if isinstance(value, np.ndarray):
            # Not by way of torch, which takes no array that is turned round and warns of one that cannot be written.
            raw = value.tobytes()
        else:
            raw = value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        self._file.write(raw)
        offset, self._written = self._written, self._written + len(raw)
        return _Spilled(offset, len(raw), value.dtype, tuple(value.shape), isinstance(value, np.ndarray))

    def _fetch(self, value: Any) -> Any:
        if not isinstance(value, _Spilled):
            return value
        if not value.size:
            return np.empty(value.shape, value.dtype) if value.array else torch.empty(value.shape, dtype=value.dtype)
        if self._map is None or len(self._map) < self._written:
            self._map = mmap.mmap(self._file.fileno(), self._written, access=mmap.ACCESS_READ)
        raw = bytearray(self._map[value.offset : value.offset + value.size])
        if value.array:
            return np.frombuffer(raw, dtype=value.dtype).reshape(value.shape)
        return torch.frombuffer(raw, dtype=value.dtype).reshape(value.shape)


class _Spilled:
    """Where an array lies in the file."""

    __slots__ = ("array", "dtype", "offset", "shape", "size")

    def __init__(self, offset: int, size: int, dtype: Any, shape: tuple[int, ...], array: bool):
        self.offset, self.size, self.dtype, self.shape, self.array = offset, size, dtype, shape, array


def replay_block(network: Network, n_unfrozen: int) -> int | None:
    """The block behind which training may enter the network; None if all of it trains or is read."""
    return last_frozen(network.reading, n_unfrozen)


def last_frozen(reading: Reading, n_unfrozen: int) -> int | None:
    """The same of a network that is not there yet: blocks above the highest layer that is read never train."""
    block = min(max(reading.layers) - n_unfrozen, *reading.layers)
    return block if block >= 0 else None


def frozen_blocks(reading: Reading, stages: Iterable[int]) -> list[int]:
    """The last frozen blocks of the first stages that replay any, in which so many blocks train; ascending."""
    blocks = {last_frozen(reading, n_unfrozen) for n_unfrozen in stages if n_unfrozen}
    return sorted(block for block in blocks if block is not None)[-_KEPT:]


class Prefixes:
    """Runs samples up to blocks, once for all of them: on the way to one, what lower ones return is kept.

    Parameters
    ----------
    backbone : Backbone
        Runs them; any precision.
    blocks : sequence of int
        The last block that is frozen, in each of the stages that may follow; ascending.
    batch_size : int, optional
        See `skembed.inference.extract.extract`.
    budget : int, default=MEMORY
        Bytes that are kept. Where they do not suffice the lowest block gives up its own, and so on; what the highest
        cannot keep is advanced and forgotten.
    """

    def __init__(self, backbone: Backbone, blocks: Sequence[int], batch_size: int | None = None, budget: int = MEMORY):
        self.backbone, self.blocks, self.batch_size, self.budget = backbone, blocks, batch_size, budget
        #: By block, the samples behind it, by their positions.
        self.known: dict[int, dict[int, Sample]] = {block: {} for block in blocks}
        self._held = dict.fromkeys(blocks, 0)

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return sum(self._held.values())

    def take(self, block: int) -> dict[int, Sample]:
        """What is known behind a block, by position; it is not held here any more."""
        self._held.pop(block, None)
        return self.known.pop(block, {})

    def forget(self) -> None:
        """Hold nothing any more, and keep nothing."""
        self.known.clear()
        self._held.clear()

    def behind(
        self,
        block: int,
        samples: Sequence[Sample],
        positions: Sequence[int],
        *,
        beside: int = 0,
        report: Callable[[int], Any] | None = None,
    ) -> list[Sample]:
        """Return samples behind a block, to be kept elsewhere.

        Parameters
        ----------
        block : int
            Last of the blocks that are run.
        samples, positions : sequence
            Prepared samples and their positions in the data.
        beside : int, default=0
            Bytes of such samples that are kept already.
        report : callable, optional
            Called with the number of samples that each batch completes.
        """
        lower = [each for each in self.known if each < block]
        *found, wanted = run_up_to(self.backbone, samples, [*lower, block], self.batch_size, report)
        beside += sum(map(count_bytes, wanted))
        self._make_room(block, beside)
        for each, advanced in reversed(list(zip(lower, found, strict=True))):
            self._keep(each, advanced, positions, beside)
        return wanted

    def first(
        self, samples: Sequence[Sample], positions: Sequence[int], report: Callable[[int], Any] | None = None
    ) -> list[Sample]:
        """Return samples behind the highest of the blocks, which keeps them, too."""
        advanced = self.behind(self.blocks[-1], samples, positions, report=report)
        self._keep(self.blocks[-1], advanced, positions, 0)
        return advanced

    def _keep(self, block: int, samples: Sequence[Sample], positions: Sequence[int], beside: int) -> None:
        for position, sample in zip(positions, samples, strict=True):
            size = count_bytes(sample)
            # It may have given up its own for a higher one.
            if block in self.known and position not in self.known[block] and self._make_room(block, beside + size):
                self._held[block] += size
                self.known[block][position] = sample

    def _make_room(self, block: int, size: int) -> bool:
        """Lower blocks give up theirs for so many bytes behind a block, where they must; whether there is room then."""
        while self.nbytes + size > self.budget and any(each < block for each in self.known):
            self.take(min(self.known))
        return self.nbytes + size <= self.budget

    def is_exact(self, samples: Sequence[Sample], reading: Reading) -> bool:
        """Whether rows are the same when the network is left behind a block and entered again."""

        def rows(items: Sequence[Sample]) -> np.ndarray:
            batches = list(embed_items(self.backbone, items, reading, self.batch_size))
            order = np.argsort(np.concatenate([done for done, _ in batches]))
            return np.concatenate([vectors for _, vectors in batches])[order]

        plain = rows(samples)
        # Rounding of half precision depends on the batch; the hidden states themselves are kept as they were.
        rounded = next(self.backbone.module.parameters()).dtype != torch.float32
        tolerance = (_ROUNDED if rounded else _TOLERANCE) * np.abs(plain).max()
        try:
            for behind in run_up_to(self.backbone, samples, self.blocks, self.batch_size):
                again = rows(behind)
                if again.shape != plain.shape or not np.abs(again - plain).max() <= tolerance:
                    return False
        except _CANNOT_ENTER as error:
            if is_device_fault(error):
                raise
            return False
        return True


def fill_store(
    store: ItemStore,
    prepared: Iterator[Sequence[Sample]],
    *,
    advance: Callable[[Sequence[Sample]], Sequence[Sample]] | None = None,
    known: dict[int, Sample] | None = None,
) -> ItemStore:
    """Keep prepared samples, as they are or run up to a block.

    Parameters
    ----------
    store : ItemStore
        Filled in order.
    prepared : iterator of lists of samples
        Chunks, so that no more than one of them is held besides the store.
    advance : callable, optional
        Runs samples up to a block; None keeps them as they are.
    known : dict of int to sample, optional
        By position those that are behind the block already, and not in `prepared`; they move into the store.
    """
    known = {} if known is None else known

    def take_known() -> None:
        while len(store) in known:
            store.append(known.pop(len(store)))

    take_known()
    for chunk in prepared:
        for sample in chunk if advance is None else advance(chunk):
            store.append(sample)
            take_known()
    return store


def run_up_to(
    backbone: Backbone,
    chunk: Sequence[Sample],
    blocks: Sequence[int],
    batch_size: int | None,
    report: Callable[[int], Any] | None = None,
) -> list[list[Sample]]:
    """Return for each of the blocks the samples behind it, from one pass of the frozen ones.

    Parameters
    ----------
    backbone : Backbone
        Runs them.
    chunk : sequence of samples
        Prepared, or advanced to a lower block.
    blocks : sequence of int
        Ascending.
    batch_size : int or None
        See `skembed.inference.extract.extract`.
    report : callable, optional
        Called with the number of samples that each batch completes.
    """
    flat = [item for sample in chunk for item in sample]
    weight = next(backbone.module.parameters())

    def run(items: list[Item]) -> list[list[Item]]:
        with computing(weight.device):
            return backbone.advance(items, move(backbone.collate(items), weight.device, weight.dtype), blocks)

    owner = np.repeat(np.arange(len(chunk)), [len(sample) for sample in chunk])
    left = np.bincount(owner, minlength=len(chunk))
    done: list[dict[int, Item]] = [{} for _ in blocks]
    for batch, found in each_batch(backbone, flat, run, batch_size):
        for behind, items in zip(done, found, strict=True):
            behind.update(zip(batch, items, strict=True))
        if report is not None:
            np.subtract.at(left, owner[batch], 1)
            report(int((left[np.unique(owner[batch])] == 0).sum()))
    return [_by_sample(chunk, [behind[i] for i in range(len(flat))]) for behind in done]


def _by_sample(chunk: Sequence[Sample], flat: Sequence[Item]) -> list[Sample]:
    items = iter(flat)
    return [[next(items) for _ in sample] for sample in chunk]


def agree(network: Network, samples: Sequence[Sample], block: int) -> str | None:
    """Whether a network gives the same rows when it is entered behind a block; if not, why.

    Some networks hand more along than the hidden state, past the block. What they do is seen here and not assumed.

    Returns
    -------
    str or None
        The reason why it does not; None where it does.
    """
    backbone = network.backbone
    with torch.no_grad():
        plain = network.features(samples)
        flat = [item for sample in samples for item in sample]
        try:
            batch = move(backbone.collate(flat), network.device, torch.float32)
            (found,) = backbone.advance(flat, batch, [block])
            advanced = iter(found)
            replayed = network.features([[next(advanced) for _ in sample] for sample in samples])
        except NotImplementedError as error:
            return str(error)
        except _CANNOT_ENTER as error:
            if is_device_fault(error):
                raise
            return f"entering it behind block {block} failed ({type(error).__name__}: {str(error)[:200]})"
        tolerance = (_ROUNDED if network.mixed_precision else _TOLERANCE) * plain.abs().max()
        if replayed.shape == plain.shape and bool((replayed - plain).abs().max() <= tolerance):
            return None
    return f"its rows differ when it is entered behind block {block}"
