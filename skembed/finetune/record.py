"""Results of a fit: the head that was kept, and the record that reports and diagnoses read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from skembed.embedders.base import BaseEmbedder
from skembed.finetune.recipe import Progress
from skembed.finetune.tasks import Scores
from skembed.probes.linear import Probe, Standardizer
from skembed.utils.blas import SMALL_PRODUCT, one_blas_thread

if TYPE_CHECKING:
    from skembed.finetune.network import LinearHead

__all__ = ["FitRecord", "Linear"]


@dataclass(frozen=True)
class Linear:
    """Linear map on embeddings, and the temperature of its outputs.

    Parameters
    ----------
    weight : ndarray of shape (n_outputs, n_features), float64
    bias : ndarray of shape (n_outputs,), float64
    temperature : float
    """

    weight: np.ndarray
    bias: np.ndarray
    temperature: float = 1.0

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        with one_blas_thread(when=embeddings.size * len(self.weight) < SMALL_PRODUCT):
            return embeddings.astype(np.float64) @ self.weight.T + self.bias

    @classmethod
    def of_probe(cls, standardizer: Standardizer, probe: Probe, temperature: float) -> Linear:
        """Return a probe on standardized embeddings as a map on embeddings."""
        weight = probe.weight / standardizer.scale
        return cls(weight, probe.bias - weight @ standardizer.mean, temperature)

    @classmethod
    def of_head(cls, head: LinearHead, temperature: float) -> Linear:
        """Return the head of a network as a map on embeddings."""
        weight, bias = (value.detach().cpu().double().numpy() for value in (head.linear.weight, head.linear.bias))
        standardizer = Standardizer(*(value.cpu().double().numpy() for value in (head.mean, head.scale)))
        return cls.of_probe(standardizer, Probe(weight, bias, 0.0), temperature)

    def to_probe(self, standardizer: Standardizer) -> Probe:
        """Return the map as a probe on standardized embeddings, to start training with."""
        return Probe(self.weight * standardizer.scale, self.bias + self.weight @ standardizer.mean, 0.0)


@dataclass
class FitRecord:
    """Results of a fit, for the report and the diagnosis.

    Parameters
    ----------
    embedder : BaseEmbedder
        Fitted embedder: the one that training started from, or one with tuned weights.
    head : Linear
        Head on its embeddings.
    kept : {"fine-tuned", "probe"}
        Model that was kept.
    progress : Progress
        Path of the fit.
    scores, probe_scores : Scores
        Held-out scores of the kept model and of the probe.
    frozen : ndarray of shape (n_samples, n_features), float32
        Embeddings that training started from.
    notes : list of str
        Sentences for the report.
    """

    embedder: BaseEmbedder
    head: Linear
    kept: str
    progress: Progress
    scores: Scores
    probe_scores: Scores
    frozen: np.ndarray
    notes: list[str] = field(default_factory=list)
