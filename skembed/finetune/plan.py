"""The plan of a fit: everything that follows from parameters and data, derived once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skembed.backbones.tuning.method import Method
from skembed.embedders.encoder import Encoder
from skembed.exceptions import FitWarning
from skembed.finetune.data import Views
from skembed.finetune.loop import Settings
from skembed.finetune.tasks import Task
from skembed.strategies import Partial, Stage, Strategy
from skembed.utils.warnings import warn

if TYPE_CHECKING:
    from skembed.assessment.advice import Advice
    from skembed.finetune.warm_start import Start

__all__ = ["FitHooks", "FitPlan", "plan_stages"]


@dataclass(frozen=True)
class FitPlan:
    """Plan of a fit, checked and immutable; recipe, network, data, checkpoint and record read from it.

    Parameters
    ----------
    encoder : Encoder
        Embedder that training starts from.
    samples : sequence
        Raw samples, held-out ones included.
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Targets of the samples, as scores take them.
    targets : ndarray of shape (n_samples, n_outputs)
        The same, encoded by the task for the loss.
    weights : ndarray of shape (n_samples,), float64
        Sample weights times class weights, all positive.
    task : Task
        Loss, probe and scores of the kind of target.
    train, held_out : ndarray of int64
        Positions of the samples to train on, and of those that judge. Without the latter nothing is judged.
    positions : ndarray of shape (n_samples,), int64
        Positions of the samples in X, from which some may have been left out; those of X_val follow.
    strategy : Strategy
        Blocks that train, and when.
    method : Method
        Parameters that train in these blocks.
    stages : tuple of Stage
        Stages of the strategy on this backbone, none where `max_epochs` is 0.
    settings : Settings
        Settings of training.
    max_epochs, patience : int
        Largest number of epochs of the whole fit, and epochs without a gain that end a stage.
    seed : int
        Seed of everything random.
    refit : bool
        If True, the best stages are repeated on all samples.
    views : Views, optional
        Changes of samples for training.
    replay : bool
        If True, activations of frozen blocks are computed once and stored.
    own_validation, grouped : bool
        True if held-out samples were given as X_val, and if groups were given.
    checkpoint_dir : path-like, optional
        Directory of checkpoints.
    advice : Advice, optional
        Advice that chose the strategy.
    start : Start, optional
        Head of an earlier fit, for a warm start.
    notes : tuple of str
        Sentences for the report on what was given.
    """

    encoder: Encoder
    samples: Sequence[Any]
    y: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    task: Task
    train: np.ndarray
    held_out: np.ndarray
    positions: np.ndarray
    strategy: Strategy
    method: Method
    stages: tuple[Stage, ...]
    settings: Settings
    max_epochs: int
    patience: int
    seed: int
    refit: bool = True
    views: Views | None = None
    replay: bool = True
    own_validation: bool = False
    grouped: bool = False
    checkpoint_dir: Any = None
    advice: Advice | None = None
    start: Start | None = None
    notes: tuple[str, ...] = ()

    @property
    def n_trainable(self) -> int:
        """Largest number of blocks that train in any stage."""
        return max((stage.n_unfrozen for stage in self.stages), default=0)

    @property
    def changes_inputs(self) -> bool:
        """Return True if the inputs of the network differ from epoch to epoch."""
        return (self.views is not None and self.views.stored is None) or self.settings.mixes_inputs

    @property
    def needs_network(self) -> bool:
        """Return True if embeddings do not suffice: blocks train, or the head's inputs change."""
        return bool(self.stages) and (self.n_trainable > 0 or not self.replay or self.changes_inputs)

    def identity(self) -> tuple[Any, ...]:
        """Return plain values that decide the result, besides the arrays of the data."""
        return (
            self.encoder.namespace,
            self.settings,
            self.strategy.identity(),
            self.method.identity(),
            self.max_epochs,
            self.patience,
            self.seed,
            None if self.views is None else (self.views.augmentation, self.views.stored),
            self.train.tolist(),
            type(self.task).__name__,
            self.task.scoring,
        )


@dataclass(frozen=True)
class FitHooks:
    """Functions that a running fit calls.

    Parameters
    ----------
    report : callable, optional
        Called with the record of each epoch; it may return True to end the fit.
    follow : callable, optional
        Called before training with a function that returns the fitted attributes of the best estimator so far.
    announce : callable, optional
        Called with sentences for the user.
    """

    report: Callable[[dict[str, Any]], bool | None] | None = None
    follow: Callable[[Callable[[], dict[str, Any]]], None] | None = None
    announce: Callable[[str], None] | None = None


def plan_stages(strategy: Strategy, method: Method, encoder: Encoder, max_epochs: int) -> tuple[Stage, ...]:
    """Return the stages of a strategy on a backbone.

    Parameters
    ----------
    strategy : Strategy
    method : Method
        It is named in the stages in which it trains blocks.
    encoder : Encoder
        Embedder with the backbone.
    max_epochs : int
        Largest number of epochs of the whole fit. With 0 there are no stages.

    Raises
    ------
    ValueError
        If the strategy asks for more blocks than can train, or leaves out blocks that the method needs.
    """
    depth, embedder = encoder.depth, encoder.embedder
    if not max_epochs:
        return ()
    if isinstance(strategy, Partial) and strategy.n_blocks > depth:
        raise ValueError(
            f"Partial(n_blocks={strategy.n_blocks}) is more than the {depth} blocks that can train: "
            f"{encoder.spec.name} has {embedder.n_blocks_}, stem included, and those above the highest of "
            f"layers={embedder.layers!r} are not used. Use a smaller number, or strategy='full'."
        )
    stages = strategy.stages(depth, max_epochs)
    if method.needs_all_blocks:
        stages = [stage for stage in stages if stage.n_unfrozen in (0, depth)]
        if not stages:
            raise ValueError(
                f"method={method!r} trains at the input, below all blocks, so strategy={strategy!r} has no effect on "
                "it. Use strategy='full' or 'progressive'."
            )
    if method.name != "weights" and not any(stage.n_unfrozen for stage in stages):
        warn(
            f"method={method!r} has no effect with strategy={strategy!r}, which trains the head alone. Use "
            "strategy='full', 'partial' or 'progressive'.",
            FitWarning,
        )
    return tuple(_named(stage, method) for stage in stages)


def _named(stage: Stage, method: Method) -> Stage:
    if not stage.n_unfrozen or method.name == "weights":
        return stage
    name = method.name if method.needs_all_blocks else f"{stage.name}, {method.name}"
    return Stage(name, stage.n_unfrozen, stage.epochs)
