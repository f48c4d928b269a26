"""Maps: places, classes, thumbnails, and what the mouse shows."""

from __future__ import annotations

import gc
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skembed.displays import EmbeddingMapDisplay
from skembed.displays.samples import describe_sample, spread_out
from skembed.exceptions import DecodeError
from skembed.testing import ArrayEmbedder
from skembed.utils.plotting import class_style

PLACES = np.array([[0.0, 0.0], [1.0, 0.5], [2.0, 1.0], [3.0, 4.0], [4.0, 2.0], [5.0, 5.0]])
CLASSES = np.array(["b", "a", "b", "c", "a", "b"])


def _groups(display) -> dict[str, list]:
    """Places by the labels of the legend."""
    return {drawn.get_label(): drawn.get_offsets().tolist() for drawn in display.ax_.collections}


def _images(n: int, side: int = 8) -> list[np.ndarray]:
    return [np.full((side, side, 3), i % 256, dtype=np.uint8) for i in range(n)]


def _move(display, place):
    """The mouse, over a place of the data."""
    from matplotlib.backend_bases import MouseEvent

    canvas = display.figure_.canvas
    x, y = display.ax_.transData.transform(place)
    canvas.callbacks.process("motion_notify_event", MouseEvent("motion_notify_event", canvas, x, y))
    (note,) = [text for text in display.ax_.texts if hasattr(text, "xyann")]
    assert not note.get_parse_math(), "dollars are no formulas"
    return note.get_text() if note.get_visible() else None


def test_each_class_is_where_its_samples_are():
    display = EmbeddingMapDisplay(PLACES, CLASSES).plot()
    assert _groups(display) == {name: PLACES[name == CLASSES].tolist() for name in "abc"}
    legend = display.ax_.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "c"]
    colours = {tuple(drawn.get_facecolor()[0]) for drawn in display.ax_.collections}
    assert len(colours) == 3


def test_of_many_classes_the_largest_are_told_apart():
    y = np.array([0] * 3 + [1] + [2] * 2 + [3] + [4] * 4)
    display = EmbeddingMapDisplay(np.random.default_rng(0).normal(size=(11, 2)), y).plot(max_classes=3)
    assert {label: len(places) for label, places in _groups(display).items()} == {
        "0": 3,
        "2": 2,
        "4": 4,
        "2 smaller classes": 2,
    }


def test_the_legend_of_forty_classes_is_inside_of_the_figure_and_beside_the_map():
    y = np.array([f"a class with a rather long name, {i}" for i in range(40)]).repeat(2)
    display = EmbeddingMapDisplay(np.random.default_rng(0).normal(size=(80, 2)), y).plot()
    display.figure_.draw_without_rendering()
    legend = display.ax_.get_legend().get_window_extent()
    assert legend.x0 >= display.ax_.get_window_extent().x1
    assert display.figure_.bbox.x1 >= legend.x1
    assert legend.y0 >= 0
    names = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert len(set(names)) == 40, "cut in the middle, so that they stay different"
    assert max(map(len, names)) == 24
    assert len({class_style(i) for i in range(40)}) == 40


def test_principal_components_against_a_singular_value_decomposition(rows):
    X, y = rows
    display = EmbeddingMapDisplay.from_embedder(ArrayEmbedder(precision="float32"), X, y)
    embedded = ArrayEmbedder(precision="float32").fit_transform(X).astype(float)
    left, values, _ = np.linalg.svd(embedded - embedded.mean(0), full_matrices=False)
    np.testing.assert_allclose(np.abs(display.positions), np.abs(left[:, :2] * values[:2]), atol=1e-6)
    shares = values**2 / (values**2).sum()
    assert display.ax_.get_xlabel() == f"first principal component, {100 * shares[0]:.0f} % of the variance"
    assert display.ax_.get_ylabel() == f"second principal component, {100 * shares[1]:.0f} % of the variance"
    assert set(_groups(display)) == {"0", "1"}


