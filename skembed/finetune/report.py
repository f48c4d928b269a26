"""Report of a fit: the stages that ran, their scores, and the model that was kept."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from skembed.finetune.recipe import Progress
from skembed.finetune.tasks import Scores
from skembed.strategies import Stage

if TYPE_CHECKING:
    from skembed.assessment.advice import Advice

__all__ = ["describe_advice", "describe_epoch", "describe_fit", "describe_nothing_unfrozen", "describe_resumption"]


def describe_epoch(record: dict[str, Any], elapsed: float) -> str:
    """Describe one epoch in one line, with the time it took and the time that is left.

    Parameters
    ----------
    record : dict
        An element of `history_`.
    elapsed : float
        Seconds since the fit began.

    Examples
    --------
    >>> record = {"epoch": 3, "max_epochs": 20, "stage": "top block", "stage_number": 2, "n_stages": 3,
    ...           "train_loss": 0.5, "valid_loss": None, "valid_score": None, "best": True, "seconds": 1.25}
    >>> describe_epoch(record, elapsed=65.0).split('; ')[1]
    '1.2 s, 1:05 elapsed, at most about 0:21 left'
    """
    parts = [f"training loss {record['train_loss']:.4f}"]
    if record["valid_loss"] is not None:
        parts += [f"held-out loss {record['valid_loss']:.4f}", f"score {record['valid_score']:.4f}"]
        if record["best"]:
            parts.append("best so far")
    # As if all epochs took as long as this one. Deeper stages take longer, and most fits end long before.
    left = (record["max_epochs"] - record["epoch"]) * record["seconds"]
    where = f"epoch {record['epoch']} of at most {record['max_epochs']}, {record['stage']}"
    where += f" (stage {record['stage_number']} of {record['n_stages']})"
    time = f"{record['seconds']:.1f} s, {_clock(elapsed)} elapsed, at most about {_clock(left)} left"
    return f"{where}: {', '.join(parts)}; {time}"


def _clock(seconds: float) -> str:
    """Format seconds as m:ss, or as h:mm:ss from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def describe_advice(advice: Advice) -> list[str]:
    """Describe what ``strategy="auto"`` chose, why, and what else was advised but not applied.

    Parameters
    ----------
    advice : Advice
    """
    method = "" if advice.method.name == "weights" else f" with {advice.method!r}"
    lines = [f"strategy='auto' chose {advice.strategy!r}{method}. {advice.reasons[0]}"]
    if advice.settings:
        given = ", ".join(f"{name}={value!r}" for name, value in advice.settings.items())
        lines.append(f"Also advised, but not applied: {given}. See advice_.")
    found = [f"{finding.name}: {finding.evidence}" for finding in advice.findings]
    lines += [f"Noteworthy: {sentence}" for sentence in found]
    return [*lines, "Print advice_ for the remedies."] if found else lines


def describe_nothing_unfrozen(progress: Progress, stages: Sequence[Stage], max_epochs: int) -> list[str]:
    """Describe that the epochs did not suffice to unfreeze any block; empty if some were unfrozen.

    Parameters
    ----------
    progress : Progress
        Progress at the end of the fit.
    stages : sequence of Stage
        Planned stages.
    max_epochs : int
        See `FineTuneClassifier`.
    """
    history = progress.history
    planned = any(stage.n_unfrozen for stage in stages)
    if not planned or len(history) < max_epochs or any(record["unfrozen"] for record in history):
        return []
    return [
        f"Nothing was unfrozen: max_epochs={max_epochs} was spent on the head. Use max_epochs={max_epochs + 1} or "
        "more to train blocks too."
    ]


def describe_resumption(n_done: int, max_epochs: int, directory: Any) -> str:
    """Return a sentence on the epoch at which a fit resumes from its checkpoint.

    Parameters
    ----------
    n_done : int
        Epochs that the checkpoint holds.
    max_epochs : int
        See `FineTuneClassifier`.
    directory : path-like
        Value of `checkpoint_dir`.

    Examples
    --------
    >>> describe_resumption(5, 20, "fits")
    "Resumed at epoch 6 of 20 from checkpoint_dir='fits'."
    >>> describe_resumption(20, 20, "fits")
    "Resumed after the last of 20 epochs from checkpoint_dir='fits'."
    """
    place = (
        f"at epoch {n_done + 1} of {max_epochs}" if n_done < max_epochs else f"after the last of {max_epochs} epochs"
    )
    return f"Resumed {place} from checkpoint_dir={str(directory)!r}."


def describe_fit(
    progress: Progress,
    stages: Sequence[Stage],
    *,
    kept: str,
    n_train: int,
    n_held_out: int,
    score_name: str,
    notes: Sequence[str],
) -> str:
    """Describe a fit, one sentence per line.

    Parameters
    ----------
    progress : Progress
        Progress at the end of the fit.
    stages : sequence of Stage
        Planned stages.
    kept : {"fine-tuned", "probe"}
        Model that was kept.
    n_train, n_held_out : int
        Numbers of training and held-out samples.
    score_name : str
        Name of the score.
    notes : sequence of str
        Further sentences.
    """
    lines = [f"Trained on {n_train} samples, judged on {n_held_out}."]
    if n_held_out:
        lines.append(f"Linear probe on frozen features: {_scores(progress.baseline, score_name)}.")
    for (name, attempt), records in groupby(progress.history, key=lambda record: (record["stage"], record["attempt"])):
        lines.append(_describe_attempt(name, attempt, list(records), score_name))
    if progress.ended:
        lines.append(f"Ended: {progress.ended}.")
    if kept == "probe" and progress.history:
        lines.append("No epoch beat the linear probe on the held-out samples, so the probe was kept.")
    elif kept == "probe":
        lines.append("Nothing was trained, so the linear probe was kept.")
    elif n_held_out:
        number, attempt, *_ = progress.path[-1]
        place = stages[number].name, attempt + 1
        own = [record for record in progress.history if (record["stage"], record["attempt"]) == place]
        epochs = max(i for i, record in enumerate(own, start=1) if record["best"])
        lines.append(
            f"Kept: {stages[number].name}, epoch {epochs} of that stage, {_scores(progress.best, score_name)}. "
            f"The linear probe has {_scores(progress.baseline, score_name)}."
        )
    else:
        lines.append("Kept: the last epoch. No samples were held out, so its score is unknown.")
    return "\n".join([*lines, *notes])


def _scores(scores: Scores, score_name: str) -> str:
    return f"{score_name} {scores.score:.4f}, loss {scores.loss:.4f}"


def _describe_attempt(name: str, attempt: int, records: list[dict[str, Any]], score_name: str) -> str:
    n_best = sum(record["best"] for record in records)
    seconds = sum(record["seconds"] for record in records)
    again = " again, with stronger regularization" if attempt > 1 else ""
    epochs = f"{len(records)} epoch{'s' if len(records) > 1 else ''}, {seconds:.1f} s"
    if records[0]["valid_loss"] is None:
        return f"{name}{again}: {epochs}, training loss {records[-1]['train_loss']:.4f}."
    if not n_best:
        return f"{name}{again}: {epochs}, no gain; the best weights were restored."
    best = [record for record in records if record["best"]][-1]
    return f"{name}{again}: {epochs}, best {score_name} {best['valid_score']:.4f}, loss {best['valid_loss']:.4f}."
