"""Which classes are taken for which, and examples of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import confusion_matrix
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import check_is_fitted

from skembed._plotting import GREY, luminance, panels, plain_labels, pyplot, shorten_middle
from skembed.displays.samples import image_of, is_image, line_of
from skembed.finetune.targets import first_fraction
from skembed.inputs import as_samples, as_targets, check_comparable, target_kind

__all__ = ["ConfusedPair", "ConfusionExamplesDisplay"]

#: Pixels of the side of an example.
_EXAMPLE = 112
#: Characters of a class's name at an axis and over examples, and of a text among the examples.
_TICK, _TITLE, _LINE = 18, 13, 64
#: Of more classes, of which the other column has none, it is asked whether they are classes.
_MANY_CLASSES = 20


class ConfusedPair(NamedTuple):
    """Samples of one class that were predicted as another.

    Parameters
    ----------
    true, predicted : object
        The classes.
    indices : ndarray of shape (n_confused,), int
        Which samples, in their order.
    n_true : int
        Samples of the true class.
    """

    true: Any
    predicted: Any
    indices: np.ndarray
    n_true: int


class ConfusionExamplesDisplay:
    """A confusion matrix, and beside it samples of the pairs of classes that were most often confused.

    Colours are shares of the true class (rows add up to one), numbers are counts. Images are drawn; of texts and paths
    one line each is written. Build it with `from_estimator` or `from_predictions`.

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
        Figure that holds them.
    matrix_ : ndarray of shape (n_classes, n_classes), int
        Counts by true (rows) and predicted (columns) class.
    classes_ : ndarray of shape (n_classes,)
        Classes of rows and columns.
    pairs_ : list of ConfusedPair
        What is shown, the most frequent first.

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
        """Predict, and draw what was confused.

        Parameters
        ----------
        estimator : fitted classifier
            Anything that predicts classes of raw samples: a `FineTuneClassifier`, a Pipeline, a search over one.
        X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
            Raw samples, best some that were not trained on.
        y : array-like of shape (n_samples,)
            Their classes.
        ax, n_pairs, n_examples, max_classes
            See `plot`.

        Returns
        -------
        ConfusionExamplesDisplay
            Drawn.

        Raises
        ------
        TypeError
            If it predicts nothing.
        ValueError
            If there is not one class a sample.
        NotFittedError
            If it is not fitted.
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
        """Draw what was confused.

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
            Drawn.

        Raises
        ------
        ValueError
            If lengths differ, there is not one class a sample, or samples stand where classes belong.
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
            A place that is divided, or one for the matrix and one that is divided among the pairs; None makes a figure.
        n_pairs, n_examples : int, default=5
            Pairs of classes, and samples of each, at most.
        max_classes : int, default=30
            Of more classes those are shown that were confused most often; shares and counts stay what they are.

        Returns
        -------
        ConfusionExamplesDisplay
            Itself, with `axes_`, `figure_`, `matrix_`, `classes_` and `pairs_`.

        Raises
        ------
        ValueError
            If lengths differ, or there is not one class a sample.
        """
        pyplot(type(self).__name__)
        true, predicted = _as_classes(self.y_true, "y_true"), _as_classes(self.y_pred, "y_pred")
        check_consistent_length(true, predicted, self.samples)
        _refuse_samples(true, predicted)
        check_comparable(true, predicted, ("y_true", "y_pred"))
        self.classes_ = np.unique(np.concatenate([true, predicted]))
        self.matrix_ = confusion_matrix(true, predicted, labels=self.classes_)
        self.pairs_ = _most_confused(true, predicted, self.matrix_, self.classes_, n_pairs)
        shown = _most_troubled(self.matrix_, max_classes)
        names = [shorten_middle(name, _TICK) for name in self.classes_[shown]]
        matrix, *places = self._places(ax, names)
        self.axes_, self.figure_ = np.array([matrix, *places], dtype=object), matrix.figure
        self._draw_matrix(matrix, shown, names)
        matrix.set_title(f"accuracy {np.mean(true == predicted):.3f}, n = {len(true)}", fontsize="medium", loc="left")
        draw = _draw_images if is_image(self.samples[0]) else _draw_lines
        for place, pair in zip(places, self.pairs_, strict=False):
            draw(place, self.samples, pair.indices[:n_examples], n_examples)
            both = (shorten_middle(name, _TITLE) for name in (pair.true, pair.predicted))
            n_shown = min(n_examples, len(pair.indices))
            count = f"{len(pair.indices)} of {pair.n_true}"
            count += f", {n_shown} shown" if n_shown < len(pair.indices) else ""
            title = " taken for ".join(both) + f": {count}"
            plain_labels([place.set_title(title, fontsize="small", fontweight="bold", loc="left")])
        if not self.pairs_:
            places[0].set_axis_off()
            places[0].text(0.5, 0.5, "No sample was confused.", ha="center", va="center", color=GREY)
        return self

    def _places(self, ax, names: list[str]) -> list:
        """Axes of the matrix, and one below the other those of the pairs."""
        who, n_rows = type(self).__name__, max(1, len(self.pairs_))
        side, labels = _side(len(names)), 0.085 * max(map(len, names))
        size = side + labels + 1.7 + 5.4, max(side + labels + 0.6, 1.25 * n_rows)
        matrix, right = panels(who, ax, (1, 2), figsize=size, widths=(side + labels + 1.7, 5.4))
        return [matrix, *panels(who, right, (n_rows, 1), figsize=size)]

    def _draw_matrix(self, ax, shown: np.ndarray, names: list[str]) -> None:
        counts = self.matrix_[np.ix_(shown, shown)]
        totals = self.matrix_.sum(axis=1, keepdims=True)[shown]
        shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
        drawn = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        # A cell's height in points, and digits that leave room around them.
        cell = 72 * _side(len(shown)) / len(shown)
        size = float(np.clip(0.38 * cell, 4, 11))
        for i, j in np.argwhere(counts > 0):
            dark = luminance(drawn.cmap(drawn.norm(shares[i, j]))) < 0.35
            ax.text(
                j, i, str(counts[i, j]), ha="center", va="center", fontsize=size, color="white" if dark else "black"
            )
        long = max(map(len, names)) > 3
        labels = float(np.clip(0.6 * cell, 5, 10))
        ax.set_xticks(np.arange(len(shown)), names, rotation=90 if long else 0, fontsize=labels)
        ax.set_yticks(np.arange(len(shown)), names, fontsize=labels)
        plain_labels([*ax.get_xticklabels(), *ax.get_yticklabels()])
        left_out = len(self.classes_) - len(shown)
        note = f"\n({len(shown)} of {len(self.classes_)} classes: those most often confused)" if left_out else ""
        ax.set(xlabel=f"predicted class{note}", ylabel="true class")
        ax.tick_params(length=0)
        ax.figure.colorbar(drawn, ax=ax, label="share of the true class", shrink=0.7)


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
    """Samples in the place of classes: many, and none of them in the other column."""
    for name, values, other in (("y_true", true, predicted), ("y_pred", predicted, true)):
        found = {str(value) for value in values}
        if len(found) > max(_MANY_CLASSES, len(values) / 4) and not found & {str(value) for value in other}:
            raise ValueError(
                f"{name} has {len(found)} different values in {len(values)} samples, and the other column none of "
                "them. Are these the samples? The order is from_predictions(y_true, y_pred, X)."
            )


def _side(n_classes: int) -> float:
    """Inches of a side of the matrix."""
    return float(np.clip(0.42 * n_classes, 3.0, 11.0))


def _most_confused(true, predicted, matrix: np.ndarray, classes: np.ndarray, most: int) -> list[ConfusedPair]:
    """The pairs with the most samples, and of as many those that are a larger share of their class."""
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
    """Positions of the classes with the most confusions, to or from them, in their own order."""
    wrong = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diag(matrix)
    return np.sort(np.argsort(-wrong, kind="stable")[:most])


def _draw_images(ax, samples: Sequence[Any], chosen: np.ndarray, n_examples: int) -> None:
    for place, i in enumerate(chosen):
        image = np.asarray(image_of(samples[i], _EXAMPLE, index=int(i)))
        ax.imshow(image, extent=(place, place + 0.95, 0, 0.95), interpolation="nearest")
    ax.set(xlim=(0, n_examples), ylim=(0, 0.95), aspect="equal", anchor="W")
    ax.set_axis_off()


def _draw_lines(ax, samples: Sequence[Any], chosen: np.ndarray, n_examples: int) -> None:
    for place, i in enumerate(chosen):
        line = line_of(samples[i], _LINE, index=int(i))
        height = 1 - (place + 0.5) / (n_examples + 0.5)
        ax.text(0.01, height, line, va="center", fontsize="small", transform=ax.transAxes, parse_math=False)
    ax.set_axis_off()