def test_a_fine_tuner_shows_what_it_made_of_the_samples(tuned, rows):
    X, y = rows
    display = EmbeddingMapDisplay.from_estimator(tuned, X, y)
    own = EmbeddingMapDisplay.from_embedder(tuned.embedder_, X, y)
    np.testing.assert_allclose(display.positions, own.positions, atol=1e-6)
    frozen = EmbeddingMapDisplay.from_embedder(ArrayEmbedder(precision="float32"), X, y)
    assert np.abs(display.positions - frozen.positions).max() > 0.01


def test_of_a_pipeline_what_its_predictor_gets(rows):
    X, y = rows
    pipeline = make_pipeline(ArrayEmbedder(), StandardScaler(), LogisticRegression()).fit(X, y)
    display = EmbeddingMapDisplay.from_estimator(pipeline, X, y)
    scaled = pipeline[:-1].transform(X)
    np.testing.assert_allclose(
        display.positions.var(axis=0).sum(), np.linalg.eigvalsh(np.cov(scaled.T, ddof=0))[-2:].sum()
    )


def test_numbers_have_a_colour_bar():
    values = np.array([0.5, 1.5, 2.5, 3.5, 4.5, 5.5])
    display = EmbeddingMapDisplay(PLACES, values).plot()
    assert display.ax_.collections[0].get_array().tolist() == values.tolist()
    assert display.ax_.collections[0].colorbar.ax in display.ax_.child_axes, "it moves with the map"
    assert display.ax_.get_legend() is None


def test_a_sample_that_could_not_be_read_has_no_place(rows):
    X, _ = rows
    rows_ = np.random.default_rng(0).normal(size=(6, 3))
    rows_[2] = np.nan
    passed = FunctionTransformer().fit(rows_)
    display = EmbeddingMapDisplay.from_estimator(passed, rows_)
    assert np.isnan(display.positions).all(axis=1).tolist() == [False, False, True, False, False, False]
    with pytest.raises(ValueError, match="at least three samples with finite embeddings, got 2"):
        EmbeddingMapDisplay.from_embedder(ArrayEmbedder(), X[:2])


# -- thumbnails -----------------------------------------------------------------------------------------


def _boxes(display):
    from matplotlib.offsetbox import AnnotationBbox

    return [artist for artist in display.ax_.artists if isinstance(artist, AnnotationBbox)]


def test_thumbnails_are_the_images_of_their_samples_in_the_colour_of_their_class():
    from matplotlib.colors import to_rgba

    display = EmbeddingMapDisplay(PLACES, CLASSES, samples=_images(6)).plot(thumbnails=True)
    assert sorted(display.thumbnails_) == list(range(6))
    for i, box in zip(display.thumbnails_, _boxes(display), strict=True):
        assert box.xy == tuple(PLACES[i])
        assert set(np.unique(box.offsetbox.get_data())) == {i}
        assert box.patch.get_edgecolor() == to_rgba(class_style("abc".index(CLASSES[i]))[0])


def test_thumbnails_do_not_cover_each_other_and_are_limited():
    places = np.random.default_rng(0).normal(size=(400, 2))
    display = EmbeddingMapDisplay(places, samples=_images(400)).plot(thumbnails=True, max_thumbnails=1000)
    display.figure_.draw_without_rendering()
    extents = [box.get_window_extent() for box in _boxes(display)]
    assert 20 < len(extents) < 400
    assert not any(a.overlaps(b) for i, a in enumerate(extents) for b in extents[:i])
    few = EmbeddingMapDisplay(places, samples=_images(400)).plot(thumbnails=True, max_thumbnails=7)
    assert len(_boxes(few)) == 7


def test_texts_have_no_thumbnails():
    with pytest.raises(DecodeError, match=r"cannot be drawn as an image") as caught:
        EmbeddingMapDisplay(PLACES, samples=["a text"] * 6).plot(thumbnails=True)
    assert caught.value.index == 0
    with pytest.raises(ValueError, match="thumbnails=True needs samples"):
        EmbeddingMapDisplay(PLACES).plot(thumbnails=True)


