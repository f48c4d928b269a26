"""What losses say, on histories written by hand: each fault is named, and a healthy fit has none."""

from __future__ import annotations

import pytest

from skembed import FineTuneClassifier, Mixup, Optimization, Partial, Progressive
from skembed.assessment.curves import Curves, read_curves
from skembed.assessment.remedies import Means
from skembed.strategies import STRATEGIES

NAIVE = 1.0
#: Standard error of a difference of held-out losses.
ERROR = 0.01


def _history(*attempts, blocks=2):
    """Epochs from (stage, training losses, held-out losses), the best one marked as a fit does."""
    records, best = [], 0.6
    for number, (stage, training, held_out) in enumerate(attempts):
        for train, valid in zip(training, held_out or [None] * len(training), strict=True):
            better = valid is not None and valid < best
            best = valid if better else best
            unfrozen = [] if stage == "head" else [f"block {i}" for i in range(blocks)]
            records.append({
                "epoch": len(records) + 1, "stage": stage, "attempt": 1, "round": number + 1, "unfrozen": unfrozen,
                "train_loss": train, "valid_loss": valid, "valid_score": 0.5, "valid_error": ERROR, "best": better,
            })  # fmt: skip
    return records


def _read(*attempts, strategy="progressive", error=ERROR, parameters=None, **changes):
    history = _history(*attempts)
    losses = [record["valid_loss"] for record in history if record["best"]]
    kept = changes.pop("kept", "fine-tuned" if losses else "probe")
    own = FineTuneClassifier().set_params(**(parameters or {})).get_params(deep=False)
    chosen = STRATEGIES[strategy]()
    for record in history:
        record["valid_error"] = error
    facts = {
        "history": history, "kept": kept, "ended": "top: done", "depth": 4,
        "means": Means.of(own, chosen, "weights", kept=kept),
        "naive_loss": NAIVE, "probe_loss": 0.6, "best_loss": min([0.6, *losses]), "temperature": 1.1, **changes,
    }  # fmt: skip
    return {found.name: found for found in read_curves(Curves(**facts))}


def test_a_healthy_fit_has_no_findings():
    assert _read(("top", [0.5, 0.3, 0.2, 0.15], [0.5, 0.35, 0.3, 0.29])) == {}


def test_a_healthy_fit_may_end_a_little_past_its_best():
    assert _read(("top", [0.5, 0.3, 0.2, 0.15], [0.5, 0.32, 0.3, 0.33]), error=0.02) == {}


@pytest.mark.parametrize("training", [[0.9, 0.9, 0.8, 0.75], [0.6, 0.9, 0.6, 0.8], [2.3, 2.2, 2.1, 2.1]])
def test_training_losses_of_softened_targets_are_not_judged(training):
    attempt = ("top", training, [0.59, 0.57, 0.55, 0.53])
    assert {"underfitting", "instability"} & set(_read(attempt))
    assert _read(attempt, softened=True) == {}


@pytest.mark.parametrize("kind", ["softened", "altered"])
def test_training_losses_of_changed_samples_are_no_instability_or_underfitting(kind):
    assert _read(("top", [0.3, 0.7, 0.3], [0.5, 0.5, 0.5]), **{kind: True}) == {}


def test_overfitting_after_what_was_kept_is_a_note_and_says_that_nothing_is_to_be_done():
    found = _read(("top", [0.45, 0.3, 0.05, 0.01], [0.5, 0.45, 0.5, 0.6]))["overfitting"]
    assert found.severity == "note"
    assert "0.450 in epoch 2 to 0.600 in epoch 4 (standard error 0.010)" in found.evidence
    assert "This does not affect epoch 2, which was kept" in found.evidence
    assert found.remedy.startswith("None needed")
    assert found.numbers["rise"] == pytest.approx(0.15)


def test_a_gap_without_a_rise_is_no_overfitting():
    assert "overfitting" not in _read(("top", [0.4, 0.2, 0.05, 0.01], [0.55, 0.5, 0.49, 0.49]))
    assert "overfitting" not in _read(("top", [0.9, 0.7], [1.2, 1.0]))
    assert "overfitting" not in _read(("top", [0.1, 0.1], [0.9, 0.7]))


