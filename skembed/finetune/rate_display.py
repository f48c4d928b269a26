"""Display of the losses of a learning-rate search."""

from __future__ import annotations

from typing import Any, Self

from skembed.utils.plot_layout import keep_inside
from skembed.utils.plotting import BEST, COLOUR, bare, pyplot

__all__ = ["RateCurveDisplay"]


class RateCurveDisplay:
    """Training loss at rising learning rates, with the suggested rate.

    `RateCurve.plot` builds it.

    Parameters
    ----------
    rates : array-like of shape (n_steps,)
        Learning rates of the head.
    losses : array-like of shape (n_steps,)
        Training loss at each rate, smoothed.
    suggestion : float
        Suggested learning rate.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the curve.
    figure_ : matplotlib Figure
        Figure that contains them.

    Examples
    --------
    >>> from skembed.displays import RateCurveDisplay
    >>> display = RateCurveDisplay([1e-4, 1e-3, 1e-2], [1.0, 0.5, 0.7], 1e-3).plot()  # doctest: +SKIP
    >>> display.ax_.get_xscale()  # doctest: +SKIP
    'log'
    """

    def __init__(self, rates: Any, losses: Any, suggestion: float):
        self.rates = rates
        self.losses = losses
        self.suggestion = suggestion

    def plot(self, ax: Any = None) -> Self:
        """Draw the curve and the suggestion.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a figure.

        Returns
        -------
        RateCurveDisplay
            This display, with `ax_` and `figure_`.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        plt = pyplot("RateCurve.plot")
        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        ax.plot(self.rates, self.losses, color=COLOUR)
        ax.axvline(self.suggestion, linestyle="--", color=BEST, label=f"suggestion {self.suggestion:.1e}")
        ax.set_xscale("log")
        ax.set(xlabel="learning rate of the head", ylabel="training loss, smoothed")
        bare(ax, grid="y")
        ax.legend(fontsize="small", framealpha=0.85, edgecolor="none")
        keep_inside([ax])
        self.ax_, self.figure_ = ax, ax.figure
        return self
