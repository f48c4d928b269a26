"""Search for a learning rate: train at rates that rise from step to step, and follow the loss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import clone

from skembed.backbones.tuning.method import resolve_method
from skembed.exceptions import TrainingError, TruncationWarning
from skembed.finetune.fitting import untrained
from skembed.finetune.loop import Epoch, epoch_rng
from skembed.finetune.rate_budget import bounded, shortened
from skembed.finetune.rate_display import RateCurveDisplay
from skembed.finetune.recipe import Recipe
from skembed.strategies import Progressive
from skembed.utils.progress import progress_bar, showing
from skembed.utils.seeding import seeded
from skembed.utils.torch_modes import standard_modes
from skembed.utils.warnings import silenced

if TYPE_CHECKING:
    from skembed.finetune.base import BaseFineTuner

__all__ = ["RateCurve", "find_learning_rate"]

#: Weight of earlier steps in the smoothed loss.
_SMOOTHING = 0.9
#: The search ends at this multiple of the smallest loss.
_EXPLODED = 4.0
#: Factor between two rates as long as the loss does not move, and the part of it by which it moves by then.
_COARSE, _MOVED = 2.0, 0.01
#: Least loss that others are divided by.
_LEAST = 1e-6


@dataclass(frozen=True)
class RateCurve:
    """Losses at rising learning rates.

    Parameters
    ----------
    rates : ndarray of shape (n_tried,)
        Rates of the head that were tried. Those of the backbone rise in proportion.
    losses : ndarray of shape (n_tried,)
        Smoothed training loss at each step.
    suggestion : float
        Suggested learning rate.
    """

    rates: np.ndarray = field(repr=False)
    losses: np.ndarray = field(repr=False)
    suggestion: float

    def __str__(self) -> str:
        lowest = int(np.argmin(self.losses))
        return (
            f"Suggested: learning_rate={self.suggestion:.1e}. Of {len(self.rates)} steps from {self.rates[0]:.1e} to "
            f"{self.rates[-1]:.1e} the smoothed loss began at {self.losses[0]:.3g} and was least at "
            f"{self.rates[lowest]:.1e}, {self.losses[lowest]:.3g}."
        )

    def plot(self, ax: Any = None) -> RateCurveDisplay:
        """Draw the curve and the suggestion.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a new figure.

        Returns
        -------
        RateCurveDisplay
            Display with the attributes `ax_` and `figure_`.

        Raises
        ------
        ImportError
            If matplotlib is not installed: ``pip install "skembed[plot]"``.
        """
        return RateCurveDisplay(self.rates, self.losses, self.suggestion).plot(ax)


def find_learning_rate(
    estimator: BaseFineTuner,
    X: Any,
    y: Any,
    *,
    low: float = 1e-6,
    high: float = 1.0,
    n_steps: int = 80,
) -> RateCurve:
    """Suggest a learning rate from a short training at exponentially rising rates [1]_.

    The estimator itself is not changed. The search trains the blocks that the first stage with blocks trains:
    "progressive" is tried with the top block.

    The suggestion is an order of magnitude, so the work is bounded: at most 512 samples are used, 16 per step, and at
    most the first 64 tokens of a text. Rates double from step to step until the loss begins to change.

    Parameters
    ----------
    estimator : FineTuneClassifier or FineTuneRegressor
        Fitted or unfitted estimator, whose other parameters are used. With ``verbose=1`` it shows a progress bar with
        the expected time.
    X, y
        Samples and targets, as for `fit` of the estimator.
    low, high : float, default=1e-6 and 1
        First and last rate. Widen the range if the suggestion is at one of its ends.
    n_steps : int, default=80
        Number of rates between `low` and `high`, in equal ratios. Some are skipped while the loss does not change yet,
        and the search ends when the loss explodes.

    Returns
    -------
    RateCurve
        Rates, losses and the suggestion, which is the rate at which the loss falls fastest, but at most a tenth of the
        rate with the smallest loss. Print or plot it.

    Raises
    ------
    ValueError
        If `low` is not below `high`, or `n_steps` is below ten.
    TrainingError
        If the loss is not finite at the first rate.

    References
    ----------
    .. [1] Smith (2017), Cyclical Learning Rates for Training Neural Networks, section 3.3.

    Examples
    --------
    >>> from skembed import FineTuneClassifier, find_learning_rate
    >>> texts = ["the invoice is overdue", "your parcel has arrived", "payment was refused", "delivery is delayed"] * 5
    >>> classifier = FineTuneClassifier(strategy="head", random_state=0)
    >>> curve = find_learning_rate(classifier, texts, ["money", "parcel"] * 10, n_steps=20)
    >>> bool(1e-6 <= curve.suggestion <= 1)
    True
    """
    if not (isinstance(low, Real) and isinstance(high, Real) and 0 < low < high):
        raise ValueError(f"low={low!r} and high={high!r}: give two positive numbers, the smaller first.")
    if not isinstance(n_steps, Integral) or n_steps < 10:
        raise ValueError(f"n_steps={n_steps!r}: give a whole number of at least 10.")
    trial = clone(estimator)
    trial.set_params(validation_fraction=None, refit=False, checkpoint_dir=None, warm_start=False, verbose=False)
    trial._validate_params()
    n_positions = resolve_method(trial.method).n_positions
    with showing(bool(estimator.verbose)), silenced(TruncationWarning):
        trial.set_params(embedder=shortened(trial._given_embedder(), n_positions))
        return _search(trial, X, y, np.geomspace(low, high, n_steps))


def _search(trial: BaseFineTuner, X: Any, y: Any, rates: np.ndarray) -> RateCurve:
    """Return the curve of an estimator whose parameters are those of a short trial."""
    plan = bounded(trial._plan(X, y))
    if isinstance(plan.strategy, Progressive):
        # The first of its stages that trains blocks.
        plan = replace(plan, stages=tuple(stage for stage in plan.stages if stage.n_unfrozen)[:1])
    steps, losses = _rising_losses(untrained(plan), rates)
    tried, smooth = rates[steps], _smoothed(losses)
    return RateCurve(tried, smooth, _suggest(tried, smooth))


@standard_modes()
def _rising_losses(recipe: Recipe, rates: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Return the positions of the rates that were tried and their losses, until the loss explodes.

    Each loss is a pair: that of the step, and what an untrained head would have had for the same batch.
    """
    trainer = recipe.trainer(recipe.plan.stages[-1], recipe.plan.settings)
    rng = epoch_rng(recipe.plan.seed, 0)
    batches = _batches(rng.permutation(recipe.plan.train), recipe.plan.settings.batch_size)
    steps: list[int] = []
    losses: list[tuple[float, float]] = []
    recipe.network.train(True)
    with seeded(recipe.plan.seed, recipe.network.device), progress_bar(len(rates), "find_learning_rate", "rate") as bar:
        step, stride = 0, _stride(rates)
        while step < len(rates):
            batch = next(batches)
            _set_rate(trainer, rates[step])
            try:
                losses.append((trainer.step(batch, rng), _untrained_loss(trainer, batch)))
            except TrainingError:
                if not losses:
                    raise
                break
            steps.append(step)
            relative = [loss / untrained for loss, untrained in losses]
            if _exploded(relative):
                break
            if abs(relative[-1] - 1) > _MOVED:
                stride = 1
            bar.update(min(stride, len(rates) - step))
            step += stride
    return steps, np.array(losses).reshape(-1, 2)


