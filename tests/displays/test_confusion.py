"""Confusions: counts in their cells, shares of the true class, and the samples that were confused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Text
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skembed.displays import (
    ConfusionExamplesDisplay,
    DriftDisplay,
    EmbeddingMapDisplay,
    FineTuneDisplay,
    LayerProbeDisplay,
)
from skembed.testing import ArrayEmbedder

TRUE = ["a", "a", "a", "a", "b", "b", "b", "c", "c", "c"]
PREDICTED = ["a", "b", "b", "c", "b", "b", "a", "c", "a", "a"]
TEXTS = [f"text {i}" for i in range(10)]
COUNTS = [[1, 2, 1], [1, 2, 0], [2, 0, 1]]


def _draw(X=TEXTS, true=TRUE, predicted=PREDICTED, **options):
    return ConfusionExamplesDisplay.from_predictions(true, predicted, X, **options)


def _cells(ax) -> dict:
    """Numbers by row and column."""
    return {(text.get_position()[1], text.get_position()[0]): int(text.get_text()) for text in ax.texts}


def _lines(ax) -> list[str]:
    """From the top."""
    return [text.get_text() for text in sorted(ax.texts, key=lambda text: -text.get_position()[1])]


def test_cells_hold_counts_and_the_colours_of_shares():
    """True classes are rows; shares are of rows and not of columns, which have 4, 4 and 2."""
    display = _draw()
    ax = display.axes_[0]
    assert display.matrix_.tolist() == COUNTS
    assert _cells(ax) == {(i, j): COUNTS[i][j] for i in range(3) for j in range(3) if COUNTS[i][j]}
    shares = np.array(COUNTS) / np.array([[4], [3], [3]])
    np.testing.assert_allclose(ax.images[0].get_array(), shares)
    assert ax.images[0].get_clim() == (0, 1)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]
    assert ax.get_ylabel() == "true class"
    bottom, top = ax.get_ylim()
    assert bottom > top, "the first class is on top"


@pytest.mark.parametrize("place", ["y_true", "y_pred"])
def test_samples_in_the_place_of_classes_are_told_the_order(place):
    samples, classes = [f"text {i}" for i in range(60)], ["a", "b", "c"] * 20
    given = (samples, classes, classes) if place == "y_true" else (classes, samples, classes)
    with pytest.raises(ValueError, match=rf"{place} has 60 different.*order is from_predictions\(y_true, y_pred, X\)"):
        ConfusionExamplesDisplay.from_predictions(*given)
    many = [f"class {i}" for i in range(60)]
    assert len(_draw(samples, many, many[1:] + many[:1]).classes_) == 60, "classes may be many"


def test_numbers_are_light_on_dark_cells():
    display = _draw(true=["a"] * 10, predicted=["a"] * 9 + ["b"])
    colours = {int(text.get_text()): text.get_color() for text in display.axes_[0].texts}
    assert colours == {9: "white", 1: "black"}


def test_pairs_come_by_their_counts_and_then_by_their_share_of_the_class():
    """Two of three samples are more than two of four."""
    pairs = _draw().pairs_
    assert [(pair.true, pair.predicted, pair.n_true) for pair in pairs] == [
        ("c", "a", 3), ("a", "b", 4), ("b", "a", 3), ("a", "c", 4),
    ]  # fmt: skip
    assert [pair.indices.tolist() for pair in pairs] == [[8, 9], [1, 2], [6], [3]]


def test_texts_stand_beside_the_matrix():
    display = _draw(n_pairs=2)
    assert [ax.get_title("left") for ax in display.axes_[1:]] == ["c taken for a: 2 of 3", "a taken for b: 2 of 4"]
    assert [_lines(ax) for ax in display.axes_[1:]] == [["text 8", "text 9"], ["text 1", "text 2"]]
    assert [_lines(ax) for ax in _draw(n_pairs=1, n_examples=1).axes_[1:]] == [["text 8"]]


def test_long_texts_and_paths_are_cut_to_a_line():
    X = [f"text {i} and\n $more$ " + "words " * 40 for i in range(10)]
    line = _lines(_draw(X, n_pairs=1).axes_[1])[0]
    assert line.startswith("text 8 and $more$ words")
    assert line.endswith("…")
    assert len(line) <= 64
    X = [Path("/".join(["directory"] * 9)) / f"{i}.wav" for i in range(10)]
    line = _lines(_draw(X, n_pairs=1).axes_[1])[0]
    assert line.startswith("…/directory")
    assert line.endswith("/8.wav")
    assert _lines(_draw([np.zeros(50)] * 10, n_pairs=1).axes_[1]) == ["sample 8", "sample 9"]


def test_images_are_those_of_the_confused_samples():
    X = [np.full((6, 4, 3), 10 * i, dtype=np.uint8) for i in range(10)]
    display = _draw(X, n_pairs=2)
    drawn = [[image.get_array() for image in ax.images] for ax in display.axes_[1:]]
    # The middle column: images are padded to squares with white.
    assert [[int(image[50, 56, 0]) for image in images] for images in drawn] == [[80, 90], [10, 20]]
    assert all(image.shape[:2] == (112, 112) for images in drawn for image in images)
    lefts = [image.get_extent()[0] for image in display.axes_[1].images]
    assert lefts == [0, 1]


def test_nothing_confused():
    display = _draw(predicted=TRUE)
    assert display.pairs_ == []
    assert _lines(display.axes_[1]) == ["No sample was confused."]
    assert _cells(display.axes_[0]) == {(0, 0): 4, (1, 1): 3, (2, 2): 3}


def test_a_class_that_was_only_predicted_has_a_row_of_zeros():
    display = _draw(true=["a"] * 10, predicted=["a"] * 8 + ["z"] * 2)
    np.testing.assert_allclose(display.axes_[0].images[0].get_array(), [[0.8, 0.2], [0, 0]])


def test_of_many_classes_the_most_confused_are_shown():
    true = np.arange(50).repeat(4)
    predicted = true.copy()
    predicted[[4 * 7, 4 * 7 + 1, 4 * 7 + 2, 4 * 30]] = [8, 8, 40, 31]
    display = _draw(list(map(str, true)), true, predicted, max_classes=4)
    ax = display.axes_[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["7", "8", "30", "31"]
    assert _cells(ax) == {(0, 0): 1, (0, 1): 2, (1, 1): 4, (2, 2): 3, (2, 3): 1, (3, 3): 4}
    # Of all four samples of the class, one of which was taken for a class that is not shown.
    np.testing.assert_allclose(ax.images[0].get_array()[0], [0.25, 0.5, 0, 0])
    assert "4 of 50 classes" in ax.get_xlabel()
    assert display.matrix_.shape == (50, 50)


@pytest.mark.parametrize("n_classes", [2, 12, 30])
def test_names_titles_and_numbers_stay_inside_of_the_figure(n_classes):
    rng = np.random.default_rng(0)
    names = np.array([f"a class with a long name, {i}" for i in range(n_classes)])
    true, predicted = (names[rng.integers(n_classes, size=400)] for _ in range(2))
    display = _draw([f"text {i} " + "words " * 30 for i in range(400)], true, predicted)
    display.figure_.draw_without_rendering()
    whole = display.figure_.bbox
    for ax in display.axes_:
        drawn = ax.findobj(Text) if ax.axison else [*ax.texts, ax._left_title]
        for text in (text for text in drawn if text.get_text() and text.get_visible()):
            extent = text.get_window_extent()
            assert whole.x0 <= extent.x0
            assert extent.x1 <= whole.x1, text.get_text()
            assert whole.y0 <= extent.y0, text.get_text()
    labels = [label.get_text() for label in display.axes_[0].get_yticklabels()]
    assert len(set(labels)) == n_classes


def test_of_an_estimator_and_of_a_pipeline(tuned, rows):
    X, y = rows
    samples = list(X)
    display = ConfusionExamplesDisplay.from_estimator(tuned, samples, y)
    assert display.matrix_.trace() == (tuned.predict(samples) == y).sum()
    pipeline = make_pipeline(ArrayEmbedder(), StandardScaler(), LogisticRegression())
    with pytest.raises(NotFittedError):
        ConfusionExamplesDisplay.from_estimator(pipeline, samples, y)
    display = ConfusionExamplesDisplay.from_estimator(pipeline.fit(X, y), samples, y)
    assert display.matrix_.sum() == len(y)
    for pair in display.pairs_:
        assert (y[pair.indices] == pair.true).all()


def test_what_cannot_be_drawn_is_named(pyplot):
    with pytest.raises(TypeError, match="estimator is a StandardScaler, which predicts nothing"):
        ConfusionExamplesDisplay.from_estimator(StandardScaler(), TEXTS, TRUE)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        _draw(TEXTS[:5])
    labels = np.eye(10, 3, dtype=int)
    with pytest.raises(ValueError, match=r"y_true has shape \(10, 3\)"):
        _draw(true=labels, predicted=labels)
    with pytest.raises(ValueError, match="ax has 3 axes"):
        _draw(ax=pyplot.subplots(3)[1])
    figure, axes = pyplot.subplots(1, 2)
    assert _draw(ax=axes[1]).figure_ is figure


@pytest.mark.parametrize("draw", [
    lambda tuned, X, y: FineTuneDisplay.from_estimator(tuned),
    lambda tuned, X, y: LayerProbeDisplay.from_embedder(ArrayEmbedder(), X, y),
    lambda tuned, X, y: DriftDisplay.from_estimator(tuned, X),
    lambda tuned, X, y: EmbeddingMapDisplay.from_estimator(tuned, X),
    lambda tuned, X, y: EmbeddingMapDisplay.from_embedder(ArrayEmbedder(), X),
    lambda tuned, X, y: ConfusionExamplesDisplay.from_estimator(tuned, X, y),
    lambda tuned, X, y: ConfusionExamplesDisplay.from_predictions(y, y, X),
])  # fmt: skip
def test_without_matplotlib_the_error_says_what_to_install(monkeypatch, tuned, rows, draw):
    for name in ("matplotlib", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"Display needs matplotlib: pip install .skembed\[plot\]"):
        draw(tuned, *rows)
