"""Confusion matrix with examples of confused samples."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import confusion_matrix
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import check_is_fitted

from skembed.displays.samples import image_of, is_image, line_of
from skembed.inputs import as_samples, as_targets, check_comparable, target_kind
from skembed.inputs.target_kinds import first_fraction
from skembed.utils.plot_layout import cell_size, fit_label, font_points, keep_inside, shorten_to, text_inches, wrap_to
from skembed.utils.plotting import GREY, luminance, panels, plain_labels, pyplot, shorten_middle

__all__ = ["ConfusedPair", "ConfusionExamplesDisplay"]

#: Side of an image among the examples.
_EXAMPLE_PIXELS = 112
#: Characters of a class's name at an axis, of a class's name over examples, and of a text among the examples.
_TICK_LENGTH = 18
_TITLE_LENGTH = 13
_LINE_LENGTH = 64
#: Smallest size of names of classes, and of texts among the examples.
_MIN_POINTS = 5.0
_MIN_LINE_POINTS = 6.0
#: Smallest height of a pair of classes with its examples.
_MIN_PAIR_INCHES = 0.6
#: Width of all that stands beside the matrix but the names of classes.
_BESIDE_INCHES = 0.45
#: Smallest width of a place that gets a color bar.
_COLOR_BAR_INCHES = 4.0
#: More classes than this, none of them in the other column, are probably samples.
_MANY_CLASSES = 20


class ConfusedPair(NamedTuple):
    """Samples of one class that were predicted as another.

    Parameters
    ----------
    true, predicted : object
        True and predicted class.
    indices : ndarray of shape (n_confused,), int
        Positions of the samples, ascending.
    n_true : int
        Number of samples of the true class.
    """

    true: Any
    predicted: Any
    indices: np.ndarray
    n_true: int


class ConfusionExamplesDisplay:
    """Confusion matrix beside samples of the most frequently confused pairs of classes.

    Colors show shares of the true class (rows sum to one), numbers are counts. Image samples are drawn; other samples
    are one line of text each. Build it with `from_estimator` or `from_predictions`.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n_samples,)
        Classes.
    samples : sequence of length n_samples
        Raw samples.

    Attributes
    ----------
    axes_ : ndarray of Axes
        The matrix, then one for each confused pair.
    figure_ : matplotlib Figure
        Figure that contains them.
    matrix_ : ndarray of shape (n_classes, n_classes), int
        Counts by true (rows) and predicted (columns) class.
    classes_ : ndarray of shape (n_classes,)
        Classes of rows and columns.
    pairs_ : list of ConfusedPair
        Pairs that are shown, the most frequent first.

    Examples
    --------
    >>> from skembed.displays import ConfusionExamplesDisplay
    >>> display = ConfusionExamplesDisplay.from_predictions(
    ...     ["money", "parcel", "money"], ["money", "parcel", "parcel"], ["an invoice", "it came", "refused"]
    ... )  # doctest: +SKIP
    >>> display.pairs_[0].true, display.pairs_[0].predicted  # doctest: +SKIP
    ('money', 'parcel')
    """

    def __init__(self, y_true: Any, y_pred: Any, samples: Sequence[Any]):
        self.y_true = y_true
        self.y_pred = y_pred
        self.samples = samples

    @classmethod
    def from_estimator(
        cls, estimator, X, y, *, ax=None, n_pairs: int = 5, n_examples: int = 5, max_classes: int = 30
    ) -> ConfusionExamplesDisplay:
        """Predict, and draw the confusion matrix with examples.

        Parameters
        ----------
        estimator : fitted classifier
            Classifier of raw samples, such as a `FineTuneClassifier`, a Pipeline, or a search.
        X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
            Raw samples, preferably none of the training samples.
        y : array-like of shape (n_samples,)
            True classes.
        ax, n_pairs, n_examples, max_classes
            See `plot`.

        Returns
        -------
        ConfusionExamplesDisplay
            Display that has been drawn.

        Raises
        ------
        TypeError
            If `estimator` has no `predict`.
        ValueError
            If there is not one class per sample.
        NotFittedError
            If `estimator` is not fitted.
        ImportError
            If matplotlib is not installed.
        """
        pyplot(cls.__name__)
        if not hasattr(estimator, "predict"):
            raise TypeError(
                f"estimator is a {type(estimator).__name__}, which predicts nothing. Give a classifier of raw samples, "
                "such as a FineTuneClassifier, or a Pipeline of an embedder and a classifier."
            )
        check_is_fitted(estimator)
        _as_classes(y, "y")
        options = {"n_pairs": n_pairs, "n_examples": n_examples, "max_classes": max_classes}
        return cls.from_predictions(y, estimator.predict(X), X, ax=ax, **options)

    @classmethod
    def from_predictions(
        cls, y_true, y_pred, X, *, ax=None, n_pairs: int = 5, n_examples: int = 5, max_classes: int = 30
    ) -> ConfusionExamplesDisplay:
        """Draw the confusion matrix with examples, from predictions.

        Parameters
        ----------
        y_true, y_pred : array-like of shape (n_samples,)
            Classes.
        X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
            Raw samples.
        ax, n_pairs, n_examples, max_classes
            See `plot`.

        Returns
        -------
        ConfusionExamplesDisplay
            Display that has been drawn.

        Raises
        ------
        ValueError
            If lengths differ, if there is not one class per sample, or if samples were passed as classes.
        ImportError
            If matplotlib is not installed.
        """
        display = cls(y_true, y_pred, as_samples(X))
        return display.plot(ax, n_pairs=n_pairs, n_examples=n_examples, max_classes=max_classes)

    def plot(
        self, ax=None, *, n_pairs: int = 5, n_examples: int = 5, max_classes: int = 30
    ) -> ConfusionExamplesDisplay:
        """Draw the matrix and the examples.

        Parameters
        ----------
        ax : Axes or sequence of Axes, default=None
            Axes to divide, or one for the matrix and one to divide among the pairs; None makes a figure.
        n_pairs, n_examples : int, default=5
            Largest numbers of pairs of classes, and of samples per pair.
        max_classes : int, default=30
            Largest number of classes. If there are more, those confused most often are shown, with unchanged shares.

        Returns
        -------
        ConfusionExamplesDisplay
            This display, with `axes_`, `figure_`, `matrix_`, `classes_` and `pairs_`.

        Raises
        ------
        ValueError
            If lengths differ, or there is not one class per sample.
        """
        pyplot(type(self).__name__)
        true, predicted = _as_classes(self.y_true, "y_true"), _as_classes(self.y_pred, "y_pred")
        check_consistent_length(true, predicted, self.samples)
        _refuse_samples(true, predicted)
        check_comparable(true, predicted, ("y_true", "y_pred"))
        self.classes_ = np.unique(np.concatenate([true, predicted]))
        self.matrix_ = confusion_matrix(true, predicted, labels=self.classes_)
        n_pairs = min(n_pairs, _pairs_that_fit(ax))
        self.pairs_ = _most_confused(true, predicted, self.matrix_, self.classes_, n_pairs)
        shown = _most_troubled(self.matrix_, max_classes)
        matrix, *places = self._places(ax, [shorten_middle(name, _TICK_LENGTH) for name in self.classes_[shown]])
        self.axes_, self.figure_ = np.array([matrix, *places], dtype=object), matrix.figure
        shown = _most_troubled(self.matrix_, min(len(shown), _classes_that_fit(matrix)))
        self._draw_matrix(matrix, shown, f"accuracy {np.mean(true == predicted):.3f}, n = {len(true)}")
        draw = _draw_images if is_image(self.samples[0]) else _draw_lines
        height = float(np.mean([cell_size(place)[1] for place in places]))
        for place, pair in zip(places, self.pairs_, strict=False):
            n_shown = draw(place, self.samples, pair.indices[:n_examples], n_examples, height)
            _name_pair(place, pair, n_shown)
        if not self.pairs_:
            places[0].set_axis_off()
            text, points = fit_label("No sample was confused.", cell_size(places[0])[0] - 0.2)
            places[0].text(0.5, 0.5, text, ha="center", va="center", color=GREY, fontsize=points)
        keep_inside([matrix])
        keep_inside(places)
        return self

    def _places(self, ax, names: list[str]) -> list:
        """Return the axes of the matrix, and those of the pairs, one below the other."""
        who, n_rows = type(self).__name__, max(1, len(self.pairs_))
        side, labels = _side(len(names)), 0.085 * max(map(len, names))
        size = side + labels + 1.7 + 5.4, max(side + labels + 0.6, 1.25 * n_rows)
        # In a cell that was given, the matrix needs the larger part.
        widths = (side + labels + 1.7, 5.4) if ax is None else (4, 3)
        matrix, right = panels(who, ax, (1, 2), figsize=size, widths=widths)
        return [matrix, *panels(who, right, (n_rows, 1), figsize=size)]

    def _draw_matrix(self, ax, shown: np.ndarray, title: str) -> None:
        counts = self.matrix_[np.ix_(shown, shown)]
        totals = self.matrix_.sum(axis=1, keepdims=True)[shown]
        shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
        drawn = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        names, points, (across, down) = _tick_names(self.classes_[shown], *cell_size(ax))
        digits = len(str(counts.max()))
        size = float(np.clip(min(0.38 * down, 0.75 * across / (0.64 * digits)), 4, 11))
        for i, j in np.argwhere(counts > 0):
            dark = luminance(drawn.cmap(drawn.norm(shares[i, j]))) < 0.35
            ax.text(
                j, i, str(counts[i, j]), ha="center", va="center", fontsize=size, color="white" if dark else "black"
            )
        ax.set_xticks(np.arange(len(shown)), names, rotation=90 if _is_long(names) else 0, fontsize=points)
        ax.set_yticks(np.arange(len(shown)), names, fontsize=points)
        plain_labels([*ax.get_xticklabels(), *ax.get_yticklabels()])
        ax.tick_params(length=0)
        self._label_matrix(ax, drawn, title, len(shown), max(text_inches(name, points) for name in names))

    def _label_matrix(self, ax, drawn, title: str, n_shown: int, beside: float) -> None:
        """Draw title, axes and color bar in the room that the names leave."""
        points, (width, height) = font_points("medium"), cell_size(ax)
        note = f"({n_shown} of {len(self.classes_)} classes: those most often confused)"
        below = ["predicted class", *([note] if n_shown < len(self.classes_) else [])]
        inner = width - beside - _BESIDE_INCHES
        smaller = min(fit_label(line, inner)[1] for line in below)
        ax.set_xlabel("\n".join(wrap_to(line, inner, smaller) for line in below), fontsize=smaller)
        ax.set_ylabel("true class", fontsize=points)
        colours = "share of the true class"
        if width >= _COLOR_BAR_INCHES:
            label = wrap_to(colours, height / 2, points)
            ax.figure.colorbar(drawn, cax=ax.inset_axes((1.04, 0.15, 0.04, 0.7)), label=label)
        else:
            title = f"{title}\ncolor: {colours}"
        points = min(fit_label(line, width - beside - 0.3, n_lines=1)[1] for line in title.split("\n"))
        ax.set_title(title, fontsize=points, loc="left")


def _pairs_that_fit(ax: Any) -> int:
    """Return the number of rows of examples that fit into the given axes."""
    if ax is None:
        return sys.maxsize
    place = ax if hasattr(ax, "get_subplotspec") else np.array(ax, dtype=object).ravel()[-1]
    return max(1, int(cell_size(place)[1] / _MIN_PAIR_INCHES))


def _classes_that_fit(ax: Any) -> int:
    """Return the number of rows of the matrix in which the smallest names do not touch."""
    width, height = cell_size(ax)
    return max(2, int(72 * (0.7 * min(width, height) - 0.5) / (1.2 * _MIN_POINTS)))


def _is_long(names: list[str]) -> bool:
    return max(map(len, names)) > 3


def _tick_names(classes: np.ndarray, width: float, height: float) -> tuple[list[str], float, tuple[float, float]]:
    """Return names of classes for a matrix, their size, and the points of a cell in both directions."""
    limit = 0.28 * min(width, height)
    bar = _BESIDE_INCHES + (0.7 if width >= _COLOR_BAR_INCHES else 0.0)
    for points in np.linspace(font_points("medium"), _MIN_POINTS, 6):
        names = [shorten_to(shorten_middle(name, _TICK_LENGTH), limit, points, shorten_middle) for name in classes]
        beside = max(text_inches(name, points) for name in names)
        across = 72 * (width - beside - bar) / len(names)
        down = 72 * (height - (beside if _is_long(names) else 0.2) - 0.9) / len(names)
        if 1.25 * points <= min(across, down):
            break
    return names, float(points), (across, down)


def _name_pair(ax: Any, pair: ConfusedPair, n_shown: int) -> None:
    """Draw a title with counts, on two lines if the names would be cut too short on one."""
    count = f"{len(pair.indices)} of {pair.n_true}"
    count += f", {n_shown} shown" if n_shown < len(pair.indices) else ""
    inches, points = cell_size(ax)[0] - 0.2, _title_points(ax)
    for between, shortest in ((": ", 8), ("\n", 4)):
        for n_characters in range(_TITLE_LENGTH, shortest - 1, -1):
            both = (shorten_middle(name, n_characters) for name in (pair.true, pair.predicted))
            title = " taken for ".join(both) + between + count
            if text_inches(title, points, "bold") <= inches:
                break
        else:
            continue
        break
    plain_labels([ax.set_title(title, fontsize=points, fontweight="bold", loc="left")])


def _title_points(ax: Any) -> float:
    return font_points("small") if cell_size(ax)[0] > _COLOR_BAR_INCHES else 7.0


def _as_classes(y: Any, name: str) -> np.ndarray:
    """Return one class per sample."""
    classes = as_targets(y, name, warn_column=False)
    if classes.ndim != 1:
        raise ValueError(
            f"{name} has shape {classes.shape}. Give one class per sample; of several labels draw one column at a time."
        )
    if target_kind(classes, name) == "continuous":
        raise ValueError(f"{name} holds numbers that are not classes, such as {first_fraction(classes)}. Give classes.")
    return classes


def _refuse_samples(true: np.ndarray, predicted: np.ndarray) -> None:
    """Refuse many different values of which none is in the other column: they are samples."""
    for name, values, other in (("y_true", true, predicted), ("y_pred", predicted, true)):
        found = {str(value) for value in values}
        if len(found) > max(_MANY_CLASSES, len(values) / 4) and not found & {str(value) for value in other}:
            raise ValueError(
                f"{name} has {len(found)} different values in {len(values)} samples, and the other column none of "
                "them. Are these the samples? The order is from_predictions(y_true, y_pred, X)."
            )


def _side(n_classes: int) -> float:
    """Return the side of the matrix in inches."""
    return float(np.clip(0.42 * n_classes, 3.0, 11.0))


def _most_confused(true, predicted, matrix: np.ndarray, classes: np.ndarray, most: int) -> list[ConfusedPair]:
    """Return the pairs with the most samples; ties are broken by the share of their class."""
    totals = matrix.sum(axis=1)
    pairs = [(i, j) for i, j in np.argwhere(matrix > 0) if i != j]
    pairs.sort(key=lambda pair: (-matrix[pair], -matrix[pair] / totals[pair[0]]))
    return [
        ConfusedPair(
            classes[i], classes[j], np.flatnonzero((true == classes[i]) & (predicted == classes[j])), int(totals[i])
        )
        for i, j in pairs[:most]
    ]


def _most_troubled(matrix: np.ndarray, most: int) -> np.ndarray:
    """Return the positions of the classes with the most confusions, to or from them, ascending."""
    wrong = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diag(matrix)
    return np.sort(np.argsort(-wrong, kind="stable")[:most])


def _draw_images(ax, samples: Sequence[Any], chosen: np.ndarray, n_examples: int, _: float) -> int:
    for place, i in enumerate(chosen):
        image = np.asarray(image_of(samples[i], _EXAMPLE_PIXELS, index=int(i)))
        ax.imshow(image, extent=(place, place + 0.95, 0, 0.95), interpolation="nearest")
    ax.set(xlim=(0, n_examples), ylim=(0, 0.95), aspect="equal", anchor="W")
    ax.set_axis_off()
    return len(chosen)


def _draw_lines(ax, samples: Sequence[Any], chosen: np.ndarray, n_examples: int, height: float) -> int:
    """Write as many lines as fit into the given inches; return their number."""
    width = cell_size(ax)[0]
    # The title has two lines at most.
    room = 72 * height - 3 * _title_points(ax) - 8
    n_rows = max(1, min(n_examples, int(room / (1.3 * _MIN_LINE_POINTS))))
    points = float(np.clip(room / n_rows / 1.3, _MIN_LINE_POINTS, font_points("small")))
    for place, i in enumerate(chosen[:n_rows]):
        cut = partial(_line_of, samples[i], int(i))
        line = shorten_to(line_of(samples[i], _LINE_LENGTH, index=int(i)), width - 0.25, points, cut)
        bottom = 1 - (place + 0.5) / (n_rows + 0.5)
        ax.text(0.01, bottom, line, va="center", fontsize=points, transform=ax.transAxes, parse_math=False)
    ax.set_axis_off()
    return len(chosen[:n_rows])


def _line_of(sample: Any, index: int, _: str, width: int) -> str:
    return line_of(sample, width, index=index)