def test_points_that_are_spread_out_keep_their_distance_and_leave_no_gap():
    points = np.random.default_rng(0).uniform(size=(300, 2))
    points[5] = np.nan
    chosen = spread_out(points, 0.1, 1000)
    away = np.abs(points[:, None] - points[chosen]).max(axis=2)
    between = away[chosen]
    assert between[~np.eye(len(chosen), dtype=bool)].min() >= 0.1
    assert np.nanmax(away.min(axis=1)) < 0.1
    assert 5 not in chosen
    assert spread_out(np.full((3, 2), np.nan), 0.1, 10) == []


# -- the mouse ------------------------------------------------------------------------------------------


def test_the_text_under_the_mouse_is_shown():
    texts = [f"text {i} costs $5 or $6" for i in range(6)]
    display = EmbeddingMapDisplay(PLACES, CLASSES, samples=texts).plot()
    assert _move(display, PLACES[3]) == "text 3 costs $5 or $6\n[3], c"
    assert _move(display, PLACES[1]) == "text 1 costs $5 or $6\n[1], a"
    assert _move(display, (2.5, 3.0)) is None
    display.figure_.draw_without_rendering()


def test_what_is_shown_outlives_the_display():
    figure = EmbeddingMapDisplay(PLACES, samples=[f"text {i}" for i in range(6)]).plot().figure_
    figure.draw_without_rendering()
    gc.collect()
    assert _move(types.SimpleNamespace(figure_=figure, ax_=figure.axes[0]), PLACES[2]) == "text 2\n[2]"


@pytest.mark.parametrize(("sample", "shown"), [
    (Path("images/cats/1.jpg"), "images/cats/1.jpg"),
    ({"path": "a.wav", "bytes": None}, "a.wav"),
    (np.zeros((4, 4)), ""),
    (Path("/".join(["directory"] * 9) + "/1.jpg"), "…/directory/directory/directory/1.jpg"),
])  # fmt: skip
def test_files_are_shown_by_the_end_of_their_path(sample, shown):
    assert describe_sample(sample) == shown


# -- UMAP, and what is refused --------------------------------------------------------------------------


def test_umap_is_used_where_it_is_installed(monkeypatch, rows):
    X, y = rows
    calls = []

    class Double:
        def __init__(self, **parameters):
            calls.append(parameters)

        def fit_transform(self, rows):
            return rows[:, :2] * 2

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Double))
    display = EmbeddingMapDisplay.from_embedder(ArrayEmbedder(), X[:10], y[:10], method="umap", random_state=3)
    np.testing.assert_allclose(display.positions, 2 * ArrayEmbedder().fit_transform(X[:10])[:, :2])
    assert calls == [{"n_neighbors": 9, "random_state": 3, "n_jobs": 1}]
    assert display.ax_.get_xlabel() == "UMAP, first dimension"


def test_without_umap_the_error_says_what_to_install(monkeypatch, rows):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match="pip install umap-learn"):
        EmbeddingMapDisplay.from_embedder(ArrayEmbedder(), *rows, method="umap")


def test_what_cannot_be_drawn_is_named(rows):
    X, y = rows
    with pytest.raises(NotFittedError):
        EmbeddingMapDisplay.from_estimator(make_pipeline(ArrayEmbedder(), StandardScaler()), X, y)
    with pytest.raises(TypeError, match="estimator is a LogisticRegression, which has no transform"):
        EmbeddingMapDisplay.from_estimator(LogisticRegression().fit(X, y), X, y)
    with pytest.raises(TypeError, match="embedder is a StandardScaler"):
        EmbeddingMapDisplay.from_embedder(StandardScaler(), X, y)
    with pytest.raises(ValueError, match="y has 2 entries for 6 positions"):
        EmbeddingMapDisplay(PLACES, ["a", "b"]).plot()
    with pytest.raises(ValueError, match=r"positions has shape \(6, 3\)"):
        EmbeddingMapDisplay(np.zeros((6, 3))).plot()
    with pytest.raises(ValueError, match="y is a multilabel-indicator target"):
        EmbeddingMapDisplay(PLACES, np.eye(6, 3, dtype=int)).plot()


def test_it_draws_where_it_is_told(pyplot):
    figure, axes = pyplot.subplots(1, 2)
    display = EmbeddingMapDisplay(PLACES, CLASSES).plot(axes[1])
    assert display.ax_ is axes[1]
    assert display.figure_ is figure
    assert not axes[0].collections
