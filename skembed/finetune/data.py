"""Samples for training: prepared, changed, embedded, and run up to the blocks that train."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from typing import Any

import numpy as np

from skembed.augment import AugmentationPipeline, sample_rng
from skembed.backbones.base import Backbone
from skembed.embedders.encoder import Encoder
from skembed.finetune.activations import INPUT, MEMORY, ActivationStore, Sample
from skembed.finetune.features import NetworkSource, TableSource
from skembed.finetune.loop import Source
from skembed.finetune.network import FrozenNetwork, Network
from skembed.finetune.replay import FrozenBlocks, can_resume, last_frozen, planned_boundaries
from skembed.inference.extract import Batch, embed_items, prepare, workers
from skembed.inference.nonfinite import find_nonfinite
from skembed.utils.progress import progress_bar

__all__ = ["TrainingData", "Views", "embed_view", "prepared_chunks"]

#: Ways of mixing with which activations of frozen blocks can be stored.
_INSTEAD = {"mixup": "with Mixup(on='features')", "cutmix": "without CutMix"}
#: Description of the progress bar while activations are recorded.
_RECORDING = "recording activations"
#: Samples on which a resumed pass is compared with a plain one.
_N_TRIED = 4


@dataclass(frozen=True)
class Views:
    """Changes of samples for training, by view.

    Parameters
    ----------
    augmentation : AugmentationPipeline
    seed : int
        Seed of the changes, together with the view and the position of the sample.
    stored : int, optional
        Number of stored views of each sample, used in turn, the unchanged one first; None changes samples anew in
        every epoch.
    """

    augmentation: AugmentationPipeline
    seed: int
    stored: int | None = None

    def reader(self, read: Callable[[Any], tuple[Any, bool]], view: int, rate: int | None) -> Callable:
        """Return a function that reads a pair of position and raw sample, and changes the sample."""

        def read_changed(pair: tuple[int, Any]) -> tuple[Any, bool]:
            value, cut = read(pair[1])
            rng = sample_rng(self.seed, view, pair[0])
            return self.augmentation.on_sample(value, rng, sampling_rate=rate), cut

        return read_changed

    def change(self, sample: Sample, view: int, position: int, backbone: Any) -> Sample:
        """Return a prepared sample with the changes of a view."""
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
    """Yield decoded and preprocessed samples in chunks, smaller ones if samples are large.

    Parameters
    ----------
    encoder : Encoder
    backbone : Backbone
        Backbone that prepares the samples.
    samples : sequence
        Raw samples that can be read.
    views : Views, optional
        Changes of samples, in every view but the first.
    view : int
        Number of the view.
    positions : sequence of int, optional
        Positions of the samples in the data, which decide their changes; None counts from 0.
    """
    read, size = encoder.reader(backbone), encoder.chunk_size
    where: Any = range(len(samples)) if positions is None else positions
    changes = views if view else None
    if changes is not None:
        read = changes.reader(read, view, backbone.sampling_rate)
    with workers() as pool:
        start = 0
        while start < len(samples):
            part: list[Any] = list(samples[start : start + size])
            at = [int(i) for i in where[start : start + size]]
            if changes is not None:
                part = list(zip(at, part, strict=True))
            prepared, _ = prepare(backbone, part, encoder.readout, read, pool, at, "raise")
            chunk = [items for items, _ in prepared]
            if changes is not None:
                chunk = [changes.change(items, view, at[i], backbone) for i, items in enumerate(chunk)]
            start += len(chunk)
            yield chunk


def embed_view(encoder: Encoder, samples: Sequence[Any], views: Views, view: int) -> np.ndarray:
    """Return rows of changed samples, in the form of `transform`.

    Parameters
    ----------
    encoder : Encoder
    samples : sequence
        Raw samples.
    views, view
        Changes, and the number of the view.
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


