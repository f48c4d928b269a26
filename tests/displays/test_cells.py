"""Displays that share a figure: each stays inside of its cell, and none of its texts cover each other."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.text import Text

from skembed.displays import (
    ConfusionExamplesDisplay,
    DriftDisplay,
    EmbeddingMapDisplay,
    FineTuneDisplay,
    LayerProbeDisplay,
    RateCurveDisplay,
    TransferabilityDisplay,
)

CLASSES = np.array([f"a class of length {i:02d}" for i in range(12)])
TARGETS = CLASSES[np.arange(240) % 12]
PREDICTED = np.where(np.random.default_rng(0).random(240) < 0.5, np.roll(TARGETS, 1), TARGETS)


def _confusion(ax, *, images: bool = False, n_classes: int = 12):
    samples = [np.full((8, 8, 3), i, dtype=np.uint8) for i in range(240)]
    texts = [f"text {i} " + "of several words " * 9 for i in range(240)]
    known = np.isin(TARGETS, CLASSES[:n_classes]) & np.isin(PREDICTED, CLASSES[:n_classes])
    X = [one for one, chosen in zip(samples if images else texts, known, strict=True) if chosen]
    return ConfusionExamplesDisplay.from_predictions(TARGETS[known], PREDICTED[known], X, ax=ax)


def _map(ax, y):
    names = ("first principal component, 54 % of the variance", "second principal component, 21 % of the variance")
    return EmbeddingMapDisplay(np.random.default_rng(0).normal(size=(len(y), 2)), y, axis_names=names).plot(ax)


def _drift(ax, n_blocks: int = 14, cka: bool = True):
    blocks = ["embeddings", *(f"encoder.layers.{i}" for i in range(n_blocks - 1))]
    drift = np.linspace(0, 0.12, n_blocks)
    return DriftDisplay(blocks, drift, 1 - drift if cka else None).plot(ax)


def _history(ax):
    stages = ["head"] * 4 + ["top block"] * 4 + ["top half"] * 4 + ["all blocks"] * 4
    rates = {"head": 1e-3, **{f"encoder.layers.{i}": 1e-5 * 1.3**i for i in range(11, -1, -1)}}
    history = [
        {"stage": stage, "attempt": 1 + i // 10, "round": 1, "train_loss": 1 / (1 + i), "valid_loss": 1 / (2 + i),
         "valid_score": 0.5 + 0.02 * i, "best": True, "rates": rates}
        for i, stage in enumerate(stages)
    ]  # fmt: skip
    return FineTuneDisplay(
        history, kept="fine-tuned", probe_score=0.6, validation_score=0.8, probe_loss=0.4, score_name="accuracy"
    ).plot(ax)


def _ranking(ax, n: int = 8):
    lines = [
        {"candidate": f"organization/a-backbone-with-a-long-name-{i}", "layers": -i, "pooling": "mean", "logme": i / 7,
         "width": 384, "megabytes": 90.0, "embedding_seconds": 3.2, "n_embedded": 150, "error": ""}
        for i in range(n)
    ]  # fmt: skip
    error = "BackboneReadError: the file is " + "truncated " * 9
    lines.append({"candidate": "broken", "logme": np.nan, "error": error})
    return TransferabilityDisplay.from_ranking(lines, ax=ax)


DISPLAYS = {
    "confusion": _confusion,
    "confusion of images": lambda ax: _confusion(ax, images=True),
    "confusion of three classes": lambda ax: _confusion(ax, n_classes=3),
    "map of classes": lambda ax: _map(ax, TARGETS),
    "map of numbers": lambda ax: _map(ax, np.linspace(0, 1, 240)),
    "map of forty classes": lambda ax: _map(ax, np.array([f"a class of length {i}" for i in range(40)]).repeat(2)),
    "drift": _drift,
    "drift of weights": lambda ax: _drift(ax, cka=False),
    "drift of many blocks": lambda ax: _drift(ax, n_blocks=34),
    "fine-tuning": _history,
    "ranking": _ranking,
    "ranking of many": lambda ax: _ranking(ax, n=24),
    "rates": lambda ax: RateCurveDisplay(np.geomspace(1e-5, 1, 50), np.linspace(1, 0, 50) ** 2, 1e-3).plot(ax),
    "layers": lambda ax: LayerProbeDisplay(range(13), np.linspace(0, 0.9, 65).reshape(13, 5)).plot(ax),
}  # fmt: skip


@pytest.fixture
def drawn(monkeypatch):
    """Texts in the order in which they are drawn: what is hidden or outside of an axis' limits is not among them."""
    texts: list[Text] = []
    original = Text.draw
    monkeypatch.setattr(Text, "draw", lambda self, renderer: (texts.append(self), original(self, renderer))[1])
    return texts


