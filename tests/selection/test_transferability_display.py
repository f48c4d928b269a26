"""The picture says what the table says."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError

from skembed.selection import BackboneSelector, TransferabilityDisplay
from skembed.testing import ArrayEmbedder

RANKING = pd.DataFrame(
    {
        "candidate": ["first", "second", "third"],
        "layers": pd.Series([-1, [0, 1], None], dtype=object),
        "pooling": pd.Series(["auto", "max", None], dtype=object),
        "logme": [0.5, 0.2, np.nan],
        "knn": [0.7, 0.9, np.nan],
        "load_seconds": [9.0, 0.1, np.nan],
        "embedding_seconds": [1.0, 2.0, np.nan],
        "n_embedded": [300, np.nan, np.nan],
        "logme_seconds": [0.1, 0.1, np.nan],
        "width": [8, 16, np.nan],
        "megabytes": [20.4, np.nan, np.nan],
        "error": ["", "", "DecodeError: sample 3"],
    }
)


@pytest.fixture(autouse=True)
def pyplot():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


def _shown(display):
    """Labels of the axis, places of the points by label, and the texts beside them, from top to bottom."""
    labels = [label.get_text() for label in display.ax_.get_yticklabels()]
    points = dict(zip(labels, display.ax_.collections[1].get_offsets().data[:, 0].tolist(), strict=False))
    return labels, points, [text.get_text() for text in display.ax_.texts]


def test_candidates_come_best_first_with_what_they_cost():
    """Fails when labels and points are sorted apart, or when a failure is dropped."""
    display = TransferabilityDisplay.from_ranking(RANKING)
    labels, points, texts = _shown(display)
    assert labels == ["first · layers -1 · pooling auto", "second · layers [0, 1] · pooling max", "third"]
    assert list(points.values()) == [0.5, 0.2]
    assert texts == [
        "0.500 · 8 wide · 20 MB · 1.0 s for 300",
        "0.200 · 16 wide · 2.0 s",
        "failed: DecodeError: sample 3",
    ]
    assert display.ax_.get_xlabel() == "LogME (nats per sample)"
    bottom, top = display.ax_.get_ylim()
    assert bottom > top, "the best is on top"


LONG = "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2, normalize=True, truncate_dim=128"


@pytest.mark.parametrize("name", ["short", LONG])
def test_dots_overlap_no_label_and_names_leave_them_room(name):
    """Fails when labels begin so close to the frame that the best dot covers them, or names take the figure."""
    ranking = RANKING.assign(candidate=[name, f"{name} 2", "third"], knn=[0.9, 0.7, np.nan])
    for score in ("logme", "knn"):
        display = TransferabilityDisplay.from_ranking(ranking, score=score)
        figure, ax = display.figure_, display.ax_
        figure.draw_without_rendering()
        label = next(text for text in ax.texts if not text.get_text().startswith("failed")).get_window_extent()
        best = ax.collections[-1]
        x, y = ax.transData.transform(best.get_offsets()[0])
        radius = best.get_sizes()[0] ** 0.5 / 2 * figure.dpi / 72
        assert abs(y - (label.y0 + label.y1) / 2) < 3, "of the same line"
        assert x + radius < label.x0
        assert ax.get_window_extent().width > 0.25 * figure.bbox.width
        assert label.x1 <= figure.bbox.x1
        assert min(each.get_window_extent().x0 for each in ax.get_yticklabels()) >= 0
        assert max(len(each.get_text()) for each in ax.get_yticklabels()) < 75


def test_another_score_has_another_order():
    labels, points, _ = _shown(TransferabilityDisplay.from_ranking(RANKING, score="knn"))
    assert [label.split()[0] for label in labels] == ["second", "first", "third"]
    assert list(points.values()) == [0.9, 0.7]


def test_it_draws_where_it_is_told(pyplot):
    figure, axes = pyplot.subplots(1, 2)
    display = TransferabilityDisplay.from_ranking(RANKING.to_dict("records"), ax=axes[1])
    assert display.ax_ is axes[1]
    assert display.figure_ is figure
    assert not axes[0].collections
    again = display.plot(ax=axes[0])
    assert again is display
    assert display.ax_ is axes[0]


def test_of_a_fitted_selector():
    X, y = load_iris(return_X_y=True)
    selector = BackboneSelector([ArrayEmbedder()], layers=[0, -1], criterion="knn")
    with pytest.raises(NotFittedError):
        TransferabilityDisplay.from_estimator(selector)
    display = TransferabilityDisplay.from_estimator(selector.fit(X, y))
    assert list(_shown(display)[1].values()) == [line["knn"] for line in selector.ranking_]
    assert "nearest neighbors" in display.ax_.get_xlabel()
    with pytest.raises(TypeError, match=r"ArrayEmbedder.*fitted BackboneSelector"):
        TransferabilityDisplay.from_estimator(ArrayEmbedder())


def test_a_criterion_of_ones_own_is_named_on_the_axis():
    frame = pd.DataFrame({"candidate": ["a"], "my_score": [1.0]})
    assert TransferabilityDisplay.from_ranking(frame).ax_.get_xlabel() == "my_score"


@pytest.mark.parametrize(
    ("ranking", "score", "message"),
    [
        ([], None, "ranking is empty"),
        (RANKING, "h_score", r"score='h_score': the ranking has the scores \['logme', 'knn'\]"),
        (RANKING, "width", "score='width'"),
        (RANKING.drop(columns="candidate"), None, "pass what rank_backbones returned"),
        (RANKING[2:], None, "all candidates failed"),
    ],
)
def test_what_cannot_be_drawn_is_refused(ranking, score, message):
    with pytest.raises(ValueError, match=message):
        TransferabilityDisplay.from_ranking(ranking, score=score)


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    for name in ("matplotlib", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"pip install .skembed\[plot\]"):
        TransferabilityDisplay.from_ranking(RANKING)
