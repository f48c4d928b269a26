"""The interface of a fitted embedder that the rest of the package builds on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone

from skembed.embedders.base import BaseEmbedder

if TYPE_CHECKING:
    from torch import device as Device

    from skembed.backbones.base import Backbone
    from skembed.backbones.spec import BackboneSpec
    from skembed.inference.extract import Batch
    from skembed.inference.reading import Reading

__all__ = ["Encoder", "modality_of"]


class Encoder:
    """Fitted embedder, as fine-tuning, selection, advice, diagnosis and displays see it.

    Embedders are scikit-learn estimators, and what they hold besides parameters is private. Everything that other parts
    of the package may ask of them is declared here. No result depends on `set_output` or the global configuration.

    Parameters
    ----------
    embedder : BaseEmbedder
        Fitted embedder.
    """

    def __init__(self, embedder: BaseEmbedder):
        self.embedder = embedder

    # -- the network and what is read from it -----------------------------------------------------------

    @property
    def modality(self) -> str:
        """Kind of sample: "image", "text" or "audio"."""
        return self.embedder._modality

    @property
    def spec(self) -> BackboneSpec:
        """Location and options of the network."""
        return self.embedder.spec_

    @property
    def fingerprint(self) -> str:
        """Digest of the network's weights."""
        return self.embedder.fingerprint_

    @property
    def device(self) -> Device:
        """Device that the network runs on."""
        from skembed.utils.device import resolve_device

        return resolve_device(self.embedder.device)

    @property
    def readout(self) -> Reading:
        """Layers, pooling and preprocessing options."""
        return self.embedder._reading

    @property
    def depth(self) -> int:
        """Number of blocks up to the highest layer that is read, which is how many can train."""
        return max(self.readout.layers) + 1

    @property
    def width(self) -> int:
        """Features of a row before `truncate_dim`."""
        return self.embedder._width

    @property
    def n_features(self) -> int:
        """Features of a finished row."""
        return self.embedder._n_features_out

    @property
    def normalizes(self) -> bool:
        """True if finished rows have length one."""
        return bool(self.embedder._normalized)

    @property
    def n_scaled(self) -> int | None:
        """Leading features whose norm is scaled to one, if the embedder normalizes; None for all."""
        return self.embedder._n_scaled

    @property
    def namespace(self) -> str:
        """Namespace in the cache: digest of everything that decides a row except its sample."""
        return self.embedder._namespace

    @property
    def space(self) -> tuple[Any, ...]:
        """Everything that gives features their meaning, without the decoding of samples."""
        return (
            self.fingerprint,
            self.readout.layers,
            self.readout.pooling,
            self.normalizes,
            self.n_features,
            self.n_scaled,
        )

    def backbone(self, precision: str | None = None) -> Backbone:
        """Return the loaded network.

        Parameters
        ----------
        precision : str, optional
            Precision of its weights; None takes the embedder's.
        """
        from skembed.backbones.loading.load import load

        return load(self.spec, self.device, self.embedder.precision if precision is None else precision)

    # -- samples ----------------------------------------------------------------------------------------

    @property
    def batch_size(self) -> int | None:
        """Prepared items per batch; None plans batches by the network's token budget."""
        return None if self.embedder.batch_size == "auto" else int(self.embedder.batch_size)

    @property
    def chunk_size(self) -> int:
        """Number of decoded samples in memory at a time."""
        return self.embedder._chunk_size

    def samples(self, X: Any) -> list[Any]:
        """Return the raw samples of X, one per row."""
        return self.embedder._samples(X, reset=False)

    def key(self) -> Callable[[Any], bytes | None]:
        """Return a function that digests a raw sample undecoded, or gives None if it cannot."""
        return self.embedder._key()

    def reader(self, backbone: Backbone) -> Callable[[Any], tuple[Any, bool]]:
        """Return a function that decodes one raw sample, and gives True if it was truncated."""
        return self.embedder._reader(backbone)

    def example(self) -> Any:
        """Return a small valid sample, decoded."""
        return self.embedder._probe()

    def refitted(self, **params: Any) -> Encoder:
        """Return a fitted clone with other parameters."""
        return Encoder(clone(self.embedder).set_params(**params).fit(np.asarray([self.example()])))

    # -- rows -------------------------------------------------------------------------------------------

    def embed(self, X: Any, compute: Callable[..., Iterator[Batch]] | None = None) -> np.ndarray:
        """Embed raw samples; equal ones once, and those in the cache not at all.

        Parameters
        ----------
        X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
            Raw samples.
        compute : callable, optional
            Takes the place of `compute` for samples that are in no cache.

        Returns
        -------
        ndarray of shape (n_samples, n_features), float32
            Finished rows.
        """
        return self.embedder.embed(X) if compute is None else self.embedder._transformed(X, compute)

    def compute(
        self,
        samples: Sequence[Any],
        *,
        positions: Sequence[int] | None = None,
        advance: Callable | None = None,
    ) -> Iterator[Batch]:
        """Run samples through the network, past every cache, as rows are asked for.

        Parameters
        ----------
        samples : sequence
            Raw samples.
        positions : sequence of int, optional
            Positions of the samples in X, for errors; None counts from 0.
        advance : callable, optional
            See `skembed.inference.extract.extract`.
        """
        where = range(len(samples)) if positions is None else positions
        return self.embedder._compute(samples, positions=where, advance=advance)

    def warm_up(self) -> None:
        """Load the network and run it once on the example, which is slow the first time."""
        from skembed.inference.extract import probe_width

        probe_width(self.backbone(), self.example(), self.readout)

    def finish(self, rows: np.ndarray) -> np.ndarray:
        """Return rows truncated to `n_features` and, if the embedder normalizes, of length one."""
        return self.embedder._finished(rows)


def modality_of(transformer: Any) -> str | None:
    """Return the modality of an embedder, fitted or not, and None for another transformer."""
    return transformer._modality if isinstance(transformer, BaseEmbedder) else None
