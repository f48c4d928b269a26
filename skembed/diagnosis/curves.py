"""What the losses of a fit say: too much, too little, harm, and rates that are too high."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from skembed.findings import Finding

__all__ = ["CHECKED", "Curves", "read_curves"]

CHECKED = ("overfitting", "underfitting", "negative transfer", "instability", "miscalibration")
#: All thresholds are parts of the naive loss, that of a model which knows the frequencies of the targets and nothing
#: else: what is a large loss depends on the number of classes. They are rules of thumb.
_WIDE_GAP = 0.25
_NARROW_GAP = 0.15
_HIGH_LOSS = 0.4
_FALLING = 0.01
_NEAR_BEST = 0.05
_HARM = 0.02
_SPIKE = 0.25
_EXPLODED = 2.0
#: A held-out loss so near to the naive one, where the probe's is far below, is that of a network that was wiped out.
_WIPED_OUT, _KNEW = 0.95, 0.7
#: Outputs that are so many times too sure.
_TOO_SURE = 2.0


@dataclass(frozen=True)
class Curves:
    """The losses of a fit.

    Parameters
    ----------
    history : list of dict
        See `FineTuneClassifier.history_`.
    kept : {"fine-tuned", "probe"}
    ended : str
        Why the fit ended, in words.
    strategy : str
        As it was followed.
    depth : int
        Blocks that can train.
    learning_rate : float
    naive_loss : float
        Held-out loss of knowing the targets' frequencies and nothing else; training loss where nothing was held out.
    probe_loss, best_loss : float
        Held-out losses of the linear probe and of what was kept; NaN where nothing was held out.
    temperature : float
        What the outputs are divided by.
    softened : bool
        Whether training had softer targets than those held out (mixing, label smoothing): its losses have another
        floor then, and are not compared with those of knowing nothing.
    """

    history: list[dict[str, Any]]
    kept: str
    ended: str
    strategy: str
    depth: int
    learning_rate: float
    naive_loss: float
    probe_loss: float
    best_loss: float
    temperature: float
    softened: bool = False

    def attempts(self) -> list[list[dict[str, Any]]]:
        """Epochs of each attempt at each stage, in order."""
        return [list(group) for _, group in groupby(self.history, key=lambda r: (r["stage"], r["attempt"]))]

    @property
    def judged(self) -> bool:
        """Whether there are held-out losses."""
        return bool(self.history) and self.history[0]["valid_loss"] is not None

    def part(self, loss: float) -> float:
        """A loss as a part of the naive one."""
        return loss / self.naive_loss if self.naive_loss > 0 else float("nan")


def read_curves(curves: Curves) -> list[Finding]:
    """All that the losses say."""
    unstable = list(_instability(curves))
    # Losses that come down from where a rate threw them are no sign of too few epochs.
    low = [] if unstable or curves.softened else list(_underfitting(curves))
    return [*unstable, *_overfitting(curves), *low, *_harm(curves), *_calibration(curves)]


def _gap(record: dict[str, Any]) -> float:
    return record["valid_loss"] - record["train_loss"]


def _losses(record: dict[str, Any]) -> str:
    return f"training loss {record['train_loss']:.3f} and held-out loss {record['valid_loss']:.3f}"


def _instability(curves: Curves) -> Iterator[Finding]:
    remedy = (
        f"learning_rate={curves.learning_rate / 10:.2g} (now {curves.learning_rate:.2g}), a smaller backbone_factor, "
        "clip_norm=1.0, schedule='slanted_triangular', which warms up; find_learning_rate(estimator, X, y) measures it."
    )
    if curves.ended.startswith("diverged"):
        after = f"after {len(curves.history)} epochs" if curves.history else "in the first epoch"
        evidence = f"Training diverged {after}: {curves.ended.partition(': ')[2]}"
        yield Finding("instability", "serious", evidence, remedy)
        return
    spikes = [] if curves.softened else _spikes(curves)
    signs = [*_explosions(curves), *spikes, *_wipe_outs(curves)]
    if signs:
        yield Finding("instability", "warning", f"{'; '.join(signs)}.", remedy)


def _explosions(curves: Curves) -> Iterator[str]:
    worst = max((record["train_loss"] for record in curves.history), default=0.0)
    if curves.part(worst) > _EXPLODED and not curves.softened:
        yield f"The training loss reached {worst:.3g}, where knowing nothing has {curves.naive_loss:.3f}"
    if curves.judged and not all(math.isfinite(record["valid_loss"]) for record in curves.history):
        yield "The held-out loss was no finite number in at least one epoch"


def _spikes(curves: Curves) -> Iterator[str]:
    for attempt in curves.attempts():
        rises = [(b["train_loss"] - a["train_loss"], b) for a, b in pairwise(attempt)]
        rise, record = max(rises, key=lambda pair: pair[0], default=(0.0, None))
        if record is not None and curves.part(rise) > _SPIKE:
            yield f"The training loss rose by {rise:.3f} in epoch {record['epoch']} ({record['stage']})"


def _wipe_outs(curves: Curves) -> Iterator[str]:
    if not curves.judged or not curves.part(curves.probe_loss) <= _KNEW:
        return
    for attempt in curves.attempts():
        last = attempt[-1]
        if attempt[0]["unfrozen"] and curves.part(last["valid_loss"]) >= _WIPED_OUT:
            yield (
                f"{last['stage']}: the held-out loss ended at {last['valid_loss']:.3f}, that of knowing nothing "
                f"({curves.naive_loss:.3f}), where the probe has {curves.probe_loss:.3f}"
            )


def _overfitting(curves: Curves) -> Iterator[Finding]:
    if not curves.judged:
        return
    attempts = [attempt for attempt in curves.attempts() if math.isfinite(attempt[-1]["valid_loss"])]
    attempt = max(attempts, key=lambda found: _gap(found[-1]), default=None)
    if attempt is None:
        return
    last, grown = attempt[-1], _gap(attempt[-1]) - _gap(attempt[0])
    learned = last["train_loss"] < 0.5 * last["valid_loss"]
    if curves.part(_gap(last)) < _WIDE_GAP or not learned or (grown <= 0 and len(attempt) > 1):
        return
    chosen = [record for record in curves.history if record["best"]]
    restored = bool(chosen) and curves.part(_gap(chosen[-1])) < _WIDE_GAP
    lowest = min(attempt, key=lambda record: record["valid_loss"])
    evidence = (
        f"{last['stage']} ended at {_losses(last)}: a gap of {_gap(last):.3f}, {curves.part(_gap(last)):.0%} of the "
        f"loss of knowing nothing, which grew by {grown:.3f} over {len(attempt)} epochs; the held-out loss was lowest, "
        f"{lowest['valid_loss']:.3f}, in epoch {lowest['epoch']}"
        + (", and weights from before the gap were kept." if restored else ".")
    )
    remedy = (
        "Train fewer blocks (strategy='head' or 'partial') or more gently: a lower learning_rate, dropout=0.3, "
        "weight_decay=0.1, l2_sp=0.01, mixup=0.2, augment='standard', a smaller patience; more samples help most."
    )
    numbers = {"gap": _gap(last), "grown": grown, "naive_loss": curves.naive_loss}
    yield Finding("overfitting", "note" if restored else "warning", evidence, remedy, numbers=numbers)


def _underfitting(curves: Curves) -> Iterator[Finding]:
    if not curves.history:
        return
    attempt = curves.attempts()[-1]
    last = attempt[-1]
    wide = curves.judged and curves.part(_gap(last)) >= _NARROW_GAP
    if curves.part(last["train_loss"]) < _HIGH_LOSS or wide:
        return
    shallow = curves.strategy != "progressive" and len(last["unfrozen"]) < curves.depth
    fallen = _fallen(curves, attempt)
    said = _losses(last) if curves.judged else f"training loss {last['train_loss']:.3f}"
    high = f"{said} at the end are high against {curves.naive_loss:.3f} of knowing nothing"
    if fallen >= _FALLING:
        evidence = f"Losses still fell when the fit ended, by {fallen:.1%} of that of knowing nothing lately; {high}."
        remedy = "More epochs: max_epochs and stage_epochs doubled; or a higher learning_rate or backbone_factor."
        yield Finding("underfitting", "warning", evidence, remedy, numbers={"fallen": fallen})
    elif shallow:
        evidence = f"With {len(last['unfrozen'])} of {curves.depth} blocks training, {high}, and fall no more."
        remedy = "Train deeper: strategy='progressive' or 'full'; or read another layer, or another backbone."
        yield Finding("underfitting", "warning", evidence, remedy, numbers={"fallen": fallen})


def _fallen(curves: Curves, attempt: list[dict[str, Any]]) -> float:
    """By how much the training loss fell in the last third of an attempt, if held-out samples gained with it."""
    if len(attempt) == 1:
        fallen = curves.part(curves.probe_loss - attempt[0]["valid_loss"]) if curves.judged else 0.0
        return fallen if math.isfinite(fallen) else 0.0
    if curves.judged:
        values = [record["valid_loss"] for record in attempt]
        gained = curves.part(values[0] - values[-1]) >= _FALLING
        if not gained or curves.part(values[-1] - min(values)) > _NEAR_BEST:
            return 0.0
    earlier = attempt[-1 - max(1, len(attempt) // 3)]
    return curves.part(earlier["train_loss"] - attempt[-1]["train_loss"])


def _harm(curves: Curves) -> Iterator[Finding]:
    """Stages none of whose epochs was as good as what was there before."""
    if not curves.judged or not math.isfinite(curves.probe_loss):
        return
    before, harmed = curves.probe_loss, []
    for attempt in curves.attempts():
        reached = min(record["valid_loss"] for record in attempt)
        if curves.part(reached - before) > _HARM and reached > 1.03 * before:
            harmed.append(f"{attempt[0]['stage']} reached {reached:.3f} at best, after {before:.3f}")
        before = min(before, reached)
    if not harmed:
        return
    probe = curves.kept == "probe"
    evidence = f"Training did harm: {'; '.join(harmed)} (held-out losses). " + (
        "The probe is what was kept." if probe else "What was better before was restored."
    )
    remedy = (
        "strategy='head', or a lower learning_rate and layer_decay; l2_sp=0.01 holds weights near the pre-trained "
        "ones. If the probe itself is poor, another backbone or layer (rank_backbones)."
    )
    yield Finding("negative transfer", "warning" if probe else "note", evidence, remedy)


def _calibration(curves: Curves) -> Iterator[Finding]:
    if curves.temperature > _TOO_SURE:
        evidence = (
            f"Outputs were {curves.temperature:.1f} times as sure as they are right, by the held-out samples; they are "
            "divided by it, so predict_proba is right on average."
        )
        remedy = "label_smoothing=0.1, mixup=0.2, or fewer epochs."
        yield Finding("miscalibration", "note", evidence, remedy, numbers={"temperature": curves.temperature})
