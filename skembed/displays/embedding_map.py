"""Map of embeddings in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Self

import numpy as np

from skembed.displays.estimators import as_embedder, transformed
from skembed.displays.projections import projection
from skembed.displays.samples import describe_sample, follow_mouse, image_of, spread_out
from skembed.inputs import as_samples, as_targets, target_kind
from skembed.utils.plot_layout import cell_size, font_points, keep_inside, shorten_to, text_inches, wrap_to
from skembed.utils.plotting import (
    COLOUR,
    GREY,
    bare,
    class_style,
    legend_label,
    plain_labels,
    pyplot,
    shorten_middle,
    visible_name,
)

__all__ = ["EmbeddingMapDisplay"]

_LEGEND_ROWS = 26
_LEGEND_NAME_LENGTH = 24
#: Smallest size of the legend's text.
_MIN_POINTS = 5.0
#: Side of a thumbnail.
_THUMBNAIL_POINTS = 30


class EmbeddingMapDisplay:
    """Map in two dimensions on which samples with similar embeddings are near each other.

    Each class has a color and a marker; numbers have a color bar. On interactive backends, the text or the path of the
    sample under the mouse is shown. Build it with `from_embedder` or `from_estimator`.

    Parameters
    ----------
    positions : array-like of shape (n_samples, 2)
        Positions of the samples; NaN for samples without a position.
    y : array-like of shape (n_samples,), default=None
        Classes or numbers.
    samples : sequence of length n_samples, default=None
        Raw samples, for thumbnails and for the text under the mouse.
    axis_names : (str, str), default=("", "")
        Names of the two dimensions.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the map.
    figure_ : matplotlib Figure
        Figure that contains them.
    thumbnails_ : list of int
        Samples whose images are drawn.

    References
    ----------
    .. [1] McInnes, Healy & Melville (2018), UMAP: Uniform Manifold Approximation and Projection for
       Dimension Reduction.
    .. [2] van der Maaten & Hinton (2008), Visualizing Data using t-SNE.

    Examples
    --------
    >>> from skembed import TextEmbedder
    >>> from skembed.displays import EmbeddingMapDisplay
    >>> texts = ["the invoice is overdue", "your parcel has arrived", "payment was refused", "delivery is delayed"]
    >>> display = EmbeddingMapDisplay.from_embedder(
    ...     TextEmbedder(), texts, ["money", "parcel", "money", "parcel"]
    ... )  # doctest: +SKIP
    >>> display.ax_.get_xlabel()  # doctest: +SKIP
    'first principal component, 54 % of the variance'
    """

    def __init__(self, positions: Any, y: Any = None, *, samples: Sequence[Any] | None = None, axis_names=("", "")):
        self.positions = positions
        self.y = y
        self.samples = samples
        self.axis_names = axis_names

    @classmethod
    def from_embedder(
        cls,
        embedder,
        X,
        y=None,
        *,
        method: str = "pca",
        random_state: int | None = 0,
        ax=None,
        thumbnails: bool = False,
        max_thumbnails: int = 60,
        max_classes: int = 40,
    ) -> Self:
        """Embed samples and draw their map.

        Parameters
        ----------
        embedder : ImageEmbedder, TextEmbedder or AudioEmbedder
            Fitted or unfitted embedder; a clone is used.
        X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
            Raw samples.
        y : array-like of shape (n_samples,), default=None
            Classes or numbers.
        method : {"pca", "tsne", "umap"}, default="pca"
            Projection to two dimensions. Principal components are the fastest and keep distances between groups;
            t-SNE [2]_ and UMAP [1]_ keep neighbors together, so use one of them to see groups. UMAP needs
            ``pip install umap-learn``. t-SNE lowers its perplexity of 30 for fewer than 91 samples.
        random_state : int or None, default=0
            Seed of the map.
        ax, thumbnails, max_thumbnails, max_classes
            See `plot`.

        Returns
        -------
        EmbeddingMapDisplay
            Display that has been drawn.

        Raises
        ------
        ValueError
            If there are fewer than three samples, or `method` is unknown.
        TypeError
            If `embedder` is not an embedder.
        ImportError
            If matplotlib, or umap-learn for its method, is not installed.
        """
        pyplot(cls.__name__)
        project = projection(method, random_state)
        made = as_embedder(embedder, cls.__name__)
        samples = as_samples(X)
        _check_targets(y, len(samples))
        positions, names = project(made.fit(X).embed(X))
        display = cls(positions, y, samples=samples, axis_names=names)
        return display.plot(ax, thumbnails=thumbnails, max_thumbnails=max_thumbnails, max_classes=max_classes)

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y=None,
        *,
        method: str = "pca",
        random_state: int | None = 0,
        ax=None,
        thumbnails: bool = False,
        max_thumbnails: int = 60,
        max_classes: int = 40,
    ) -> Self:
        """Draw the map of rows that a fitted estimator makes of samples.

        Parameters
        ----------
        estimator : fitted fine-tuner, embedder or Pipeline
            Estimator with `transform`. For a Pipeline that ends with a predictor, the input of the predictor is drawn.
            An unfitted embedder is cloned and fitted, as in `from_embedder`.
        X, y, method, random_state, ax, thumbnails, max_thumbnails, max_classes
            See `from_embedder`.

        Returns
        -------
        EmbeddingMapDisplay
            Display that has been drawn.

        Raises
        ------
        ValueError
            If there are fewer than three samples, or `method` is unknown.
        TypeError
            If `estimator` has no `transform`.
        NotFittedError
            If `estimator` is not fitted and not an embedder.
        ImportError
            If matplotlib, or umap-learn for its method, is not installed.
        """
        pyplot(cls.__name__)
        project = projection(method, random_state)
        samples = as_samples(X)
        _check_targets(y, len(samples))
        positions, names = project(transformed(estimator, X, cls.__name__))
        display = cls(positions, y, samples=samples, axis_names=names)
        return display.plot(ax, thumbnails=thumbnails, max_thumbnails=max_thumbnails, max_classes=max_classes)

    def plot(self, ax=None, *, thumbnails: bool = False, max_thumbnails: int = 60, max_classes: int = 40) -> Self:
        """Draw the map.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a figure.
        thumbnails : bool, default=False
            If True, draw images in the place of some points, framed in the color of their class.
        max_thumbnails : int, default=60
            Largest number of images; fewer are drawn if they would cover each other.
        max_classes : int, default=40
            Number of classes with a color of their own, the largest ones; samples of other classes are gray.

        Returns
        -------
        EmbeddingMapDisplay
            This display, with `ax_`, `figure_` and `thumbnails_`.

        Raises
        ------
        ValueError
            If lengths differ, or thumbnails are asked for and there are no images.
        """
        plt = pyplot(type(self).__name__)
        positions = self._checked()
        y, kind = _check_targets(self.y, len(positions))
        if ax is None:
            # As much room for the map, however many columns the legend has.
            _, ax = plt.subplots(figsize=(7.2 + 1.9 * _columns(y, kind, max_classes), 6), layout="constrained")
        self.ax_, self.figure_ = ax, ax.figure
        if y is None:
            colours = np.full(len(positions), COLOUR)
            ax.scatter(*positions.T, s=22, color=COLOUR, alpha=0.75, linewidths=0)
        elif kind == "continuous":
            drawn = ax.scatter(*positions.T, s=22, c=y, cmap="viridis")
            # A part of the axes, so that it stays beside them wherever they are moved to.
            self.figure_.colorbar(drawn, cax=ax.inset_axes((1.03, 0.0, 0.04, 1.0)), label="y")
            colours = drawn.to_rgba(drawn.get_array())
        else:
            colours = self._draw_classes(ax, positions, y, max_classes)
        self._name_axes(ax)
        keep_inside([ax])
        self.thumbnails_: list[int] = []
        if thumbnails:
            self._draw_thumbnails(ax, positions, colours, max_thumbnails)
        if self.samples is not None:
            follow_mouse(ax, positions, partial(_caption, self.samples, y))
        return self

    def _name_axes(self, ax) -> None:
        width, height = cell_size(ax)
        legend = ax.get_legend()
        beside = 0.6 if legend is None else legend.get_window_extent().width / ax.figure.dpi
        points = font_points("medium")
        along, up = self.axis_names
        ax.set(xlabel=wrap_to(along, width - beside - 0.8, points), ylabel=wrap_to(up, height - 0.9, points))
        ax.set(xticks=[], yticks=[])
        bare(ax)

    def _draw_classes(self, ax, positions: np.ndarray, y: np.ndarray, max_classes: int) -> np.ndarray:
        """Draw each class in one color and marker, with a legend; return the color of each sample."""
        classes, counts = np.unique(y, return_counts=True)
        largest = np.sort(np.argsort(-counts, kind="stable")[:max_classes])
        colours = np.full(len(y), GREY, dtype=object)
        rest = ~np.isin(y, classes[largest])
        names = [shorten_middle(name, _LEGEND_NAME_LENGTH) for name in classes[largest]]
        names += [f"{len(classes) - len(largest)} smaller classes"] if rest.any() else []
        names, columns, points = _fit_legend(names, *cell_size(ax))
        for number, name in enumerate(classes[largest]):
            colour, marker = class_style(number)
            own = y == name
            colours[own] = colour
            ax.scatter(
                *positions[own].T, s=30, color=colour, marker=marker, alpha=0.8, linewidths=0,
                label=legend_label(names[number]),
            )  # fmt: skip
        if rest.any():
            ax.scatter(*positions[rest].T, s=12, color=GREY, alpha=0.4, linewidths=0, label=names[-1], zorder=0.5)
        legend = ax.legend(
            loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False, fontsize=points,
            ncols=columns, markerscale=1.4 * points / font_points("small"), handletextpad=0.3, columnspacing=1.0,
        )  # fmt: skip
        plain_labels(legend.get_texts())
        for text, name in zip(legend.get_texts(), names, strict=True):
            text.set_text(name)
        return colours

    def _draw_thumbnails(self, ax, positions: np.ndarray, colours: np.ndarray, most: int) -> None:
        from matplotlib.offsetbox import AnnotationBbox, OffsetImage

        if self.samples is None:
            raise ValueError("thumbnails=True needs samples, which this display was made without.")
        # Only now are the sizes known: the legend takes its part.
        ax.figure.draw_without_rendering()
        points = ax.transData.transform(positions) * 72 / ax.figure.dpi
        self.thumbnails_ = spread_out(points, 1.25 * _THUMBNAIL_POINTS, most)
        for i in self.thumbnails_:
            # Twice the pixels that a common screen has there, for print.
            image = image_of(self.samples[i], 2 * _THUMBNAIL_POINTS, index=i)
            frame = AnnotationBbox(
                OffsetImage(np.asarray(image), zoom=0.5), tuple(positions[i]), pad=0.1,
                bboxprops={"edgecolor": colours[i], "linewidth": 1.8},
            )  # fmt: skip
            frame.set_zorder(3)
            ax.add_artist(frame)

    def _checked(self) -> np.ndarray:
        positions = np.asarray(self.positions, dtype=float)
        if positions.ndim != 2 or positions.shape[1] != 2:
            raise ValueError(f"positions has shape {positions.shape}. Give two numbers per sample: (n_samples, 2).")
        if self.samples is not None and len(self.samples) != len(positions):
            raise ValueError(
                f"samples has {len(self.samples)} entries for {len(positions)} positions. Give one per sample."
            )
        return positions


def _check_targets(y: Any, n_samples: int) -> tuple[np.ndarray | None, str]:
    """Return y as an array and its kind: "continuous", "binary" or "multiclass"."""
    if y is None:
        return None, ""
    values = as_targets(y, warn_column=False)
    if len(values) != n_samples:
        raise ValueError(f"y has {len(values)} entries for {n_samples} positions. Give one per sample.")
    kind = target_kind(values)
    if kind not in ("continuous", "binary", "multiclass"):
        raise ValueError(f"y is a {kind} target. Give one class or one number per sample, or y=None.")
    return values, kind


def _columns(y: np.ndarray | None, kind: str, max_classes: int) -> int:
    """Return the number of columns of the legend, 0 without classes."""
    if y is None or kind == "continuous":
        return 0
    n_classes = len(np.unique(y))
    return -(-min(n_classes, max_classes + 1) // _LEGEND_ROWS)


def _fit_legend(names: list[str], width: float, height: float) -> tuple[list[str], int, float]:
    """Return names, columns and text size of a legend that leaves half of the width to the map.

    The text becomes smaller first; only then are the names cut further.
    """
    for points in np.linspace(font_points("small"), _MIN_POINTS, 6):
        rows = max(1, min(_LEGEND_ROWS, int(72 * (height - 0.5) / (1.75 * points))))
        columns = -(-len(names) // rows)
        # A marker and the space between columns take three times the size of the text.
        room = width / 2 / columns - 3 * points / 72
        if max(text_inches(name, points) for name in names) <= room:
            break
    return [shorten_to(name, room, points, shorten_middle) for name in names], columns, float(points)


def _caption(samples: Sequence[Any], y: np.ndarray | None, i: int) -> str:
    """Return the text that is shown for the sample under the mouse."""
    name = "" if y is None else f", {visible_name(y[i])}"
    return f"{describe_sample(samples[i])}\n[{i}]{name}".strip()
