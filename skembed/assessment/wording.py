"""Wording of measurements by task: classes are judged by accuracy, numbers by R²."""

from __future__ import annotations

from skembed.assessment.evidence import Evidence
from skembed.probes.leave_one_out import MIN_LEFT_OUT_SAMPLES

__all__ = ["duration", "words_for"]


def words_for(e: Evidence) -> dict[str, str]:
    """Return parts of sentences by name, for the templates of the rules.

    Parameters
    ----------
    e : Evidence
        Measurements.

    Returns
    -------
    dict of str to str
    """
    numbers, labels = e.task == "regression", e.task == "multilabel"
    return {
        "size": _size(e),
        "target": "target" if numbers else "label",
        "class": "label" if labels else "class",
        "classes": "labels" if labels else "classes",
        "probe_score": _score(e, e.probe),
        "shuffled_range": _range(e),
        "layers_compared": _layers(e),
        "single": _single(e),
        "identifiers": (
            " If y holds numbers or names of the samples, it is the wrong column." if e.n_single == e.n_targets else ""
        ),
        "unmeasured": (
            f" Fewer than {MIN_LEFT_OUT_SAMPLES} samples are left without copies, so it was not measured whether "
            "the embeddings say anything about y."
            if e.n_probed < MIN_LEFT_OUT_SAMPLES
            else ""
        ),
        "bound": "" if numbers or labels else f", so that no model can be right on more than {e.ceiling:.1%} of all",
        "one_target": ", such as their mean" if numbers else "",
        "accuracy_misleads": _accuracy_misleads(e),
        "balanced_chance": f"{1 / e.n_targets:.1%}",
        "memory_needed": _gigabytes(e.training_bytes),
        "memory_free": _gigabytes(e.free_bytes),
        "epoch": duration(e.epoch_seconds),
        "top_epoch": duration(e.top_epoch_seconds),
        "budget_given": f"{e.budget:.0f} s",
    }


def duration(seconds: float) -> str:
    """Format estimated seconds in a suitable unit.

    Examples
    --------
    >>> [duration(seconds) for seconds in (0.02, 1, 45.2, 600, 7200)]
    ['less than a second', 'about 1 s', 'about 45 s', 'about 10 min', 'about 2.0 h']
    """
    if seconds < 1:
        return "less than a second"
    if seconds < 120:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 7200 else f"about {seconds / 3600:.1f} h"


def _gigabytes(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB"


def _size(e: Evidence) -> str:
    # A pair or two of many is no news, and no leak by the rules.
    copies = f", {e.n_distinct:.0f} of them distinct" if e.n_distinct < 0.99 * e.n_samples else ""
    if e.task == "regression":
        return f"{e.n_samples:.0f} samples{copies}"
    if copies:
        # What a class has of copies is not counted one by one.
        return f"{e.n_samples:.0f} samples{copies}, about {e.per_target:.0f} per {_class(e)}"
    each = f"{e.rarest:.0f}" if e.rarest == e.largest else f"{e.rarest:.0f} to {e.largest:.0f}"
    return f"{e.n_samples:.0f} samples, {each} per {_class(e)}"


def _class(e: Evidence) -> str:
    return "label" if e.task == "multilabel" else "class"


def _score(e: Evidence, value: float) -> str:
    if e.task == "classification":
        return f"is right on {value:.1%} of the samples"
    what = "labels" if e.task == "multilabel" else "targets"
    return f"reaches an R² of {value:.2f} (the part of the variance of the {what} that it explains)"


def _range(e: Evidence) -> str:
    if e.task == "classification":
        return f"between {e.shuffled_low:.1%} and {e.shuffled_high:.1%}"
    return f"an R² between {e.shuffled_low:.2f} and {e.shuffled_high:.2f}"


def _layers(e: Evidence) -> str:
    lower, own = f"an earlier layer (layers={e.best_layer:.0f})", f"the layer that is read (layers={e.read_layer:.0f})"
    if e.task == "classification":
        return (
            f"on {lower} a linear probe is right on {e.lower_probe:.1%} of the samples, on {own} on {e.own_probe:.1%}: "
            f"{100 * e.lower_gain:.1f} points less, where up to {100 * e.lower_margin:.1f} may be chance"
        )
    return (
        f"on {lower} a linear probe has an R² of {e.lower_probe:.3f}, on {own} of {e.own_probe:.3f}: "
        f"{e.lower_gain:.3f} less, where up to {e.lower_margin:.3f} may be chance"
    )


def _accuracy_misleads(e: Evidence) -> str:
    share = e.largest / e.n_samples
    if share >= 0.5:
        return f"always predicting the largest would be right on {share:.1%}, so a high accuracy says little"
    return "accuracy hardly shows whether the smallest is ever predicted"


def _single(e: Evidence) -> str:
    many = e.n_single != 1
    if e.task == "multilabel":
        return f"{e.n_single:.0f} of {e.n_targets:.0f} labels {'are' if many else 'is'} given to one sample at most"
    return f"{e.n_single:.0f} of {e.n_targets:.0f} classes {'have' if many else 'has'} a single sample"
