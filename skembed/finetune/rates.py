"""Finding a learning rate: train at rates that rise from step to step, and look at the loss."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone

from skembed.engine.modes import standard_modes
from skembed.engine.seeding import seeded
from skembed.exceptions import TrainingError
from skembed.finetune.fitting import untrained
from skembed.finetune.loop import epoch_rng
from skembed.finetune.rate_display import RateCurveDisplay
from skembed.finetune.stages import Recipe

if TYPE_CHECKING:
    from skembed.finetune.base import BaseFineTuner

__all__ = ["RateCurve", "find_learning_rate"]

#: Weight of the past in the smoothed loss.
_SMOOTHING = 0.9
#: A loss that is so many times the smallest is no use any more.
_EXPLODED = 4.0


@dataclass(frozen=True)
class RateCurve:
    """Losses at rising learning rates.

    Parameters
    ----------
    rates : ndarray of shape (n_steps,)
        Of the head; the backbone's rise with them.
    losses : ndarray of shape (n_steps,)
        Training loss at each step, smoothed.
    suggestion : float
        A rate to begin with.
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
            Where to draw; None makes a new figure.

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
    """Train for some steps at exponentially rising rates; suggest one well before the loss rises [1]_.

    The estimator stays as it is. What is unfrozen is what its strategy ends with: "progressive" is tried with the top
    block, of whatever method.

    Parameters
    ----------
    estimator : FineTuneClassifier or FineTuneRegressor
        Unfitted or fitted; its other parameters are used.
    X, y
        As for its `fit`.
    low, high : float, default=1e-6 and 1
        The first and the last rate.
    n_steps : int, default=80
        Steps between them. Training ends earlier where the loss explodes.

    Returns
    -------
    RateCurve
        The suggestion is the rate at which the loss falls fastest, and no more than a tenth of the one at which it is
        smallest.

    Raises
    ------
    ValueError
        If the rates are not in order, or there are fewer than ten steps.

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
    request = trial._request(X, y)
    if request.strategy.startswith("progressive"):
        request = replace(request, strategy=request.strategy.replace("progressive", "partial"), n_unfrozen=1)
    rates = np.geomspace(low, high, n_steps)
    losses = _rising_losses(untrained(request), rates)
    smooth = _smoothed(losses)
    return RateCurve(rates[: len(losses)], smooth, _suggest(rates[: len(losses)], smooth))


@standard_modes()
def _rising_losses(recipe: Recipe, rates: np.ndarray) -> list[float]:
    """The loss of each step, at its rate; until it explodes."""
    stage, settings = recipe.stages[-1], recipe.settings
    trainer = recipe.trainer(stage, settings)
    rng = epoch_rng(recipe.seed, 0)
    losses: list[float] = []
    order = rng.permutation(recipe.train)
    recipe.network.train(True)
    with seeded(recipe.seed, recipe.network.device):
        for step, rate in enumerate(rates):
            start = step * settings.batch_size % len(order)
            for group in trainer.optimizer.param_groups:
                group["lr"] = group["base_rate"] / settings.learning_rate * rate
            try:
                losses.append(trainer.step(order[start : start + settings.batch_size], rng))
            except TrainingError:
                break
            if _exploded(losses):
                break
    return losses


def _smoothed(losses: list[float]) -> np.ndarray:
    """An exponential average that does not begin at zero."""
    smooth, average = [], 0.0
    for step, loss in enumerate(losses, start=1):
        average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
        smooth.append(average / (1 - _SMOOTHING**step))
    return np.array(smooth)


def _suggest(rates: np.ndarray, losses: np.ndarray) -> float:
    """The rate of the steepest fall, and no more than a tenth of that of the smallest loss."""
    if len(losses) < 3:
        return float(rates[0])
    slopes = np.gradient(losses, np.log(rates))
    lowest = int(np.argmin(losses))
    steepest = int(np.argmin(slopes[: lowest + 1]))
    return float(min(rates[steepest], max(rates[0], rates[lowest] / 10)))


def _exploded(losses: list[float]) -> bool:
    """Whether the last loss is no use any more.

    Examples
    --------
    >>> _exploded([1.0, 0.5, 0.6]), _exploded([1.0, 0.5, 30.0]), _exploded([1.0, float("nan")])
    (False, True, True)
    """
    return not np.isfinite(losses[-1]) or losses[-1] > _EXPLODED * max(min(losses), 0.1)