def test_a_rise_within_its_error_is_no_overfitting():
    attempt = ("top", [0.45, 0.3, 0.05, 0.01], [0.5, 0.45, 0.5, 0.6])
    assert "overfitting" in _read(attempt, error=0.07)
    assert "overfitting" not in _read(attempt, error=0.08)


def test_a_rise_of_the_training_loss_too_is_no_overfitting():
    assert "overfitting" not in _read(("top", [0.3, 0.3, 0.5], [0.5, 0.45, 0.6]))


def test_stages_that_were_discarded_do_not_count():
    better = ("top", [0.5, 0.3, 0.2], [0.5, 0.4, 0.4])
    worse = ("all", [0.2, 0.1, 0.01], [0.42, 0.6, 0.9])
    assert "overfitting" not in _read(better, worse)


def test_what_came_before_a_stage_that_gained_does_not_count():
    rose = ("top", [0.45, 0.3, 0.05], [0.5, 0.45, 0.6])
    assert "overfitting" in _read(rose)
    assert "overfitting" not in _read(rose, ("all", [0.3, 0.2, 0.1], [0.44, 0.4, 0.4]))


def test_a_head_alone_does_not_overfit():
    assert "overfitting" not in _read(("head", [0.45, 0.3, 0.05], [0.5, 0.6, 0.7]), strategy="head")
    assert "overfitting" not in _read(("head", [0.45, 0.3, 0.05], [0.61, 0.7, 0.8]), strategy="head")


def test_overfitting_may_be_why_the_probe_was_kept():
    found = _read(("top", [0.45, 0.3, 0.05], [0.605, 0.65, 0.8]))["overfitting"]
    assert found.severity == "note"
    assert "does not affect the linear probe" in found.evidence


def test_weights_that_were_kept_for_a_metric_may_be_overfitted():
    history = _history(("top", [0.45, 0.3, 0.01], [0.5, 0.45, 0.7]))
    for record in history:
        record.update(best=True, valid_error=ERROR)
    means = Means.of(FineTuneClassifier(scoring="accuracy").get_params(deep=False), Partial(), "weights")
    facts = {"ended": "top: done", "depth": 4, "naive_loss": NAIVE, "probe_loss": 0.6, "temperature": 1.1}
    curves = Curves(history=history, kept="fine-tuned", means=means, best_loss=0.7, **facts)
    found = {finding.name: finding for finding in read_curves(curves)}["overfitting"]
    assert found.severity == "warning"
    assert "scoring=None" in found.remedy


def test_remedies_name_nothing_that_is_set_already():
    rose = ("top", [0.45, 0.3, 0.05, 0.01], [0.5, 0.45, 0.5, 0.6])
    strong = {
        "optimization": Optimization(dropout=0.4, weight_decay=0.1, l2_sp=0.05), "mix": Mixup(0.3), "augment": "light",
        "learning_rate": 3e-4,
    }  # fmt: skip
    plain, own = (_read(rose, parameters=each)["overfitting"].remedy for each in ({}, strong))
    for name in ("dropout=0.3 (now 0.1)", "weight_decay=0.1", "l2_sp=0.01", "mix=Mixup()", "augment='standard'"):
        assert name in plain
        assert name.partition("=")[0] not in own
    assert "learning_rate=0.0001 (now 0.0003)" in own
    assert "strategy=Partial()" in own


def test_a_little_more_of_a_large_loss_is_no_harm():
    assert "negative transfer" not in _read(("top", [2.0, 2.0], [2.03, 2.03]), probe_loss=2.0)


def test_underfitting_is_high_losses_that_still_fall():
    found = _read(("top", [0.59, 0.57, 0.55], [0.59, 0.57, 0.55]))
    assert "still falling" in found["underfitting"].evidence
    assert (
        "max_epochs=60 (now 30) and strategy=Progressive(stage_epochs=10) (now Progressive())"
        in found["underfitting"].remedy
    )
    assert "underfitting" not in _read(("top", [0.59, 0.57, 0.2], [0.59, 0.57, 0.25]))
    alone = _read(("top", [0.59, 0.57, 0.55], [0.59, 0.57, 0.55]), strategy="partial")["underfitting"]
    assert "stage_epochs" not in alone.remedy


