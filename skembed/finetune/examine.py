"""Diagnosis of a fit at its end, from what it recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from skembed.assessment import curves, forgetting
from skembed.assessment.certainty import describe_judging, standard_error
from skembed.assessment.data_quality import MAX_DIAGNOSED_SAMPLES, find_few, find_imbalance, find_leaks, find_noise
from skembed.assessment.diagnosis import Diagnosis
from skembed.assessment.findings import Finding, of_positions, worst_first
from skembed.assessment.forgetting import block_drift
from skembed.assessment.remedies import RATE_DIVISOR, UNSTABLE_RATE_DIVISOR, Means

if TYPE_CHECKING:
    from skembed.finetune.base import BaseFineTuner
    from skembed.finetune.plan import FitPlan
    from skembed.finetune.record import FitRecord

__all__ = ["diagnose_fit", "slower_by"]

#: Number of rows of which all pairs are compared.
_MOST_PAIRED = 10_000
#: Smallest number of held-out samples that can judge a fit.
_LEAST_JUDGED = 10
#: Findings that need held-out losses, and those that follow from a lack of signal.
_BY_HELD_OUT = ("overfitting", "generalization gap", "negative transfer", "miscalibration")
_MOOT = ("underfitting", "generalization gap", "miscalibration")


def diagnose_fit(plan: FitPlan, record: FitRecord, estimator: BaseFineTuner) -> Diagnosis:
    """Diagnose a fit at its end from its records, without running the network again.

    Parameters
    ----------
    plan : FitPlan
        Plan of the fit.
    record : FitRecord
        Results of the fit.
    estimator : FineTuneClassifier or FineTuneRegressor
        Estimator whose parameters the remedies name.
    """
    means = Means.of(
        estimator.get_params(deep=False),
        plan.strategy,
        plan.method.name,
        kept=record.kept,
        grouped=plan.grouped,
        own_validation=plan.own_validation,
    )
    rng = np.random.default_rng(plan.seed)
    read = _curves(plan, record, means)
    scores, judges = record.scores, plan.weights[plan.held_out]
    judging, bounds = describe_judging(scores.each, judges, scores.loss, read.accuracy)
    findings = curves.read_curves(read)
    about, checked = _of_data(plan, record, rng, means)
    # Targets that frozen features know nothing of may yet be learned; then there is no want of structure.
    learned = record.kept == "fine-tuned" and read.part(read.best_loss) < 0.9
    findings += [finding for finding in about if not (learned and finding.name == "no signal")]
    # High losses, and outputs too sure, are what comes of it: more epochs and blocks would learn noise by heart.
    moot: tuple[str, ...] = _MOOT if any(finding.name == "no signal" for finding in findings) else ()
    # The losses of one sample have no standard error: whatever they do may be chance.
    moot = (*moot, *_BY_HELD_OUT) if len(plan.held_out) == 1 else moot
    findings = [finding for finding in findings if finding.name not in moot]
    start, kept = plan.encoder.embedder, record.embedder
    trained = kept.fingerprint_ != start.fingerprint_
    moved = block_drift(start.spec_, kept.spec_) if trained else {}
    blocks = {name: {"drift": value} for name, value in moved.items()}
    n_judged = len(plan.held_out)
    judged = n_judged >= _LEAST_JUDGED
    findings += forgetting.find_forgetting(blocks, means, judged=judged, slower_by=slower_by(findings))
    findings += [] if judged or not plan.max_epochs else [_not_judged(n_judged)]
    numbers = {"naive_loss": read.naive_loss, "probe_loss": read.probe_loss, "best_loss": read.best_loss, **bounds}
    losses = [name for name in (curves.CHECKED if judged else curves.CHECKED_WITHOUT_HELD_OUT) if name not in moot]
    looked = [*(losses if plan.max_epochs else ()), *checked, *(["forgetting"] if blocks else [])]
    return Diagnosis(worst_first(findings), tuple(looked), blocks, numbers, judging)


def _accuracy(plan: FitPlan, record: FitRecord, means: Means) -> float | None:
    """Return the held-out accuracy of the kept model; None if the score is something else."""
    has_accuracy = hasattr(plan.task, "classes") and means.parameters.get("scoring") is None
    return record.scores.score if has_accuracy and len(plan.held_out) else None


def slower_by(findings: Sequence[Finding]) -> float:
    """Return the divisor of learning rates, the same for all findings of a fit."""
    return UNSTABLE_RATE_DIVISOR if any(found.name == "instability" for found in findings) else RATE_DIVISOR


def _not_judged(n_held_out: int) -> Finding:
    if not n_held_out:
        evidence = (
            "No sample was held out, so the weights of the last epoch were kept. Overfitting, harm by training and "
            "overconfidence cannot be detected."
        )
        remedy = "Use validation_fraction=0.2, or fit(..., X_val=..., y_val=...)"
    else:
        evidence = (
            f"{n_held_out} sample{' was' if n_held_out == 1 else 's were'} held out, which is too few to detect "
            "overfitting, harm by training or overconfidence."
        )
        remedy = "Use more samples, a larger validation_fraction, or fit(..., X_val=..., y_val=...)"
    return Finding("not judged", "note", evidence, f"{remedy}; or call diagnose(fitted, X, y) with other samples.")


def _curves(plan: FitPlan, record: FitRecord, means: Means) -> curves.Curves:
    judged, settings = len(plan.held_out) > 0, plan.settings
    return curves.Curves(
        history=record.progress.history,
        kept=record.kept,
        ended=record.progress.ended,
        means=means,
        depth=plan.encoder.depth,
        naive_loss=_naive_loss(plan),
        probe_loss=record.probe_scores.loss if judged else float("nan"),
        best_loss=record.scores.loss if judged else float("nan"),
        temperature=record.scores.temperature,
        softened=settings.mixup > 0 or settings.cutmix > 0 or settings.label_smoothing > 0,
        altered=plan.views is not None,
        probe_train_loss=_probe_train_loss(plan, record),
        best_error=standard_error(record.scores.each),
        accuracy=_accuracy(plan, record, means),
    )


def _probe_train_loss(plan: FitPlan, record: FitRecord) -> float:
    """Return the training loss of the probe if it was kept and compares with held-out losses."""
    if record.kept != "probe" or len(plan.held_out) < _LEAST_JUDGED:
        return float("nan")
    train = plan.train
    outputs = record.head(record.frozen[train])
    return plan.task.judge(outputs, plan.y[train], plan.targets[train], plan.weights[train]).loss


def _naive_loss(plan: FitPlan) -> float:
    """Return the loss of a constant prediction: the frequencies or the mean of the targets.

    It is the larger one of held-out and training samples: a few samples of one class would have none.
    """
    weights, train = plan.weights, plan.train
    mean = np.average(plan.targets[train], axis=0, weights=weights[train])
    losses = plan.task.naive_losses(mean, plan.targets)
    sides = [side for side in (train, plan.held_out) if len(side)]
    return max(float(np.average(losses[side], weights=weights[side])) for side in sides)


def _of_data(
    plan: FitPlan, record: FitRecord, rng: np.random.Generator, means: Means
) -> tuple[list[Finding], list[str]]:
    """Return findings about the data, and the names of the findings that were looked for."""
    rows, train, held_out = record.frozen, plan.train, plan.held_out
    classes = getattr(plan.task, "classes", None)
    codes = None if classes is None else plan.targets.argmax(1)
    names = range(plan.targets.shape[1]) if classes is None else classes.tolist()
    chosen = np.sort(rng.permutation(len(rows))[:MAX_DIAGNOSED_SAMPLES])
    own = None if codes is None else codes[chosen]
    noise = of_positions(find_noise(rows[chosen], plan.targets[chosen], own, names, rng, means), chosen)
    findings, checked = [*noise], ["no signal", *([] if codes is None else ["label noise"])]
    if len(held_out):
        paired = np.sort(rng.permutation(len(rows))[:_MOST_PAIRED])
        trained, judging = (np.flatnonzero(np.isin(paired, side)) for side in (train, held_out))
        findings += of_positions(find_leaks(rows[paired], trained, judging, means), paired)
        checked.append("leaked duplicates")
    if codes is not None:
        given = train if means.own_validation else np.arange(len(codes))
        counts = np.bincount(codes[given], minlength=plan.targets.shape[1])
        findings += find_imbalance(*_chances(plan, record, codes), counts, names, means)
        findings += find_few(counts, len(held_out), means)
        checked += ["class imbalance", "few samples"]
    return [replace(found, samples=_in_X(plan, found)) for found in findings], checked


def _chances(plan: FitPlan, record: FitRecord, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of each held-out sample's class, and the class; empty if not judged."""
    losses, judged = np.asarray(record.scores.each), plan.held_out
    if len(losses) != len(judged) or not len(judged):
        return np.zeros(0), codes[:0]
    weights = plan.weights[judged]
    return np.exp(-losses * weights.mean() / weights), codes[judged]


def _in_X(plan: FitPlan, found: Finding) -> tuple[int, ...]:
    """Return the positions in X of the samples of a finding; the fit may have left out some of X."""
    return tuple(plan.positions[list(found.samples)].tolist()) if found.samples else ()
