"""Findings from the losses of a fit: overfitting, underfitting, harm, and too high rates."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any, NamedTuple

from skembed.assessment.certainty import TEMPERATURE_RANGE
from skembed.assessment.findings import Finding
from skembed.assessment.remedies import RATE_DIVISOR, UNSTABLE_RATE_DIVISOR, Means, enumerated
from skembed.strategies import Head, Partial

__all__ = ["CHECKED", "CHECKED_WITHOUT_HELD_OUT", "Curves", "read_curves"]

CHECKED = ("overfitting", "generalization gap", "underfitting", "negative transfer", "instability", "miscalibration")
#: Findings that need no held-out samples.
CHECKED_WITHOUT_HELD_OUT = ("underfitting", "instability")
# Losses, gaps, rises and falls below are parts of the naive loss, that of a model which knows the frequencies of the
# targets and nothing else: what is a large loss depends on the number of classes. They are rules of thumb.
_UNDERFITTED_GAP = 0.15
_WIDE_GAP = 0.25
_OVERFITTED_RISE = 0.02
_HIGH_LOSS = 0.4
_MIN_FALL = 0.01
_MAX_ABOVE_BEST = 0.05
_MIN_HARM = 0.02
_SPIKE_RISE = 0.25
_EXPLODED_LOSS = 2.0
#: Measured with topics and photographs: -0.31 to -0.06 at the usual rate, 0.13 to 1.1 at 100 times that.
_FIRST_EPOCH_RISE = 0.1
#: A held-out loss so near to the naive one, where the probe's loss is good, means that training wiped out the network.
_WIPED_OUT_LOSS = 0.95
_GOOD_PROBE_LOSS = 0.7
#: A difference of held-out losses counts from so many standard errors on.
_N_STANDARD_ERRORS = 2.0
_OVERCONFIDENT_TEMPERATURE = 2.0


@dataclass(frozen=True)
class Curves:
    """Losses of a fit.

    Parameters
    ----------
    history : list of dict
        See `FineTuneClassifier.history_`.
    kept : {"fine-tuned", "probe"}
        Model that was kept.
    ended : str
        Reason for the end of the fit.
    means : Means
        Parameters of the fit.
    depth : int
        Number of blocks that can train.
    naive_loss : float
        Loss of a constant prediction, the frequencies or the mean of the targets.
    probe_loss, best_loss : float
        Held-out losses of the linear probe and of the kept model; NaN if no samples were held out.
    temperature : float
        Divisor of the outputs.
    softened : bool
        True if training targets were softened by mixing or label smoothing. Their losses have another minimum and are
        not compared with that of a constant prediction.
    altered : bool
        True if training samples were augmented: they are harder, by another amount in every epoch.
    probe_train_loss : float
        Training loss of the linear probe, if it was kept.
    best_error : float
        Standard error of `best_loss`.
    accuracy : float or None
        Held-out accuracy of the kept model; None if the score is something else.
    """

    history: list[dict[str, Any]]
    kept: str
    ended: str
    means: Means
    depth: int
    naive_loss: float
    probe_loss: float
    best_loss: float
    temperature: float
    softened: bool = False
    altered: bool = False
    probe_train_loss: float = float("nan")
    best_error: float = 0.0
    accuracy: float | None = None

    def attempts(self) -> list[list[dict[str, Any]]]:
        """Return the epochs of each attempt at each stage, in order."""
        return [list(group) for _, group in groupby(self.history, key=lambda record: record["round"])]

    @property
    def chosen(self) -> int | None:
        """Epoch whose weights were kept, from 1; None if the probe was kept or nothing was held out."""
        best = [record["epoch"] for record in self.history if record["best"]]
        return best[-1] if best and self.judged and self.kept == "fine-tuned" else None

    @property
    def judged(self) -> bool:
        """True if there are held-out losses."""
        return bool(self.history) and self.history[0]["valid_loss"] is not None

    def part(self, loss: float) -> float:
        """Return a loss as a share of that of a constant prediction."""
        return loss / self.naive_loss if self.naive_loss > 0 else float("nan")


def read_curves(curves: Curves) -> list[Finding]:
    """Return all findings from the losses."""
    unstable = list(_instability(curves))
    # Losses that recover from a too high rate do not show that epochs were too few.
    low = [] if unstable or curves.softened or curves.altered else list(_underfitting(curves))
    harm = _harm(curves, slower_by=UNSTABLE_RATE_DIVISOR if unstable else RATE_DIVISOR)
    return [*unstable, *_overfitting(curves), *_gap(curves), *low, *harm, *_calibration(curves)]


def _place(record: dict[str, Any]) -> str:
    """Return stage and attempt of an epoch."""
    return record["stage"] + (" again, with stronger regularization" if record["attempt"] > 1 else "")


def _losses(record: dict[str, Any]) -> str:
    return f"training loss {record['train_loss']:.3f} and held-out loss {record['valid_loss']:.3f}"


def _instability(curves: Curves) -> Iterator[Finding]:
    means = curves.means
    milder = [*means.slower(UNSTABLE_RATE_DIVISOR), *means.at_most(optimization__clip_norm=1.0)]
    if means.parameters.get("optimization__schedule") == "constant":
        milder.append("optimization__schedule='slanted_triangular', which warms up")
    remedy = f"{enumerated(milder)}; find_learning_rate(estimator, X, y) measures it."
    if curves.ended.startswith("diverged"):
        after = f"after {len(curves.history)} epochs" if curves.history else "in the first epoch"
        evidence = f"Training diverged {after}: {curves.ended.partition(': ')[2]}"
        yield Finding("instability", "serious", evidence, remedy)
        return
    signs = "; ".join([*_explosions(curves), *_spikes(curves), *_throws(curves), *_wipe_outs(curves)])
    if signs:
        yield Finding("instability", "warning", f"{signs[0].upper()}{signs[1:]}.", remedy)


def _explosions(curves: Curves) -> Iterator[str]:
    # With mixed targets, certain outputs have large losses, so only attempts that did harm count.
    attempts = [harm.attempt for harm in _harms(curves, sure=1.0)] if curves.softened else curves.attempts()
    worst = max((record["train_loss"] for attempt in attempts for record in attempt), default=0.0)
    if curves.part(worst) > _EXPLODED_LOSS:
        yield f"the training loss reached {worst:.3g}; a constant prediction has {curves.naive_loss:.3f}"
    if curves.judged and not all(math.isfinite(record["valid_loss"]) for record in curves.history):
        yield "the held-out loss was not finite in at least one epoch"


def _spikes(curves: Curves) -> Iterator[str]:
    if curves.softened or curves.altered:
        return
    for attempt in curves.attempts():
        rises = [(b["train_loss"] - a["train_loss"], b) for a, b in pairwise(attempt)]
        rise, record = max(rises, key=lambda pair: pair[0], default=(0.0, None))
        if record is not None and curves.part(rise) > _SPIKE_RISE:
            yield f"the training loss rose by {rise:.3f} in epoch {record['epoch']} ({_place(record)})"


def _throws(curves: Curves) -> Iterator[str]:
    """Describe attempts whose first steps raised the loss, and that did not recover."""
    if curves.softened or curves.altered:
        return
    # Both signs must hold, so each threshold may be lower.
    for harm in _harms(curves, sure=1.0):
        first = harm.attempt[0]
        if curves.part(first["train_loss"] - harm.before) > _FIRST_EPOCH_RISE:
            yield (
                f"the training loss was {first['train_loss']:.3f} in the first epoch of {_place(first)}, which began "
                f"from weights with a held-out loss of {harm.before:.3f}"
            )


def _wipe_outs(curves: Curves) -> Iterator[str]:
    if not curves.judged or not curves.part(curves.probe_loss) <= _GOOD_PROBE_LOSS:
        return
    for attempt in curves.attempts():
        last = attempt[-1]
        if attempt[0]["unfrozen"] and curves.part(last["valid_loss"]) >= _WIPED_OUT_LOSS:
            yield (
                f"{_place(last)}: the held-out loss ended at {last['valid_loss']:.3f}; a constant prediction has "
                f"{curves.naive_loss:.3f}, and the linear probe {curves.probe_loss:.3f}"
            )


def _overfitting(curves: Curves) -> Iterator[Finding]:
    """Find held-out losses that rose after their best by more than chance, while training losses fell.

    Discarded stages, and stages before one that gained, do not concern the kept weights and are left out.
    """
    if not curves.judged:
        return
    attempts = [attempt for attempt in curves.attempts() if math.isfinite(attempt[-1]["valid_loss"])]
    if curves.chosen is None:
        # The probe was kept, and overfitting in the last stage may be the reason.
        attempts = [attempt for attempt in attempts if attempt[0]["unfrozen"]]
        yield from _overfitted(curves, attempts[-1], None) if attempts else ()
        return
    for attempt in attempts:
        if any(record["epoch"] == curves.chosen for record in attempt):
            yield from _overfitted(curves, attempt, curves.history[curves.chosen - 1])


def _overfitted(curves: Curves, attempt: list[dict[str, Any]], kept: dict[str, Any] | None) -> Iterator[Finding]:
    means, last = curves.means, attempt[-1]
    lowest = min(attempt, key=lambda record: record["valid_loss"])
    by_metric = means.parameters.get("scoring") is not None
    if kept is not None and by_metric and _rose(curves, lowest, kept):
        evidence = (
            f"Epoch {kept['epoch']} ({kept['stage']}) was kept for its score, but {_path(lowest, kept)}: its "
            f"outputs are worse than those of epoch {lowest['epoch']}."
        )
        yours = "scoring=None, which compares epochs by the held-out loss, if probabilities matter to you"
        remedy = (
            f"{enumerated([yours, *means.regularized(), *means.slower(RATE_DIVISOR)[:1]])}; more samples help most."
        )
        yield Finding("overfitting", "warning", evidence, remedy, numbers=_numbers(curves, lowest, kept))
        return
    best = kept if kept is not None and not by_metric else lowest
    if (kept is None or attempt[0]["unfrozen"]) and _rose(curves, best, last):
        what = "the linear probe" if kept is None else f"epoch {kept['epoch']}"
        evidence = f"In {last['stage']} {_path(best, last)}. This does not affect {what}, which was kept."
        more = enumerated([*means.regularized(), *means.slower(RATE_DIVISOR)[:1], *means.shallower()])
        remedy = f"None needed. To gain more from training: {more}; more samples help most."
        yield Finding("overfitting", "note", evidence, remedy, numbers=_numbers(curves, best, last))


def _gap(curves: Curves) -> Iterator[Finding]:
    """Find a held-out loss far above the training loss, of the kept model or at the end.

    Softened targets and augmentation raise the training loss, so the true gap is at least as large as this one.
    """
    kept = None if curves.chosen is None else curves.history[curves.chosen - 1]
    what = "the linear probe" if kept is None else f"epoch {kept['epoch']}"
    train_loss = curves.probe_train_loss if kept is None else kept["train_loss"]
    if _is_wide(curves, train_loss, curves.best_loss):
        severity = "warning" if curves.part(curves.best_loss) >= _HIGH_LOSS else "note"
        accuracy = "" if curves.accuracy is None else f"; accuracy {curves.accuracy:.2f}"
        evidence = (
            f"{what[0].upper()}{what[1:]}, which was kept, has {_apart(curves, train_loss, curves.best_loss, accuracy)}"
        )
        yield _gap_finding(curves, severity, evidence, train_loss, curves.best_loss, _narrower(curves.means, kept))
        return
    last = curves.history[-1] if curves.judged else None
    if last is not None and last["epoch"] != curves.chosen and _is_wide(curves, last["train_loss"], last["valid_loss"]):
        evidence = (
            f"The last epoch, {last['epoch']} ({_place(last)}), had "
            f"{_apart(curves, last['train_loss'], last['valid_loss'])} This does not affect {what}, which was kept."
        )
        remedy = f"None needed. To gain more from training: {_narrower(curves.means, last)}"
        yield _gap_finding(curves, "note", evidence, last["train_loss"], last["valid_loss"], remedy)


def _is_wide(curves: Curves, train_loss: float, held_out_loss: float) -> bool:
    gap = held_out_loss - train_loss
    return curves.part(gap) >= _WIDE_GAP and gap > _N_STANDARD_ERRORS * curves.best_error


def _apart(curves: Curves, train_loss: float, held_out_loss: float, accuracy: str = "") -> str:
    return (
        f"a training loss of {train_loss:.4f} and a held-out loss of {held_out_loss:.3f} (standard error "
        f"{curves.best_error:.3f}{accuracy}); a constant prediction has {curves.naive_loss:.3f}. It fits the training "
        "samples far better than new ones."
    )


def _gap_finding(
    curves: Curves, severity: str, evidence: str, train_loss: float, held_out_loss: float, remedy: str
) -> Finding:
    numbers = {"train_loss": train_loss, "held_out_loss": held_out_loss, "error": curves.best_error}
    numbers["gap"] = held_out_loss - train_loss
    return Finding("generalization gap", severity, evidence, remedy, numbers=numbers)


def _narrower(means: Means, kept: dict[str, Any] | None) -> str:
    if kept is None:
        return "More samples help most; or try another layer (layers=) or backbone (rank_backbones)."
    # A training loss far below the held-out loss is what stronger regularization acts on.
    regularized = enumerated([*means.regularized(), *means.shallower()])
    return f"More samples help most; {regularized or 'or try another backbone (rank_backbones)'}."


def _rose(curves: Curves, best: dict[str, Any], last: dict[str, Any]) -> bool:
    """Return True if the held-out loss rose by more than chance while the training loss fell."""
    rise = last["valid_loss"] - best["valid_loss"]
    sure = rise > _N_STANDARD_ERRORS * last["valid_error"] and curves.part(rise) > _OVERFITTED_RISE
    return last["epoch"] > best["epoch"] and last["train_loss"] < best["train_loss"] and sure


def _path(best: dict[str, Any], last: dict[str, Any]) -> str:
    return (
        f"the held-out loss rose from {best['valid_loss']:.3f} in epoch {best['epoch']} to {last['valid_loss']:.3f} in "
        f"epoch {last['epoch']} (standard error {last['valid_error']:.3f}), while the training loss fell from "
        f"{best['train_loss']:.3f} to {last['train_loss']:.3f}"
    )


def _numbers(curves: Curves, best: dict[str, Any], last: dict[str, Any]) -> dict[str, float]:
    return {
        "rise": last["valid_loss"] - best["valid_loss"],
        "error": last["valid_error"],
        "naive_loss": curves.naive_loss,
    }


def _underfitting(curves: Curves) -> Iterator[Finding]:
    if not curves.history:
        return
    attempt = curves.attempts()[-1]
    last = attempt[-1]
    losses = [last["train_loss"], *([last["valid_loss"]] if curves.judged else [])]
    # A training loss alone that is high is one with dropout, or of harder samples.
    if curves.part(min(losses)) < _HIGH_LOSS or curves.part(losses[-1] - losses[0]) >= _UNDERFITTED_GAP:
        return
    means, fallen, n_trained = curves.means, _fallen(curves, attempt), len(last["unfrozen"])
    said = _losses(last) if curves.judged else f"training loss {last['train_loss']:.3f}"
    high = f"{said} at the end are high; a constant prediction has {curves.naive_loss:.3f}"
    if fallen >= _MIN_FALL:
        evidence = (
            f"Losses were still falling when the fit ended, lately by {fallen:.1%} of a constant prediction's; {high}."
        )
        faster = means.parameters["learning_rate"]
        remedy = f"More epochs: {' and '.join(means.longer())}; or a higher learning_rate (now {faster:.2g})."
        yield Finding("underfitting", "warning", evidence, remedy, numbers={"fallen": fallen})
    elif n_trained < curves.depth and (deeper := means.deeper()):
        evidence = f"With {n_trained} of {curves.depth} blocks training, losses no longer fall; {high}."
        remedy = f"Train deeper: {deeper[0]}; or try another layer (layers=) or backbone (rank_backbones)."
        yield Finding("underfitting", "warning", evidence, remedy, numbers={"fallen": fallen})


def _fallen(curves: Curves, attempt: list[dict[str, Any]]) -> float:
    """Return the fall of the training loss in the last third of an attempt, if held-out losses fell too."""
    if len(attempt) == 1:
        fallen = curves.part(curves.probe_loss - attempt[0]["valid_loss"]) if curves.judged else 0.0
        return fallen if math.isfinite(fallen) else 0.0
    if curves.judged:
        values = [record["valid_loss"] for record in attempt]
        gained = curves.part(values[0] - values[-1]) >= _MIN_FALL
        if not gained or curves.part(values[-1] - min(values)) > _MAX_ABOVE_BEST:
            return 0.0
    earlier = attempt[-1 - max(1, len(attempt) // 3)]
    return curves.part(earlier["train_loss"] - attempt[-1]["train_loss"])


class _Harm(NamedTuple):
    """Attempt without an epoch as good as the weights before it."""

    attempt: list[dict[str, Any]]
    best: dict[str, Any]
    before: float


def _harms(curves: Curves, *, sure: float = _N_STANDARD_ERRORS) -> list[_Harm]:
    """Return attempts that raised the held-out loss by some standard errors, with no gain after them."""
    if not curves.judged or not math.isfinite(curves.probe_loss):
        return []
    before, harms = curves.probe_loss, []
    for attempt in curves.attempts():
        best = min(attempt, key=lambda record: record["valid_loss"])
        rise, passed = best["valid_loss"] - before, attempt[-1]["epoch"] > (curves.chosen or 0)
        if passed and curves.part(rise) > _MIN_HARM and rise > max(0.03 * before, sure * best["valid_error"]):
            harms.append(_Harm(attempt, best, before))
        before = min(before, best["valid_loss"])
    return harms


def _harm(curves: Curves, *, slower_by: float) -> Iterator[Finding]:
    harms = [
        f"{_place(best)} reached {best['valid_loss']:.3f} at best, after {before:.3f} (standard error of the "
        f"difference: {best['valid_error']:.3f})"
        for _, best, before in _harms(curves)
    ]
    if not harms:
        return
    probe, means = curves.kept == "probe", curves.means
    evidence = f"Training raised the held-out loss: {'; '.join(harms)}. " + (
        "The linear probe was kept." if probe else "The better weights from before were restored."
    )
    if probe:
        milder = enumerated([*means.slower(slower_by), *means.nearer(), *means.shallower()])
        if _cut_short(curves):
            milder += f"; or more epochs, since the training loss still fell at the end: {' and '.join(means.longer())}"
        remedy = f"{milder}. If the probe itself is poor, try another backbone or layer (rank_backbones)."
    else:
        remedy = f"None needed. To save time, leave out the deeper stages: {_shorter(curves)}."
    yield Finding("negative transfer", "warning" if probe else "note", evidence, remedy)


def _cut_short(curves: Curves) -> bool:
    """Return True if the epochs ran out while the training loss fell, or after one attempt."""
    *_, before, last = [None, *curves.attempts()[-1]]
    spent = len(curves.history) >= curves.means.parameters.get("max_epochs", math.inf)
    return spent and (before is None or last["train_loss"] < before["train_loss"])


def _shorter(curves: Curves) -> str:
    """Return the strategy that ends with the kept weights, without later stages."""
    chosen = curves.history[(curves.chosen or 1) - 1]
    n_unfrozen = len(chosen["unfrozen"])
    return f"strategy={Partial(n_unfrozen) if n_unfrozen else Head()!r}"


def _calibration(curves: Curves) -> Iterator[Finding]:
    # Outputs without any information seem overconfident however small they are.
    if curves.temperature <= _OVERCONFIDENT_TEMPERATURE or curves.part(curves.best_loss) >= _WIPED_OUT_LOSS:
        return
    # The search for the temperature ends at this bound, so the true value may be larger.
    least = "at least " if curves.temperature > 0.98 * TEMPERATURE_RANGE[1] else ""
    evidence = (
        f"Outputs were {least}{curves.temperature:.1f} times too large for the held-out samples. They are divided by "
        f"this temperature, so predict_proba is {'less overconfident' if least else 'right on average'}."
    )
    softer = enumerated(curves.means.softened())
    if curves.kept == "probe":
        more = "More samples make the linear probe, which was kept, less overconfident"
    else:
        more = f"To train less overconfident outputs: {softer or 'fewer epochs, or more samples'}"
    remedy = f"None needed. {more}."
    yield Finding("miscalibration", "note", evidence, remedy, numbers={"temperature": curves.temperature})
