"""Display of the scores of a linear probe on each layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from skembed.displays.estimators import as_embedder, layer_features
from skembed.inputs.target_kinds import as_task_targets, class_codes, resolve_task
from skembed.probes.cross_validated import check_folds, linear_probe_folds
from skembed.utils.plot_layout import cell_size, font_points, keep_inside, wrap_to
from skembed.utils.plotting import BEST, COLOUR, bare, pyplot

__all__ = ["LayerProbeDisplay"]

_N_FOLDS = 5


class LayerProbeDisplay:
    """Cross-validated score of a linear probe on each layer of a backbone [1]_.

    Bars show one standard deviation over the folds; the layer with the highest mean is marked. Build it with
    `from_embedder`.

    Parameters
    ----------
    layers : sequence of int of length n_layers
        Positions of the layers, 0 for the stem.
    scores : array-like of shape (n_layers, n_folds)
        Score of each layer in each fold.
    score_name : str, default="score"
        Name of the score.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the layers.
    figure_ : matplotlib Figure
        Figure that contains them.
    best_layer_ : int
        The layer that is marked.

    References
    ----------
    .. [1] Alain & Bengio (2017), Understanding intermediate layers using linear classifier probes.

    Examples
    --------
    >>> from skembed.displays import LayerProbeDisplay
    >>> display = LayerProbeDisplay([0, 1], [[0.5, 0.6], [0.8, 0.9]], score_name="accuracy").plot()  # doctest: +SKIP
    >>> display.best_layer_  # doctest: +SKIP
    1
    """

    def __init__(self, layers: Sequence[int], scores: Any, *, score_name: str = "score"):
        self.layers = layers
        self.scores = scores
        self.score_name = score_name

    @classmethod
    def from_embedder(
        cls,
        embedder,
        X,
        y,
        *,
        layers="all",
        cv=None,
        scoring: str | None = None,
        task: str = "auto",
        random_state: int | None = 0,
        ax=None,
    ) -> LayerProbeDisplay:
        """Embed samples once, and probe each layer of the network.

        Parameters
        ----------
        embedder : ImageEmbedder, TextEmbedder or AudioEmbedder
            Fitted or unfitted embedder; a clone with other `layers` is used. For a fine-tuner, pass `embedder_`.
        X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
            Raw samples.
        y : array-like of shape (n_samples,) or, for numbers, (n_samples, n_targets)
            Classes or numbers.
        layers : "all" or list of int, default="all"
            Layers to probe; negative ones count from the last.
        cv : int or cross-validation splitter, default=None
            Folds. None uses five, or as many as the smallest class has samples where it has fewer.
        scoring, task, random_state
            See `skembed.selection.linear_probe_score`.
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a figure.

        Returns
        -------
        LayerProbeDisplay
            Display that has been drawn.

        Raises
        ------
        ValueError
            If y cannot be scored, or if a class has one sample, or fewer samples than `cv`.
        TypeError
            If `embedder` is not an embedder.
        ImportError
            If matplotlib is not installed.
        """
        # Before minutes of embedding, and not after them.
        pyplot(cls.__name__)
        kind = resolve_task(y, task)
        y = as_task_targets(y, kind, warn_column=False)
        cv = _folds(y, kind, cv)
        positions, features = layer_features(as_embedder(embedder, cls.__name__), X, layers)
        scores = [
            linear_probe_folds(rows, y, cv=cv, scoring=scoring, task=kind, random_state=random_state)
            for rows in features
        ]
        name = scoring or ("accuracy" if kind == "classification" else "R²")
        return cls(positions, np.array(scores), score_name=name).plot(ax=ax)

    def plot(self, ax=None) -> LayerProbeDisplay:
        """Draw the scores.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a figure.

        Returns
        -------
        LayerProbeDisplay
            This display, with `ax_`, `figure_` and `best_layer_`.

        Raises
        ------
        ValueError
            If there is not one row of scores for each layer.
        """
        plt = pyplot(type(self).__name__)
        scores = np.asarray(self.scores, dtype=float)
        if scores.ndim != 2 or len(scores) != len(self.layers):
            raise ValueError(
                f"scores has shape {scores.shape} for {len(self.layers)} layers. Give one row per layer and one column "
                "per fold."
            )
        if ax is None:
            _, ax = plt.subplots(figsize=(max(6.0, min(14.0, 2 + 0.4 * len(scores))), 4), layout="constrained")
        order = np.argsort(self.layers)
        layers, scores = np.asarray(self.layers)[order], scores[order]
        means, spreads = scores.mean(axis=1), scores.std(axis=1)
        best = int(means.argmax())
        self.best_layer_ = int(layers[best])
        ax.errorbar(layers, means, yerr=spreads, color=COLOUR, marker="o", capsize=3, linewidth=1.5)
        label = f"layer {self.best_layer_}: {means[best]:.3f} ± {spreads[best]:.3f}"
        ax.scatter([self.best_layer_], [means[best]], s=100, color=BEST, zorder=4, label=label)
        ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        width, height = cell_size(ax)
        points = font_points("medium")
        ax.set_xlabel(wrap_to("layer, from the stem (0) to the top", 0.7 * width, points))
        ax.set_ylabel(wrap_to(f"{self.score_name}, {scores.shape[1]} folds", 0.7 * height, points))
        ax.set_title("Linear probe of each layer", fontsize="medium", loc="left")
        bare(ax, grid="y")
        ax.legend(fontsize="small", framealpha=0.85, edgecolor="none")
        keep_inside([ax])
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _folds(y: Any, task: str, cv: Any) -> Any:
    """Return the folds to use, checked against the smallest class."""
    if task != "classification":
        return _N_FOLDS if cv is None else cv
    codes, _ = class_codes(y, len(y))
    if cv is None:
        cv = min(_N_FOLDS, max(2, int(np.bincount(codes).min())))
    check_folds(codes, cv)
    return cv
