"""Drift of each block from the pre-trained network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import clone

from skembed.assessment.forgetting import block_drift
from skembed.backbones.spec import TunedWeights
from skembed.displays.estimators import fitted_fine_tuner, layer_features
from skembed.embedders.base import BaseEmbedder
from skembed.measures import linear_cka
from skembed.utils.plot_layout import (
    cell_size,
    fit_label,
    font_points,
    keep_inside,
    row_points,
    shorten_to,
    text_inches,
    wrap_to,
)
from skembed.utils.plotting import BEST, COLOUR, GREY, bare, panels, plain_labels, pyplot, shorten_start

__all__ = ["DriftDisplay"]


class DriftDisplay:
    """Change of the weights of each block, and similarity of its features before and after.

    Blocks are listed from the stem at the bottom to the top. Build it with `from_estimator`.

    Parameters
    ----------
    blocks : sequence of str of length n_blocks
        Names of the blocks, the stem first.
    weight_drift : array-like of shape (n_blocks,)
        Norm of the change of a block's weights, divided by the norm of the pre-trained weights.
    cka : array-like of shape (n_blocks,), default=None
        Linear CKA [1]_ of each block's features before and after training, from 0 to 1. 1 means that they are the same
        up to rotation and scale; NaN means unknown.

    Attributes
    ----------
    axes_ : ndarray of Axes
        Axes of the weights and, with `cka`, of the features.
    figure_ : matplotlib Figure
        Figure that contains them.

    References
    ----------
    .. [1] Kornblith, Norouzi, Lee & Hinton (2019), Similarity of Neural Network Representations Revisited.

    Examples
    --------
    >>> from skembed.displays import DriftDisplay
    >>> display = DriftDisplay(["stem", "layers.0"], [0.0, 0.02], cka=[1.0, 0.9]).plot()  # doctest: +SKIP
    >>> len(display.axes_)  # doctest: +SKIP
    2
    """

    def __init__(self, blocks: Sequence[str], weight_drift: Any, cka: Any = None):
        self.blocks = blocks
        self.weight_drift = weight_drift
        self.cka = cka

    @classmethod
    def from_estimator(cls, estimator, X=None, *, ax=None) -> DriftDisplay:
        """Compare a fine-tuned network with the pre-trained one.

        Parameters
        ----------
        estimator : FineTuneClassifier, FineTuneRegressor, or a Pipeline with one of them
            Fitted estimator. If no block was trained, or the probe was kept, every drift is zero.
        X : list, ndarray, Series or one-column dataframe of shape (n_samples,), default=None
            Raw samples to compare features on; a hundred samples that were not trained on are enough. Both networks run
            over them once. None compares weights alone.
        ax : Axes or sequence of Axes, default=None
            Axes to divide, or one for the weights and, with X, one for the features. None makes a figure.

        Returns
        -------
        DriftDisplay
            Display that has been drawn.

        Raises
        ------
        TypeError
            If `estimator` is another kind of estimator.
        NotFittedError
            If `estimator` is not fitted.
        ImportError
            If matplotlib is not installed.
        """
        pyplot(cls.__name__)
        fitted, prepare = fitted_fine_tuner(estimator, cls.__name__)
        spec = fitted.embedder_.spec_
        drift = block_drift(spec if spec.tuned is None else spec.tuned.base, spec)
        cka = None if X is None else _cka_of_blocks(fitted.embedder_, prepare(X))
        return cls(list(drift), list(drift.values()), cka).plot(ax=ax)

    def plot(self, ax=None) -> DriftDisplay:
        """Draw the drift.

        Parameters
        ----------
        ax : Axes or sequence of Axes, default=None
            Axes to draw on; None makes a figure that is high enough for all blocks.

        Returns
        -------
        DriftDisplay
            This display, with `axes_` and `figure_`.

        Raises
        ------
        ValueError
            If there is not one value per block.
        """
        pyplot(type(self).__name__)
        drift = self._checked("weight_drift", self.weight_drift)
        n_panels = 1 if self.cka is None else 2
        size = 3.5 + 3.0 * n_panels, 1.5 + 0.27 * max(4, len(drift))
        axes = panels(type(self).__name__, ax, (1, n_panels), figsize=size, sharey=True)
        places = np.arange(len(drift))
        self.axes_, self.figure_ = axes, axes[0].figure
        names, points = self._names(axes[0])
        axes[0].set_yticks(places, names, fontsize=points)
        plain_labels(axes[0].get_yticklabels())
        axes[0].set_ylim(-0.6, len(drift) - 0.4)
        self._draw_weights(axes[0], places, drift)
        if self.cka is not None:
            self._draw_cka(axes[1], places)
        keep_inside(axes)
        return self

    def _draw_weights(self, ax, places: np.ndarray, drift: np.ndarray) -> None:
        ax.barh(places, 100 * drift, color=COLOUR, height=0.7)
        points = self._row_points(ax, "small")
        texts = [f" {_percent(value)}" if value else " unchanged" for value in drift]
        # Room for the numbers behind the longest bar; an axis from 0 to 1 % where nothing moved.
        room = max(0.23, min(0.7, self._share(ax, max(texts, key=len), points)))
        ax.set_xlim(0, 100 * np.nanmax(drift, initial=0.0) / (1 - room) or 1.0)
        for place, value, text in zip(places, drift, texts, strict=True):
            ax.text(100 * value, place, text, va="center", fontsize=points, color="black" if value else GREY)
        self._label(ax, "change of the weights, % of their norm")

    def _names(self, ax) -> tuple[list[str], float]:
        """Return names of the blocks, cut at the front to half of a panel's width, and their size in points."""
        width = cell_size(ax)[0] / 2
        _, points = fit_label(max(map(str, self.blocks), key=len), width, n_lines=1)
        points = min(points, self._row_points(ax, "medium"))
        return [shorten_to(name, width, points, shorten_start) for name in self.blocks], points

    def _row_points(self, ax, largest: str) -> float:
        return row_points(cell_size(ax)[1] - 0.9, len(self.blocks), largest)

    def _panel_inches(self, ax) -> float:
        """Return the width of a panel: equal parts of what the names leave."""
        n_panels = 1 if self.cka is None else 2
        names, points = self._names(ax)
        width = max(text_inches(name, points) for name in names)
        return 0.9 * cell_size(ax)[0] - (width + 0.2) / n_panels

    def _share(self, ax, text: str, points: float) -> float:
        """Return the width of a text as a share of its panel's width."""
        return (text_inches(text, points) + 0.1) / self._panel_inches(ax)

    def _label(self, ax, text: str) -> None:
        ax.set_xlabel(wrap_to(text, self._panel_inches(ax), font_points("medium")))
        bare(ax)

    def _draw_cka(self, ax, places: np.ndarray) -> None:
        cka = self._checked("cka", self.cka)
        ax.hlines(places, cka, 1.0, color=BEST, alpha=0.4, linewidth=3)
        ax.scatter(cka, places, color=BEST, s=45, zorder=3)
        low, points = np.nanmin(cka, initial=1.0), self._row_points(ax, "small")
        # Room for the number before the lowest of the dots.
        room = min(0.6, self._share(ax, "0.000", points) + 0.1)
        ax.set_xlim(min(0.9, low - 0.1 * (1 - low), (low - room) / (1 - room)) - 0.01, 1.005)
        self._label(ax, "likeness of the features (linear CKA)")
        ax.axvline(1.0, color=GREY, linewidth=1, linestyle=":")
        for place, value in zip(places, cka, strict=True):
            if np.isfinite(value):
                ax.annotate(
                    f"{value:.3f}", (value, place), xytext=(-7, 0), textcoords="offset points",
                    va="center", ha="right", fontsize=points,
                )  # fmt: skip

    def _checked(self, name: str, values: Any) -> np.ndarray:
        numbers = np.asarray(values, dtype=float)
        if numbers.shape != (len(self.blocks),):
            raise ValueError(
                f"{name} has shape {numbers.shape} for {len(self.blocks)} blocks. Give one value per block."
            )
        return numbers


def _percent(share: float) -> str:
    """Format a share as percents with two significant digits.

    Examples
    --------
    >>> _percent(0.03), _percent(0.000123), _percent(1.5)
    ('3.0 %', '0.012 %', '150 %')
    """
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:#.2g} %"


def _cka_of_blocks(embedder: BaseEmbedder, X: Any) -> np.ndarray:
    """Compute the linear CKA of each block's features, as the embedder pools them."""
    _, after = layer_features(embedder, X)
    tuned = embedder.spec_.tuned
    if tuned is None:
        before = after
    else:
        from safetensors.torch import save

        # The same embedder over the same base, with nothing put in the place of its weights.
        untouched = TunedWeights(tuned.base, tuned.base_fingerprint, save({}), tuned.archive)
        _, before = layer_features(clone(embedder).set_params(backbone=untouched), X)
    return np.array([linear_cka(old, new) for old, new in zip(before, after, strict=True)])
