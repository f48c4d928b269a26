"""What losses say, on histories written by hand: each fault is named, and a healthy fit has none."""

from __future__ import annotations

import pytest

from skembed.diagnosis.curves import Curves, read_curves

NAIVE = 1.0


def _history(*attempts, blocks=2):
    """Epochs from (stage, training losses, held-out losses), the best one marked as a fit does."""
    records, best = [], 0.6
    for number, (stage, training, held_out) in enumerate(attempts):
        for train, valid in zip(training, held_out or [None] * len(training), strict=True):
            better = valid is not None and valid < best
            best = valid if better else best
            unfrozen = [] if stage == "head" else [f"block {i}" for i in range(blocks)]
            records.append({
                "epoch": len(records) + 1, "stage": stage, "attempt": 1 + (number % 1), "unfrozen": unfrozen,
                "train_loss": train, "valid_loss": valid, "valid_score": 0.5, "best": better,
            })  # fmt: skip
    return records


def _read(*attempts, **changes):
    history = _history(*attempts)
    losses = [record["valid_loss"] for record in history if record["best"]]
    facts = {
        "history": history, "kept": "fine-tuned" if losses else "probe", "ended": "top: done",
        "strategy": "progressive",
        "depth": 4, "learning_rate": 1e-3, "naive_loss": NAIVE, "probe_loss": 0.6, "best_loss": min([0.6, *losses]),
        "temperature": 1.1, **changes,
    }  # fmt: skip
    return {found.name: found for found in read_curves(Curves(**facts))}


def test_a_healthy_fit_has_no_findings():
    assert _read(("top", [0.5, 0.3, 0.2, 0.15], [0.5, 0.35, 0.3, 0.29])) == {}


def test_a_healthy_fit_may_end_a_little_past_its_best():
    assert _read(("top", [0.5, 0.3, 0.2, 0.15], [0.5, 0.32, 0.3, 0.33])) == {}


@pytest.mark.parametrize("training", [[0.9, 0.9, 0.8, 0.75], [0.6, 0.9, 0.6, 0.8], [2.3, 2.2, 2.1, 2.1]])
def test_training_losses_of_softened_targets_are_not_judged(training):
    attempt = ("top", training, [0.5, 0.35, 0.3, 0.29])
    assert {"underfitting", "instability"} & set(_read(attempt))
    assert _read(attempt, softened=True) == {}


def test_overfitting_is_a_wide_gap_that_grows():
    found = _read(("top", [0.5, 0.2, 0.05, 0.01], [0.55, 0.5, 0.52, 0.6]))
    assert found["overfitting"].severity == "warning"
    assert found["overfitting"].numbers["gap"] == pytest.approx(0.59)
    assert found["overfitting"].numbers["grown"] == pytest.approx(0.54)
    assert "epoch 2" in found["overfitting"].evidence


def test_overfitting_that_was_undone_is_a_note():
    found = _read(("top", [0.45, 0.3, 0.05, 0.01], [0.5, 0.45, 0.5, 0.6]))
    assert found["overfitting"].severity == "note"
    assert "were kept" in found["overfitting"].evidence


def test_a_gap_between_two_high_losses_is_no_overfitting():
    assert "overfitting" not in _read(("top", [0.9, 0.7], [1.2, 1.0]))


def test_a_gap_that_closes_is_no_overfitting():
    assert "overfitting" not in _read(("top", [0.1, 0.1], [0.9, 0.7]))


def test_a_little_more_of_a_large_loss_is_no_harm():
    assert "negative transfer" not in _read(("top", [2.0, 2.0], [2.03, 2.03]), probe_loss=2.0)


def test_underfitting_is_high_losses_that_still_fall():
    found = _read(("top", [0.59, 0.57, 0.55], [0.59, 0.57, 0.55]))
    assert "still fell" in found["underfitting"].evidence
    assert "max_epochs" in found["underfitting"].remedy
    assert "underfitting" not in _read(("top", [0.59, 0.57, 0.2], [0.59, 0.57, 0.25]))


def test_underfitting_of_few_blocks_asks_for_more():
    flat = ("head", [0.6, 0.6, 0.6], [0.6, 0.6, 0.6])
    assert "deeper" in _read(flat, strategy="head")["underfitting"].remedy
    assert "underfitting" not in _read(flat, strategy="progressive"), "all was tried"


def test_underfitting_without_held_out_samples():
    found = _read(("all", [0.9, 0.8, 0.7], None), probe_loss=float("nan"), strategy="full")
    assert list(found) == ["underfitting"]


def test_harm_is_a_stage_that_never_came_back_to_where_it_began():
    found = _read(("head", [0.6], [0.6]), ("top", [0.6, 0.5], [0.75, 0.7]))
    assert found["negative transfer"].severity == "warning"
    assert "top reached 0.700 at best, after 0.600" in found["negative transfer"].evidence
    kept = _read(("top", [0.5, 0.3], [0.4, 0.38]), ("all", [0.5, 0.3], [0.55, 0.5]))
    assert kept["negative transfer"].severity == "note"
    assert "negative transfer" not in _read(("top", [0.5, 0.4], [0.601, 0.6]))


@pytest.mark.parametrize(
    ("training", "held_out", "word"),
    [
        ([3.0, 1.0], [0.9, 0.9], "reached 3"),
        ([0.3, 0.7, 0.3], [0.5, 0.5, 0.5], "rose by 0.400 in epoch 2"),
        ([0.9, 0.9], [0.9, 0.99], "that of knowing nothing"),
        ([0.9, 0.9], [float("inf"), 0.5], "no finite number"),
    ],
)
def test_signs_of_a_rate_that_is_too_high(training, held_out, word):
    found = _read(("all", training, held_out))
    assert word in found["instability"].evidence
    assert "learning_rate=0.0001" in found["instability"].remedy


def test_divergence_is_serious_and_nothing_else_is_said_of_the_rate():
    found = _read(("all", [0.5], [0.5]), ended="diverged: The training loss became nan.")
    assert found["instability"].severity == "serious"
    assert "became nan" in found["instability"].evidence
    assert "underfitting" not in found


def test_outputs_that_are_too_sure_are_a_note():
    found = _read(("top", [0.3], [0.4]), temperature=3.0)
    assert found["miscalibration"].severity == "note"
    assert "miscalibration" not in _read(("top", [0.3], [0.4]), temperature=0.1)