def _boxes(texts) -> dict[Text, np.ndarray]:
    """Corners of each text, turned as the text is, and one pixel smaller in each direction."""
    boxes = {}
    for text in texts:
        if text.get_text().strip() and text.get_visible():
            boxes[text] = text.get_window_extent().extents + np.array([1, 1, -1, -1])
    return boxes


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a[:2] < b[2:]).all() and (b[:2] < a[2:]).all())


def _covers(first: Text, second: Text, boxes) -> bool:
    """Whether two texts cover each other; of two that are slanted alike, the distance of their lines decides."""
    angle = first.get_rotation() % 90
    if angle and first.get_rotation() == second.get_rotation():
        (x0, y0), (x1, y1) = (text.get_transform().transform(text.get_unitless_position()) for text in (first, second))
        apart = abs((x1 - x0) * np.sin(np.radians(angle)) - (y1 - y0) * np.cos(np.radians(angle)))
        return bool(apart < first.get_fontsize() * first.figure.dpi / 72)
    return _overlap(boxes[first], boxes[second])


def _share_grid(pyplot, layout, draw):
    """Draw into a corner of a grid; its neighbors are finished before, with labels of their own."""
    figure, axes = pyplot.subplots(2, 2, figsize=(10, 8), layout=layout)
    neighbors = axes[0, 1], axes[1, 0]
    for ax in neighbors:
        ax.set(xlabel="x of the neighbor", ylabel="y of the neighbor", title="a neighbor")
    return figure, neighbors, draw(axes[0, 0] if layout else axes[1, 1])


def _foreign_area(figure, ax, layout) -> np.ndarray:
    """What belongs to a neighbor: with a layout engine its texts, otherwise its part of the figure."""
    if layout is not None:
        return ax.get_tightbbox().extents
    left, bottom, right, top = (getattr(figure.subplotpars, side) for side in ("left", "bottom", "right", "top"))
    middle = np.array([left + right, bottom + top]) / 2
    corner = np.array(ax.get_position().p0 > middle, dtype=float)
    return np.concatenate([middle * corner, middle + (1 - middle) * corner]) * np.tile(figure.bbox.size, 2)


@pytest.mark.parametrize(("name", "layout"), [
    *((name, None) for name in DISPLAYS),
    *((name, "constrained") for name in DISPLAYS if "of" not in name or name == "map of classes"),
])  # fmt: skip
def test_displays_stay_inside_of_their_cell(pyplot, drawn, name, layout):
    figure, neighbors, display = _share_grid(pyplot, layout, DISPLAYS[name])
    figure.draw_without_rendering()
    foreign = {text for ax in neighbors for text in ax.findobj(Text)}
    boxes = _boxes(text for text in dict.fromkeys(drawn) if text not in foreign)
    assert len(boxes) > 4
    areas = [_foreign_area(figure, ax, layout) for ax in neighbors]
    for text, box in boxes.items():
        assert (box[:2] >= 0).all(), text
        assert (box[2:] <= figure.bbox.size).all(), text
        assert not any(_overlap(box, area) for area in areas), f"{text.get_text()!r} reaches into the neighbor"
    covered = [(a.get_text(), b.get_text()) for a, b in combinations(boxes, 2) if _covers(a, b, boxes)]
    assert not covered
    for ax in np.atleast_1d(getattr(display, "axes_", getattr(display, "ax_", None))):
        width, height = ax.get_window_extent().size / figure.dpi
        assert width > 0.6, "the texts leave a part to what is drawn"
        assert height > 0.2


def _reach(axes) -> np.ndarray:
    return np.array([ax.get_tightbbox().extents for ax in axes])


@pytest.mark.parametrize("change", [
    lambda figure: figure.tight_layout(),
    lambda figure: figure.subplots_adjust(left=0.05, wspace=0.5),
], ids=["tight_layout", "adjusted"])  # fmt: skip
def test_displays_stay_inside_when_the_grid_changes_later(pyplot, change):
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4))
    _ranking(axes[0])
    _map(axes[1], TARGETS)
    change(figure)
    figure.draw_without_rendering()
    (left, right), whole = _reach(axes), figure.bbox.extents
    assert left[0] >= 0
    assert left[2] <= right[0], "they do not reach each other"
    assert right[2] <= whole[2]


def test_axes_that_are_moved_by_hand_stay_there(pyplot):
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4))
    _map(axes[1], TARGETS)
    axes[1].set_position((0.6, 0.1, 0.2, 0.8))
    figure.draw_without_rendering()
    np.testing.assert_allclose(axes[1].get_position().bounds, (0.6, 0.1, 0.2, 0.8))