def test_a_high_training_loss_alone_is_no_underfitting():
    """Dropout, and weights of classes, raise it."""
    assert "underfitting" not in _read(("top", [0.59, 0.57, 0.55], [0.3, 0.28, 0.26]))


def test_underfitting_of_few_blocks_asks_for_more():
    flat = ("head", [0.6, 0.6, 0.6], [0.6, 0.6, 0.6])
    assert "deeper" in _read(flat, strategy="head")["underfitting"].remedy
    assert "underfitting" not in _read(flat, strategy="progressive"), "all was tried"


def test_underfitting_without_held_out_samples():
    found = _read(("all", [0.9, 0.8, 0.7], None), probe_loss=float("nan"), strategy="full")
    assert list(found) == ["underfitting"]


def test_harm_within_its_error_is_none():
    assert "negative transfer" not in _read(("top", [0.6, 0.5], [0.75, 0.7]), error=0.06)


def test_harm_before_a_stage_that_gained_is_none():
    assert "negative transfer" not in _read(("head", [0.6, 0.5], [0.75, 0.7]), ("top", [0.5, 0.4], [0.5, 0.45]))


def test_harm_is_a_stage_that_never_came_back_to_where_it_began():
    found = _read(("head", [0.6], [0.6]), ("top", [0.6, 0.5], [0.75, 0.7]))
    assert found["negative transfer"].severity == "warning"
    assert "top reached 0.700 at best, after 0.600" in found["negative transfer"].evidence
    kept = _read(("top", [0.5, 0.3], [0.4, 0.38]), ("all", [0.5, 0.3], [0.55, 0.5]))
    assert kept["negative transfer"].severity == "note"
    assert "None needed" in kept["negative transfer"].remedy
    assert "strategy=Partial(n_blocks=2)" in kept["negative transfer"].remedy
    head = _read(("head", [0.6], [0.75]), strategy="head")["negative transfer"].remedy
    assert "strategy" not in head
    assert "l2_sp" not in head
    assert "negative transfer" not in _read(("top", [0.5, 0.4], [0.601, 0.6]))


@pytest.mark.parametrize(
    ("training", "held_out", "word"),
    [
        ([3.0, 1.0], [0.9, 0.9], "reached 3"),
        ([0.3, 0.7, 0.3], [0.5, 0.5, 0.5], "rose by 0.400 in epoch 2"),
        ([0.9, 0.9], [0.9, 0.99], "a constant prediction has"),
        ([0.9, 0.9], [float("inf"), 0.5], "not finite"),
    ],
)
def test_signs_of_a_rate_that_is_too_high(training, held_out, word):
    found = _read(("all", training, held_out))
    assert word in found["instability"].evidence
    remedy = found["instability"].remedy
    assert "learning_rate=0.0001 (now 0.001) or optimization__backbone_factor=0.01 (now 0.1)" in remedy
    # Both are as advised from the start.
    assert "clip_norm" not in remedy
    assert "schedule" not in remedy
    changed = _read(
        ("all", training, held_out), parameters={"optimization__clip_norm": None, "optimization__schedule": "constant"}
    )
    assert "clip_norm=1.0 (now None) or optimization__schedule='slanted_triangular'" in changed["instability"].remedy


def test_softened_targets_and_harm_together_are_a_sign_of_a_rate_that_is_too_high():
    """Measured with MiniLM at 100 times the usual rate: four times the loss of a constant prediction."""
    attempt = ("top", [4.0, 4.2, 2.1, 1.1], [0.9, 0.85, 0.7, 0.75])
    assert "reached 4.2" in _read(attempt, softened=True)["instability"].evidence
    assert _read(("top", [4.0, 4.2, 2.1, 1.1], [0.5, 0.4, 0.4, 0.4]), softened=True) == {}