def _batches(order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield batches of samples in order, again and again."""
    while True:
        for start in range(0, len(order), size):
            yield order[start : start + size]


def _stride(rates: np.ndarray) -> int:
    """Return the number of rates that are no more than a factor of `_COARSE` apart."""
    return max(1, int(math.log(_COARSE) / math.log(rates[1] / rates[0]) + 1e-6))


def _set_rate(trainer: Epoch, rate: float) -> None:
    for group in trainer.optimizer.param_groups:
        group["lr"] = group["base_rate"] / trainer.settings.learning_rate * rate


def _untrained_loss(trainer: Epoch, batch: np.ndarray) -> float:
    """Return the loss of a head that returns zeros, as the head of a search does before its first step."""
    targets, weights = trainer.targets.of(batch)
    losses = trainer.task.losses(torch.zeros_like(targets), targets, trainer.settings.label_smoothing)
    return max(float((losses * weights).sum() / weights.sum().clamp_min(1e-30)), _LEAST)


def _smoothed(losses: np.ndarray) -> np.ndarray:
    """Return an exponential average of losses, corrected for the differences between batches.

    Numbers as targets differ more from batch to batch than most of a curve does; so does the loss of an untrained head.

    Parameters
    ----------
    losses : ndarray of shape (n_tried, 2)
        Loss of each step, and of an untrained head for the same batch.
    """
    smooth, average = [], np.zeros(2)
    for loss in losses:
        average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
        smooth.append(average[0] / average[1])
    return np.array(smooth) * losses[:, 1].mean()


def _suggest(rates: np.ndarray, losses: np.ndarray) -> float:
    """Return the rate of the steepest fall, but at most a tenth of that of the smallest loss."""
    if len(losses) < 3:
        return float(rates[0])
    slopes = np.gradient(losses, np.log(rates))
    lowest = int(np.argmin(losses))
    steepest = int(np.argmin(slopes[: lowest + 1]))
    return float(min(rates[steepest], max(rates[0], rates[lowest] / 10)))


def _exploded(losses: list[float]) -> bool:
    """Return True if the last loss, relative to that of an untrained head, is too large to continue.

    Examples
    --------
    >>> _exploded([1.0, 0.5, 0.6]), _exploded([1.0, 0.5, 30.0]), _exploded([1.0, float("nan")])
    (False, True, True)
    """
    return not np.isfinite(losses[-1]) or losses[-1] > _EXPLODED * max(min(losses), 0.1)
