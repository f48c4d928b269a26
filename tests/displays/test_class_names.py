"""Names of classes that matplotlib would leave out, or that nothing would be seen of."""

from __future__ import annotations

import numpy as np
import pytest

from skembed.displays import ConfusionExamplesDisplay, EmbeddingMapDisplay, FineTuneDisplay

NAMES = ["", " ", "_x", "__y", "z"]
SHOWN = ['""', '" "', "__y", "_x", "z"]
Y = np.array(NAMES * 2)
PLACES = np.random.default_rng(0).normal(size=(10, 2))


@pytest.mark.parametrize("y", [Y, Y.astype(object), Y.tolist()], ids=["str", "object", "list"])
def test_a_map_shows_every_name(y):
    display = EmbeddingMapDisplay(PLACES, y).plot()
    assert [text.get_text() for text in display.ax_.get_legend().get_texts()] == SHOWN
    display.figure_.draw_without_rendering()
    assert all(text.get_window_extent().width > 0 for text in display.ax_.get_legend().get_texts())


def test_names_stay_in_a_legend_that_is_made_anew():
    display = EmbeddingMapDisplay(PLACES, Y).plot()
    made = display.ax_.legend(loc="lower left")
    assert [text.get_text().strip() for text in made.get_texts()] == SHOWN


def test_a_blank_name_is_seen_under_the_mouse():
    from skembed.displays.embedding_map import _caption

    texts = [f"text {i}" for i in range(10)]
    assert [_caption(texts, Y, i).rpartition(", ")[2] for i in range(3)] == ['""', '" "', "_x"]


def test_a_confusion_matrix_shows_every_name():
    predicted = np.roll(Y, 1)
    display = ConfusionExamplesDisplay.from_predictions(Y, predicted, [f"text {i}" for i in range(10)])
    matrix, *pairs = display.axes_
    assert [label.get_text() for label in matrix.get_xticklabels()] == SHOWN
    assert [label.get_text() for label in matrix.get_yticklabels()] == SHOWN
    titles = [ax.get_title(loc="left") for ax in pairs]
    assert any(title.startswith('"" ') for title in titles)
    assert all(part for title in titles for part in title.replace("\n", " ").partition(" taken for ")[::2])


def test_rates_of_blocks_with_an_underscore_are_in_the_legend():
    record = {"epoch": 1, "stage": "full", "attempt": 1, "round": 1, "unfrozen": ["_stem"], "n_trained": 1,
              "rates": {"head": 1e-3, "_stem": 1e-4}, "train_loss": 1.0, "valid_loss": 1.0, "valid_score": 0.5,
              "valid_error": 0.1, "best": True, "replayed": False, "seconds": 1.0}  # fmt: skip
    display = FineTuneDisplay([record, {**record, "epoch": 2}], kept="fine-tuned").plot()
    legends = [ax.get_legend() for ax in display.axes_ if ax.get_legend() is not None]
    assert any(text.get_text().strip() == "_stem" for legend in legends for text in legend.get_texts())
