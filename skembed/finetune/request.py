"""What a fit is asked for, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from skembed.augment import Augmentation
from skembed.embedders.base import BaseEmbedder
from skembed.embedders.encoder import Encoder
from skembed.finetune.loop import Settings
from skembed.finetune.recipe import Progress, Stage
from skembed.finetune.tasks import Scores, Task
from skembed.probes.linear import Probe, Standardizer
from skembed.strategies import WEIGHTS, Method
from skembed.utils.blas import SMALL_PRODUCT, one_blas_thread

if TYPE_CHECKING:
    from skembed.assessment.advice import Advice
    from skembed.finetune.network import Head
    from skembed.finetune.warm_start import Start

__all__ = ["Linear", "Outcome", "Request"]


@dataclass(frozen=True)
class Linear:
    """A linear map on embeddings, and by what its outputs are divided to be calibrated.

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
        """The map on embeddings that is the probe on standardised ones."""
        weight = probe.weight / standardizer.scale
        return cls(weight, probe.bias - weight @ standardizer.mean, temperature)

    @classmethod
    def of_head(cls, head: Head, temperature: float) -> Linear:
        """Return the map on embeddings that a network's head is."""
        weight, bias = (value.detach().cpu().double().numpy() for value in (head.linear.weight, head.linear.bias))
        standardizer = Standardizer(*(value.cpu().double().numpy() for value in (head.mean, head.scale)))
        return cls.of_probe(standardizer, Probe(weight, bias, 0.0), temperature)

    def to_probe(self, standardizer: Standardizer) -> Probe:
        """The other way round, to begin training with."""
        return Probe(self.weight * standardizer.scale, self.bias + self.weight @ standardizer.mean, 0.0)


@dataclass(frozen=True)
class Request:
    """What is to be fitted, all of it checked.

    Parameters
    ----------
    encoder : Encoder
        Embedder that training starts from.
    samples : sequence
        Raw samples.
    y : ndarray
        Of all samples.
    weights : ndarray of shape (n_samples,), float64
        Positive.
    task, train, held_out, settings
        See `Recipe`.
    strategy, n_unfrozen, max_epochs, stage_epochs, unfreeze_step, patience, replay, refit, seed, checkpoint_dir
        See `FineTuneClassifier`.
    augmentation, augment_views
        How samples are changed for training, see `FineTuneClassifier`.
    positions : ndarray of shape (n_samples,), int64
        Of the samples in X, from which some may have been left out; those of X_val follow.
    own_validation : bool
        Whether the held-out samples were given as X_val, and not drawn from X.
    advice : Advice, optional
        Where the strategy was chosen by it.
    method : Method
        What trains in the blocks that the strategy reaches.
    start : Start, optional
        Head of an earlier fit, for a warm start.
    notes : tuple of str
        Sentences for the report on what was given.
    report : callable, optional
        Told of each epoch.
    follow : callable, optional
        Before training it gets a function that returns the fitted attributes of the best estimator so far.
    announce : callable, optional
        Called with sentences for the user about the running fit.
    """

    encoder: Encoder
    samples: Sequence[Any]
    y: np.ndarray
    weights: np.ndarray
    task: Task
    train: np.ndarray
    held_out: np.ndarray
    settings: Settings
    strategy: str
    n_unfrozen: int
    max_epochs: int
    stage_epochs: int
    unfreeze_step: int | str
    patience: int
    replay: bool
    refit: bool
    seed: int
    augmentation: Augmentation | None = None
    augment_views: int | None = None
    method: Method = WEIGHTS
    checkpoint_dir: Any = None
    positions: np.ndarray = field(default_factory=lambda: np.arange(0))
    own_validation: bool = False
    advice: Advice | None = None
    start: Start | None = None
    notes: tuple[str, ...] = ()
    report: Callable[[dict[str, Any]], bool | None] | None = None
    follow: Callable[[Callable[[], dict[str, Any]]], None] | None = None
    announce: Callable[[str], None] | None = None


@dataclass
class Outcome:
    """What came of a fit.

    Parameters
    ----------
    embedder : BaseEmbedder
        Fitted; the one it started from, or one with tuned weights.
    head : Linear
        On its embeddings.
    kept : {"fine-tuned", "probe"}
    progress : Progress
    stages : list of Stage
    scores, probe_scores : Scores
        Held-out, of what was kept and of the probe.
    frozen : ndarray of shape (n_samples, n_features), float32
        Embeddings that training started from.
    notes : list of str
        Sentences for the report.
    """

    embedder: BaseEmbedder
    head: Linear
    kept: str
    progress: Progress
    stages: list[Stage]
    scores: Scores
    probe_scores: Scores
    frozen: np.ndarray
    notes: list[str] = field(default_factory=list)
