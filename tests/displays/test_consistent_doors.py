"""Options, return values and titles that all displays share."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from skembed import displays
from skembed.displays import (
    ConfusionExamplesDisplay,
    EmbeddingMapDisplay,
    LayerProbeDisplay,
    TransferabilityDisplay,
)
from skembed.testing import ArrayEmbedder

DOORS = [
    pytest.param(getattr(getattr(displays, name), door), id=f"{name}.{door}")
    for name in displays.__all__
    for door in ("plot", "from_estimator", "from_embedder", "from_predictions", "from_ranking")
    if hasattr(getattr(displays, name), door)
]


@pytest.mark.parametrize("door", DOORS)
def test_signatures_show_ax_and_hide_no_options(door):
    parameters = inspect.signature(door).parameters
    assert parameters["ax"].default is None
    assert not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


def test_class_methods_draw_into_ax_with_the_options_of_plot(pyplot, rows):
    X, y = rows
    _, (left, right) = pyplot.subplots(1, 2)
    shown = EmbeddingMapDisplay.from_embedder(ArrayEmbedder(), X, y, ax=left, max_classes=1)
    assert shown.ax_ is left
    assert [text.get_text() for text in left.get_legend().get_texts()][1] == "1 smaller classes"
    confused = ConfusionExamplesDisplay.from_predictions(
        list("aabbcc"), list("abbacb"), list("uvwxyz"), ax=right, n_pairs=1, max_classes=2
    )
    assert confused.figure_ is right.figure
    assert len(confused.pairs_) == 1
    assert "2 of 3 classes" in confused.axes_[0].get_xlabel()


def test_an_unfitted_embedder_gives_the_same_map_by_both_doors(rows):
    X, y = rows
    embedder = ArrayEmbedder()
    maps = [
        door(embedder, X, y).positions
        for door in (EmbeddingMapDisplay.from_estimator, EmbeddingMapDisplay.from_embedder)
    ]
    np.testing.assert_allclose(maps[0], maps[1])
    with pytest.raises(NotFittedError):
        check_is_fitted(embedder)


def test_titles_say_how_many_confused_samples_are_shown():
    true, predicted = ["a"] * 8 + ["b"] * 2, ["b"] * 6 + ["a"] * 2 + ["b", "a"]
    display = ConfusionExamplesDisplay.from_predictions(true, predicted, [f"text {i}" for i in range(10)])
    titles = [ax.get_title("left") for ax in display.axes_]
    assert titles == ["accuracy 0.300, n = 10", "a taken for b: 6 of 8, 5 shown", "b taken for a: 1 of 2"]
    assert len(display.axes_[1].texts) == 5


def test_the_best_candidate_is_explained_by_the_legend():
    display = TransferabilityDisplay.from_ranking([{"candidate": "a", "logme": 0.5}, {"candidate": "b", "logme": 0.2}])
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == ["highest score"]


def test_layer_probe_uses_fewer_folds_for_a_small_class(rows):
    X, y = rows[0][:40], np.repeat([0, 1], [37, 3])
    display = LayerProbeDisplay.from_embedder(ArrayEmbedder(), X, y)
    assert np.shape(display.scores)[1] == 3
    assert display.ax_.get_ylabel() == "accuracy, 3 folds"


@pytest.mark.parametrize(("n_rare", "cv", "message"), [
    (1, None, "the smallest class has 1 sample, and every fold needs one. Leave out"),
    (3, 5, "cv=5: the smallest class has 3 samples"),
])  # fmt: skip
def test_layer_probe_refuses_too_many_folds_before_it_embeds(rows, monkeypatch, n_rare, cv, message):
    monkeypatch.setattr(ArrayEmbedder, "fit", lambda *_: pytest.fail("it embedded first"))
    with pytest.raises(ValueError, match=message):
        LayerProbeDisplay.from_embedder(ArrayEmbedder(), rows[0][:40], np.repeat([0, 1], [40 - n_rare, n_rare]), cv=cv)