class TrainingData:
    """Samples of one fit, held-out ones included.

    Parameters
    ----------
    encoder : Encoder
        Fitted embedder.
    samples : sequence
        Raw samples.
    replay : bool
        If True, frozen blocks are computed once and their activations are stored.
    views : Views, optional
        Changes of samples for training.
    stages : sequence of int, default=()
        Number of blocks that train in each stage of the plan; a source may be asked for any other number, too.
    mixers : sequence of str, default=()
        Names of the mixers of network inputs: "mixup", "cutmix".
    """

    def __init__(
        self,
        encoder: Encoder,
        samples: Sequence[Any],
        *,
        replay: bool,
        views: Views | None = None,
        stages: Sequence[int] = (),
        mixers: Sequence[str] = (),
    ):
        self.encoder, self.samples, self.replay, self.views = encoder, samples, replay, views
        self.store = ActivationStore(MEMORY, planned_boundaries(encoder.readout, stages))
        self._n_views = 1 if views is None or views.stored is None else views.stored
        #: Reasons why the activations of frozen blocks were not stored, if they were not.
        self.notes: list[str] = []
        #: Boundaries of stages that were entered, where the network of the fit can be resumed.
        self._entered: set[int] = set()
        if views is not None and views.stored is None:
            self.replay = False
            self.notes.append(
                "The frozen blocks were computed in every epoch: samples were changed anew each time. "
                "Augmentation(..., views=4), say, keeps four views of each sample, and their activations."
            )
        if mixers:
            self.replay = False
            without = " and ".join(_INSTEAD[name] for name in mixers)
            self.notes.append(
                "The frozen blocks were computed in every epoch: samples were mixed before they entered, each time "
                f"with others. {without[0].upper()}{without[1:]}, what they return is computed once."
            )

    # -- embeddings -------------------------------------------------------------------------------------

    @cached_property
    def embeddings(self) -> np.ndarray:
        """Return finished rows of the samples; activations are recorded if the network has to run."""
        # A network is resumed for every thread that is in it. On a CPU only one thread computes at a time.
        if not self.replay or not self.store.boundaries or self.encoder.device.type != "cpu":
            return self.encoder.embed(self.samples)
        return self.encoder.embed(self.samples, self._compute)

    def _compute(self, samples: Sequence[Any], *, positions: Sequence[int]) -> Iterator[Batch]:
        """Compute rows of samples that are in no cache, from their activations at the highest boundary."""
        if not self._can_record:
            yield from self.encoder.compute(samples, positions=positions)
            return
        with progress_bar(len(samples), _RECORDING) as bar:
            record = partial(self._record, 0, self.store.boundaries[-1], report=bar.update, required=False)
            yield from self.encoder.compute(samples, positions=positions, advance=record)

    @cached_property
    def _can_record(self) -> bool:
        """True if the embedder's own network can be resumed at all boundaries of the plan."""
        few = self._few_prepared(self._frozen_blocks.backbone)
        return can_resume(self._frozen_blocks, few, self.store.boundaries) is None

    @cached_property
    def _tables(self) -> list[np.ndarray]:
        """Return rows of each view of the samples."""
        if self.views is None:
            return [self.embeddings]
        others = (embed_view(self.encoder, self.samples, self.views, view) for view in range(1, self._n_views))
        return [self.embeddings, *others]

    # -- sources ----------------------------------------------------------------------------------------

    def source(self, network: FrozenNetwork, n_unfrozen: int) -> tuple[Source, bool]:
        """Return the source of features while so many blocks train, and whether it replays the frozen blocks."""
        if n_unfrozen == 0 and self.replay:
            return TableSource(self._tables, network.device), True
        assert isinstance(network, Network)
        boundary = last_frozen(network.reading, n_unfrozen) if self.replay else INPUT
        obstacle = None if boundary == INPUT else self._record_all(network, boundary)
        if obstacle is not None:
            self._give_up(obstacle)
            boundary = INPUT
        if boundary == INPUT:
            self._fill(network, INPUT)
        return NetworkSource(network, partial(self._fetch, network, boundary)), boundary != INPUT

    def _fetch(self, network: Network, boundary: int, indices: Sequence[int] | np.ndarray, view: int) -> list[Sample]:
        """Return stored samples; of the inputs of the network, only the unchanged ones are stored."""
        if self.views is None or self.views.stored is not None:
            view %= self._n_views
        if boundary == INPUT and view:
            return [sample for chunk in self._prepared(network, indices, view) for sample in chunk]
        return self.store.get(view, boundary, indices)

    def _prepared(self, network: Network, indices: Sequence[int] | np.ndarray, view: int) -> Iterator[list[Sample]]:
        samples = [self.samples[i] for i in indices]
        return prepared_chunks(self.encoder, network.backbone, samples, views=self.views, view=view, positions=indices)

    # -- activations ------------------------------------------------------------------------------------

    @cached_property
    def _frozen_blocks(self) -> FrozenBlocks:
        return FrozenBlocks(self.encoder.backbone(), self.encoder.readout, self.encoder.batch_size)

    def _few_prepared(self, backbone: Backbone) -> list[Sample]:
        return next(prepared_chunks(self.encoder, backbone, self.samples[:_N_TRIED]))

    def _record_all(self, network: Network, boundary: int) -> str | None:
        """Record what is missing at a boundary; return the reason if it cannot be used or stored."""
        if boundary not in self._entered:
            obstacle = can_resume(network, self._few_prepared(network.backbone), [boundary])
            if obstacle is not None:
                return obstacle
        # A fit that is resumed from a checkpoint does not return to the stages before it.
        self.store.discard(*(b for b in self.store.boundaries if b > boundary and b not in self._entered))
        try:
            for view in range(self._n_views):
                self._fill(network, boundary, view)
        except OSError as error:
            return f"what they return could not be kept ({error})"
        self._entered.add(boundary)
        return None

    def _fill(self, network: Network, boundary: int, view: int = 0) -> None:
        """Store the samples that are missing at a boundary."""
        missing = self.store.missing(view, boundary, range(len(self.samples)))
        if not missing:
            return
        remaining = iter(missing)
        with progress_bar(len(missing), "reading samples" if boundary == INPUT else _RECORDING) as bar:
            for chunk in self._prepared(network, missing, view):
                positions = list(islice(remaining, len(chunk)))
                if boundary == INPUT:
                    self.store.put(view, INPUT, positions, chunk)
                    bar.update(len(chunk))
                else:
                    self._record(view, boundary, chunk, positions, report=bar.update)

    def _record(
        self,
        view: int,
        boundary: int,
        samples: Sequence[Sample],
        positions: Sequence[int],
        *,
        report: Callable[[int], Any],
        required: bool = True,
    ) -> list[Sample]:
        """Run samples up to a boundary, and store their activations there and at lower boundaries of the plan."""
        lower = [b for b in self.store.boundaries if INPUT < b < boundary and self.store.missing(view, b, positions)]
        *below, activations = self._frozen_blocks.activations(samples, [*lower, boundary], report)
        self.store.put(view, boundary, positions, activations, required=required)
        for each, passing in reversed(list(zip(lower, below, strict=True))):
            self.store.put(view, each, positions, passing, required=False)
        return activations

    def _give_up(self, why: str) -> None:
        since = " from then on" if self._entered else ""
        self.notes.append(f"The frozen blocks were computed in every epoch{since}: {why}.")
        self.replay = False
        self.store.discard(*self.store.boundaries)