def test_a_head_whose_first_steps_were_too_large():
    """Measured at 100 times the usual rate: what the probe knew is lost at once, and all is smooth from there."""
    found = _read(("head", [0.75, 0.3, 0.1], [0.9, 0.85, 0.86]), strategy="head")
    assert "loss was 0.750 in the first epoch of head" in found["instability"].evidence
    # Together with that, less harm is enough.
    assert "instability" in _read(("head", [0.75, 0.3, 0.1], [0.9, 0.85, 0.86]), strategy="head", error=0.2)
    assert "instability" not in _read(("head", [0.75, 0.3, 0.1], [0.9, 0.85, 0.86]), strategy="head", error=0.3)
    # Both findings advise the same rate.
    for name in ("instability", "negative transfer"):
        assert "learning_rate=0.0001 (now 0.001)" in found[name].remedy
    assert "instability" not in _read(("head", [0.65, 0.3, 0.1], [0.9, 0.85, 0.86]), strategy="head")
    assert "instability" not in _read(("head", [0.75, 0.3, 0.1], [0.6, 0.5, 0.5]), strategy="head")


def test_a_second_attempt_is_told_from_the_first():
    history = _history(("top", [0.5, 0.4], [0.9, 0.8]), ("top", [0.5, 0.4], [0.8, 0.75]))
    for record in history[2:]:
        record["attempt"] = 2
    means = Means.of(FineTuneClassifier().get_params(deep=False), Progressive(), "weights", kept="probe")
    facts = {"ended": "", "depth": 4, "naive_loss": NAIVE, "probe_loss": 0.6, "best_loss": 0.6, "temperature": 1.1}
    found = read_curves(Curves(history=history, kept="probe", means=means, **facts))
    evidence = next(each.evidence for each in found if each.name == "negative transfer")
    assert "top reached 0.800" in evidence
    assert "top again, with stronger regularization reached 0.750" in evidence


def test_divergence_is_serious_and_nothing_else_is_said_of_the_rate():
    found = _read(("all", [0.5], [0.5]), ended="diverged: The training loss became nan.")
    assert found["instability"].severity == "serious"
    assert "became nan" in found["instability"].evidence
    assert "underfitting" not in found


def test_outputs_that_are_too_sure_are_a_note():
    found = _read(("top", [0.3], [0.4]), temperature=3.0)
    assert found["miscalibration"].severity == "note"
    assert "label_smoothing=0.1 (now 0.0) or mix=Mixup()" in found["miscalibration"].remedy
    own = {"optimization__label_smoothing": 0.2, "mix": "mixup"}
    smoothed = _read(("top", [0.3], [0.4]), temperature=3.0, parameters=own)["miscalibration"].remedy
    assert "=" not in smoothed
    probe = _read(("top", [0.3], [0.9]), temperature=3.0)["miscalibration"].remedy
    assert "linear probe" in probe
    assert "label_smoothing" not in probe
    assert "miscalibration" not in _read(("top", [0.3], [0.4]), temperature=0.1)


def test_a_temperature_at_the_bound_of_its_search_is_no_measurement():
    assert "Outputs were 3.0 times" in _read(("top", [0.3], [0.4]), temperature=3.0)["miscalibration"].evidence
    assert "were at least 10.0 times" in _read(("top", [0.3], [0.4]), temperature=9.97)["miscalibration"].evidence


def test_outputs_that_know_nothing_are_not_too_sure():
    for loss, found in ((0.9, True), (0.97, False)):
        read = _read(("top", [0.9], [loss]), probe_loss=loss, best_loss=loss, temperature=5.0)
        assert ("miscalibration" in read) == found


@pytest.mark.parametrize(("losses", "said"), [([0.6, 0.5], True), ([0.5, 0.6], False), ([0.6], True)])
def test_harm_in_epochs_that_ran_out_may_want_more_of_them(losses, said):
    attempt = ("top", losses, [0.8, 0.75][: len(losses)])
    short, long = (
        _read(attempt, strategy="partial", parameters={"max_epochs": n})["negative transfer"].remedy
        for n in (len(losses), 30)
    )
    assert (f"max_epochs={2 * len(losses)} (now {len(losses)})" in short) == said
    assert "max_epochs" not in long
