"""The history's picture: every number where it belongs."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skembed import FineTuneClassifier, FineTuneRegressor
from skembed.displays import FineTuneDisplay
from skembed.testing import ArrayEmbedder

STAGES = [("head", 1), ("head", 1), ("top block", 1), ("top block", 1), ("top block", 2)]
TRAIN = [0.9, 0.8, 0.7, 0.6, 0.5]
VALID = [0.95, 0.85, 0.65, 0.75, 0.8]
SCORES = [0.5, 0.6, 0.8, 0.7, 0.7]
BEST = [True, True, True, False, False]


def _history(*, judged: bool = True) -> list[dict]:
    return [
        {
            "epoch": i + 1,
            "stage": stage,
            "attempt": attempt,
            "rates": {"head": 1e-3 / (i + 1), **({"layers.1": 1e-4 / (i + 1)} if stage != "head" else {})},
            "train_loss": TRAIN[i],
            "valid_loss": VALID[i] if judged else None,
            "valid_score": SCORES[i] if judged else None,
            "best": BEST[i] if judged else True,
        }
        for i, (stage, attempt) in enumerate(STAGES)
    ]


def _drawn(ax) -> dict:
    """Epochs and values of the lines by their labels, the breaks between stages left out."""
    found = {}
    for line in ax.lines:
        x, y = (np.asarray(values, dtype=float) for values in (line.get_xdata(), line.get_ydata()))
        found[line.get_label()] = dict(zip(x[np.isfinite(x)].tolist(), y[np.isfinite(x)].tolist(), strict=True))
    return found


def _plot(history=None, **parameters):
    given = {"kept": "fine-tuned", "probe_score": 0.55, "validation_score": 0.8, "score_name": "accuracy"}
    return FineTuneDisplay(history or _history(), **{**given, **parameters}).plot()


def test_losses_scores_and_rates_are_those_of_the_history():
    losses, scores, rates = _plot().axes_
    epochs = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert _drawn(losses)["training"] == dict(zip(epochs, TRAIN, strict=True))
    assert _drawn(losses)["held out"] == dict(zip(epochs, VALID, strict=True))
    assert _drawn(scores)["held out"] == dict(zip(epochs, SCORES, strict=True))
    assert _drawn(rates)["head"] == {epoch: 1e-3 / epoch for epoch in epochs}
    blocks = _drawn(rates)["layers.1"]
    assert {epoch: rate for epoch, rate in blocks.items() if np.isfinite(rate)} == {
        epoch: 1e-4 / epoch for epoch in epochs[2:]
    }
    assert rates.get_yscale() == "log"
    assert [ax.get_ylabel() for ax in (losses, scores, rates)] == ["loss", "accuracy", "learning rate"]


def test_lines_are_broken_where_weights_were_restored():
    """Each stage begins with the best weights so far, which the last epoch of the one before need not have."""
    line = next(line for line in _plot().axes_[0].lines if line.get_label() == "held out")
    assert np.isnan(line.get_ydata()).tolist() == [False, False, True, False, False, True, False, True]


def test_stages_and_attempts_are_named_over_their_epochs():
    top = _plot().axes_[0].child_axes[0]
    names = [label.get_text() for label in top.get_xticklabels()]
    assert dict(zip(names, top.get_xticks().tolist(), strict=True)) == {
        "head": 1.5,
        "top block": 3.5,
        "top block, attempt 2": 5.0,
    }


def test_the_best_epoch_and_the_level_of_the_probe_are_marked():
    display = _plot()
    losses, scores, _ = display.axes_
    assert display.best_epoch_ == 3
    assert losses.collections[0].get_offsets().tolist() == [[3, 0.65]]
    assert scores.collections[0].get_offsets().tolist() == [[3, 0.8]]
    probe = next(line for line in scores.lines if line.get_label().startswith("linear probe"))
    assert set(probe.get_ydata()) == {0.55}
    assert losses.get_title("left") == "Kept: top block, epoch 3: accuracy 0.800, the linear probe's 0.550"


def test_the_loss_of_the_probe_is_a_line_beside_the_held_out_losses(tuned, probed):
    losses = _plot(probe_loss=0.82).axes_[0]
    assert set(_drawn(losses)["linear probe, 0.820"].values()) == {0.82}
    assert not any(label.startswith("linear probe") for label in _drawn(_plot().axes_[0]))
    display = FineTuneDisplay.from_estimator(probed)
    assert display.probe_loss == probed.diagnosis_.numbers["probe_loss"] > 0
    assert f"linear probe, {display.probe_loss:.3f}" in _drawn(display.axes_[0])
    assert FineTuneDisplay.from_estimator(tuned).probe_loss is None, "nothing was held out"


def test_rounds_of_one_stage_are_told_apart():
    history = [*_history(), *_history()[2:4], *_history()[2:4], *_history()[4:]]
    for record, number in zip(history, [1, 1, 2, 2, 3, 4, 4, 5, 5, 6], strict=True):
        record["round"] = number
    losses = _plot(history).axes_[0]
    names = [label.get_text() for label in losses.child_axes[0].get_xticklabels()]
    assert names == [
        "head", "top block", "top block, attempt 2", "top block, round 2", "top block, round 3",
        "top block, attempt 2, round 2",
    ]  # fmt: skip
    line = next(line for line in losses.lines if line.get_label() == "held out")
    assert np.isnan(line.get_ydata()).sum() == 6


def test_where_the_probe_was_kept_no_epoch_is_marked():
    display = _plot(kept="probe")
    assert display.best_epoch_ is None
    assert not display.axes_[0].collections
    assert display.axes_[0].get_title("left") == "Kept: the linear probe, which no epoch beat (accuracy 0.550)"


def test_without_held_out_samples_the_last_epoch_is_what_was_kept():
    display = _plot(_history(judged=False), probe_score=None, validation_score=None)
    assert [ax.get_ylabel() for ax in display.axes_] == ["loss", "learning rate"]
    assert display.best_epoch_ == 5
    assert "held out" not in _drawn(display.axes_[0])


def test_one_epoch():
    display = _plot(_history()[:1])
    assert _drawn(display.axes_[0])["training"] == {1.0: 0.9}
    display.figure_.draw_without_rendering()
    assert [tick for tick in display.axes_[-1].get_xticks() if 0.5 <= tick <= 1.5] == [1.0]


def test_rates_of_zero_are_left_out_of_the_logarithmic_axis():
    history = _history()
    history[1]["rates"]["head"] = 0.0
    rates = _drawn(_plot(history).axes_[-1])["head"]
    assert np.isnan(rates[2.0])
    assert rates[1.0] == 1e-3


def test_losses_that_explode_do_not_hide_the_others():
    history = _history()
    history[4]["train_loss"] = 1e6
    assert _plot(history).axes_[0].get_yscale() == "log"
    assert _plot().axes_[0].get_yscale() == "linear"


def test_a_history_without_epochs_is_refused(rows):
    probe = FineTuneClassifier(ArrayEmbedder(), max_epochs=0, random_state=0).fit(*rows)
    with pytest.raises(ValueError, match=r"history is empty: nothing was trained \(max_epochs=0\)"):
        FineTuneDisplay.from_estimator(probe)


def test_of_a_fitted_estimator(tuned, probed):
    display = FineTuneDisplay.from_estimator(tuned)
    assert list(_drawn(display.axes_[0])["training"].values()) == [record["train_loss"] for record in tuned.history_]
    assert len(display.axes_) == 2
    kept = FineTuneDisplay.from_estimator(probed)
    assert kept.best_epoch_ is None
    assert kept.probe_score == probed.probe_score_
    assert kept.axes_[1].get_ylabel() == "accuracy"


def test_a_pipeline_is_opened(rows, probed):
    pipeline = make_pipeline(FunctionTransformer(), probed)
    assert FineTuneDisplay.from_estimator(pipeline).history is probed.history_
    X, _ = rows
    regressor = FineTuneRegressor(ArrayEmbedder(), strategy="head", max_epochs=2, random_state=0).fit(X, X[:, 0])
    assert FineTuneDisplay.from_estimator(regressor).axes_[1].get_ylabel() == "R²"


def test_what_has_no_history_is_named():
    with pytest.raises(NotFittedError):
        FineTuneDisplay.from_estimator(FineTuneClassifier())
    with pytest.raises(NotFittedError):
        FineTuneDisplay.from_estimator(make_pipeline(FunctionTransformer(), FineTuneClassifier()))
    with pytest.raises(TypeError, match=r"Pipeline of FunctionTransformer, LogisticRegression\. FineTuneDisplay needs"):
        FineTuneDisplay.from_estimator(make_pipeline(FunctionTransformer(), LogisticRegression()))


def test_it_draws_where_it_is_told(pyplot):
    figure, axes = pyplot.subplots(1, 2)
    display = FineTuneDisplay(_history(), kept="probe").plot(axes[1])
    assert display.figure_ is figure
    assert len(figure.axes) == 5
    assert not axes[0].lines
    assert not axes[1].axison
    own = pyplot.subplots(3)[1]
    assert list(FineTuneDisplay(_history(), kept="probe").plot(own).axes_) == list(own)
    with pytest.raises(ValueError, match="ax has 2 axes, and FineTuneDisplay draws 3"):
        FineTuneDisplay(_history(), kept="probe").plot(axes)
