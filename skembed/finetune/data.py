"""Samples on their way into training: prepared, changed, embedded, and run up to the blocks that train."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from skembed.augment import Augmentation, sample_rng
from skembed.embedders.encoder import Encoder
from skembed.finetune.features import FreshSource, NetworkSource, TableSource
from skembed.finetune.loop import Source
from skembed.finetune.network import FrozenNetwork, Network
from skembed.finetune.replay import (
    MEMORY,
    ItemStore,
    Prefixes,
    Sample,
    agree,
    fill_store,
    frozen_blocks,
    replay_block,
)
from skembed.inference.bounded_map import count_bytes
from skembed.inference.extract import Batch, embed_items, prepare, workers
from skembed.inference.nonfinite import find_nonfinite
from skembed.utils.progress import progress_bar

__all__ = ["TrainingData", "Views", "embed_first", "embed_view", "prepared_chunks"]

#: What lets frozen blocks be replayed in spite of mixing.
_INSTEAD = {"mixup": "with mixup_on='features'", "cutmix": "without cutmix"}
#: Description of the progress bar of that.
_RECORDING = "recording activations"
#: Samples on which a replayed pass is compared with a plain one.
_TRIED = 4


@dataclass(frozen=True)
class Views:
    """How samples are changed for training.

    Parameters
    ----------
    augmentation : Augmentation
    seed : int
        With the number of the view and the position of the sample it decides everything.
    stored : int, optional
        Views of each sample that are prepared once and gone through in turn, the unchanged one first; None changes
        samples anew in every epoch.
    """

    augmentation: Augmentation
    seed: int
    stored: int | None = None

    def reader(self, read: Callable[[Any], tuple[Any, bool]], view: int, rate: int | None) -> Callable:
        """Reads a pair of position and raw sample, and changes what was read."""

        def read_changed(pair: tuple[int, Any]) -> tuple[Any, bool]:
            value, cut = read(pair[1])
            rng = sample_rng(self.seed, view, pair[0])
            return self.augmentation.on_sample(value, rng, sampling_rate=rate), cut

        return read_changed

    def change(self, sample: Sample, view: int, position: int, backbone: Any) -> Sample:
        """Changes what the backbone prepared."""
        if not self.augmentation.changes_items:
            return sample
        rng = sample_rng(self.seed, view, position, stage=1)
        return [self.augmentation.on_item(item, rng, backbone) for item in sample]


def prepared_chunks(
    encoder: Encoder,
    backbone: Any,
    samples: Sequence[Any],
    *,
    views: Views | None = None,
    view: int = 0,
    positions: Sequence[int] | np.ndarray | None = None,
) -> Iterator[list[Sample]]:
    """Decoded and preprocessed samples, a chunk at a time; fewer of them where they are large.

    Parameters
    ----------
    encoder : Encoder
    backbone : Backbone
        Prepares them.
    samples : sequence
        Raw samples, all of them readable.
    views : Views, optional
        Changes them, in every view but the first.
    view : int
        Which.
    positions : sequence of int, optional
        Of the samples in the data, which decide how they are changed; None counts from 0.
    """
    read, size = encoder.reader(backbone), encoder.chunk_size
    where: Any = range(len(samples)) if positions is None else positions
    with workers() as pool:
        start = 0
        while start < len(samples):
            part, at = list(samples[start : start + size]), [int(i) for i in where[start : start + size]]
            if views is None or view == 0:
                prepared, _ = prepare(backbone, part, encoder.readout, read, pool, at, "raise")
                start += len(prepared)
                yield [items for items, _ in prepared]
                continue
            changed = views.reader(read, view, backbone.sampling_rate)
            pairs = list(zip(at, part, strict=True))
            prepared, _ = prepare(backbone, pairs, encoder.readout, changed, pool, at, "raise")
            at = at[: len(prepared)]
            start += len(prepared)
            yield [
                views.change(items, view, position, backbone) for position, (items, _) in zip(at, prepared, strict=True)
            ]


def embed_view(encoder: Encoder, samples: Sequence[Any], views: Views, view: int) -> np.ndarray:
    """Rows of changed samples, as `transform` would give them.

    Parameters
    ----------
    encoder : Encoder
    samples : sequence
        Raw samples.
    views, view
        How they are changed, and which of the ways.
    """
    backbone = encoder.backbone()
    rows = np.empty((len(samples), encoder.width), dtype=np.float32)
    start, dtype = 0, next(backbone.module.parameters()).dtype
    with progress_bar(len(samples), f"embedding view {view + 1}") as bar:
        for chunk in prepared_chunks(encoder, backbone, samples, views=views, view=view):
            part = rows[start : start + len(chunk)]
            for done, vectors in embed_items(backbone, chunk, encoder.readout, encoder.batch_size):
                part[done] = vectors
                bar.update(len(done))
            errors = find_nonfinite(part, range(start, start + len(chunk)), dtype)
            if errors and encoder.embedder.on_error == "raise":
                raise errors[0]
            start += len(chunk)
    return encoder.finish(rows)


def embed_first(
    encoder: Encoder, samples: Sequence[Any], stages: Sequence[int], views: Views | None = None
) -> tuple[np.ndarray, Prefixes | None]:
    """Rows of samples, as `transform` gives them, and what the blocks below those that train returned on the way.

    Parameters
    ----------
    encoder : Encoder
    samples : sequence
        Raw samples.
    stages : sequence of int
        How many blocks train in each of the stages that follow.
    views : Views, optional
        How samples are changed for training; views that are stored share the memory for what is kept.

    Returns
    -------
    rows : ndarray of shape (n_samples, n_features), float32
    first : Prefixes or None
        None where nothing can be kept: no block is frozen, all rows were known, the network cannot be entered there, or
        is not on a processor.
    """
    blocks = frozen_blocks(encoder.readout, stages)
    # To enter a network is to pass over its lower blocks, for every thread that is in it. On a processor that is one.
    if not blocks or encoder.device.type != "cpu":
        return encoder.embed(samples), None
    # One, made once something has to be computed.
    passes: list[Prefixes | None] = []

    def compute(missing: Sequence[Any], *, positions: Sequence[int]) -> Iterator[Batch]:
        if not passes:
            first = Prefixes(encoder.backbone(), blocks, encoder.batch_size, _budget(views))
            tried = next(prepared_chunks(encoder, first.backbone, missing[:_TRIED], positions=positions[:_TRIED]))
            passes.append(first if first.is_exact(tried, encoder.readout) else None)
        if passes[0] is None:
            yield from encoder.compute(missing, positions=positions)
            return
        with progress_bar(len(missing), _RECORDING) as bar:
            advance = partial(passes[0].first, report=bar.update)
            yield from encoder.compute(missing, positions=positions, advance=advance)

    rows = encoder.embed(samples, compute)
    return rows, passes[0] if passes else None


def _budget(views: Views | None) -> int:
    """Bytes in memory for what frozen blocks return for one view of the samples."""
    return MEMORY // _n_views(views)


def _n_views(views: Views | None) -> int:
    return 1 if views is None or views.stored is None else views.stored


def _counted(chunks: Iterator[list[Sample]], bar: Any) -> Iterator[list[Sample]]:
    """Yield chunks of samples, and count their samples on a progress bar."""
    for chunk in chunks:
        yield chunk
        bar.update(len(chunk))


class TrainingData:
    """The samples of one fit, held-out ones included.

    Parameters
    ----------
    encoder : Encoder
        Frozen.
    samples : sequence
        Raw samples.
    frozen : ndarray of shape (n_samples, n_features), float32
        Their embeddings.
    replay : bool
        Whether frozen blocks may be computed once and kept.
    views : Views, optional
        How samples are changed for training.
    first : Prefixes, optional
        What frozen blocks returned while the embeddings were computed.
    stages : sequence of int, default=()
        How many blocks train in each of the stages that follow; a source may be asked for any other number, too.
    mixers : sequence of str, default=()
        What mixes samples before they enter the network, if anything does: "mixup", "cutmix".
    """

    def __init__(
        self,
        encoder: Encoder,
        samples: Sequence[Any],
        frozen: np.ndarray,
        *,
        replay: bool,
        views: Views | None = None,
        first: Prefixes | None = None,
        stages: Sequence[int] = (),
        mixers: Sequence[str] = (),
    ):
        self.encoder, self.samples, self.frozen, self.replay, self.views = encoder, samples, frozen, replay, views
        self._blocks = frozen_blocks(encoder.readout, stages)
        #: By view, what was kept on the way to higher blocks.
        self._prefixes = {} if first is None else {0: first}
        #: Why the frozen blocks were not replayed, where they were not.
        self.notes: list[str] = []
        self._whole: ItemStore | None = None
        #: By block, what frozen blocks return for each view.
        self._held: dict[int, list[ItemStore]] = {}
        self._tables: list[np.ndarray] | None = None
        if views is not None and views.stored is None:
            self.replay = False
            self._note(
                "The frozen blocks were computed in every epoch: samples were changed anew each time. "
                "augment_views=4, say, keeps four views of each sample, and what the frozen blocks return for them."
            )
        if mixers:
            self.replay = False
            without = " and ".join(_INSTEAD[name] for name in mixers)
            self._note(
                "The frozen blocks were computed in every epoch: samples were mixed before they entered, each time "
                f"with others. {without[0].upper()}{without[1:]}, what they return is computed once."
            )

    def source(self, network: FrozenNetwork, n_unfrozen: int) -> tuple[Source, bool]:
        """Where features come from while so many blocks train, and whether frozen blocks are replayed for it."""
        if n_unfrozen == 0 and self.replay:
            return TableSource(self._known_tables(), network.device), True
        assert isinstance(network, Network)
        block = replay_block(network, n_unfrozen) if self.replay else None
        if block is not None:
            stores = self._replayed(network, block)
            if stores is not None:
                return NetworkSource(network, stores), True
        if self.views is None:
            return NetworkSource(network, [self._prepared(network)]), False
        return FreshSource(network, self._prepared(network), partial(self._changed, network)), False

    def _changed(self, network: Network, indices: np.ndarray, view: int) -> list[Sample]:
        samples = [self.samples[i] for i in indices]
        if self.views is not None and self.views.stored is not None:
            view %= self.views.stored
        chunks = prepared_chunks(
            self.encoder, network.backbone, samples, views=self.views, view=view, positions=indices
        )
        return [sample for chunk in chunks for sample in chunk]

    def _known_tables(self) -> list[np.ndarray]:
        if self._tables is None:
            self._tables = [self.frozen]
            for view in range(1, _n_views(self.views)):
                assert self.views is not None
                self._tables.append(embed_view(self.encoder, self.samples, self.views, view))
        return self._tables

    def _replayed(self, network: Network, block: int) -> list[ItemStore] | None:
        if block in self._held:
            return self._held[block]
        why = agree(network, next(prepared_chunks(self.encoder, network.backbone, self.samples[:_TRIED])), block)
        if why is not None:
            self._give_up(why)
            return None
        try:
            self._held[block] = [self._filled(network, block, view) for view in range(_n_views(self.views))]
        except OSError as error:
            self._give_up(f"what they return could not be kept ({error})")
            return None
        return self._held[block]

    def _give_up(self, why: str) -> None:
        since = " from then on" if self._held else ""
        self._note(f"The frozen blocks were computed in every epoch{since}: {why}.")
        self.replay = False
        for prefixes in self._prefixes.values():
            prefixes.forget()
        self._held.clear()

    def _filled(self, network: Network, block: int, view: int) -> ItemStore:
        budget = _budget(self.views)
        if view not in self._prefixes:
            self._prefixes[view] = Prefixes(self.encoder.backbone(), self._blocks, self.encoder.batch_size, budget)
        prefixes = self._prefixes[view]
        known = prefixes.take(block)
        for above in [each for each in prefixes.known if each > block]:
            prefixes.take(above)  # a fit that goes on from a checkpoint does not come to it
        # What the next stage needs lies below. The same way may be gone once more, as long as there is room for it.
        held = [stores[view].bytes_in_memory for stores in self._held.values()]
        if held and sum(held) + prefixes.nbytes + max(held) > budget:
            self._held.clear()
            held = []
        missing = [i for i in range(len(self.samples)) if i not in known]
        chunks = prepared_chunks(
            self.encoder,
            network.backbone,
            [self.samples[i] for i in missing],
            views=self.views,
            view=view,
            positions=missing,
        )
        left, bar = iter(missing), progress_bar(len(missing), _RECORDING)
        store = ItemStore(max(0, budget - prefixes.nbytes - sum(held)))

        def advance(chunk: Sequence[Sample]) -> list[Sample]:
            positions = [next(left) for _ in chunk]
            beside = sum(held) + store.bytes_in_memory + sum(map(count_bytes, known.values()))
            advanced = prefixes.behind(block, chunk, positions, beside=beside, report=bar.update)
            store.budget = max(0, budget - prefixes.nbytes - sum(held))
            return advanced

        with bar:
            return fill_store(store, chunks, advance=advance, known=known)

    def _prepared(self, network: Network) -> ItemStore:
        if self._whole is None:
            with progress_bar(len(self.samples), "reading samples") as bar:
                chunks = prepared_chunks(self.encoder, network.backbone, self.samples)
                self._whole = fill_store(ItemStore(), _counted(chunks, bar))
        return self._whole

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)
