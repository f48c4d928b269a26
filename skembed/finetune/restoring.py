"""Checks of what a checkpoint holds, before a fit resumes from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from skembed.finetune.recipe import Progress, Recipe
from skembed.finetune.tasks import Scores

__all__ = ["checked_progress", "checked_tensors", "is_finite"]

_PARTS = ("now", "best", "optimizer", "average")
_MOMENTS = ("exp_avg", "exp_avg_sq")


def checked_progress(record: Mapping[str, Any], recipe: Recipe) -> Progress:
    """Return the progress that a checkpoint records.

    Parameters
    ----------
    record : mapping
        Fields of `Progress`, as JSON has them.
    recipe : Recipe
        The fit that resumes.

    Raises
    ------
    ValueError
        If a field is missing, of the wrong type, or impossible in this fit.
    """
    names = {each.name for each in fields(Progress)}
    if set(record) != names:
        raise ValueError(f"its fields are {sorted(record)}, not {sorted(names)}")
    history, stages = _checked_history(record["history"], recipe), recipe.plan.stages
    stage = _checked_int("stage", record["stage"], 0, len(stages) - 1)
    _checked_int("attempt", record["attempt"], 0, 1)
    _checked_int("epoch", record["epoch"], 0, stages[stage].epochs)
    _checked_int("stale", record["stale"], 0, len(history))
    _checked_int("round", record["round"], 0, len(history))
    if not isinstance(record["ended"], str):
        raise ValueError(f"ended={record['ended']!r} is not a string")
    path = [_checked_step(step, recipe, record["round"]) for step in _checked_list("path", record["path"])]
    best, baseline = (_checked_scores(name, record[name]) for name in ("best", "baseline"))
    tried = None if record["tried"] is None else _checked_scores("tried", record["tried"])
    return Progress(**{**record, "best": best, "baseline": baseline, "tried": tried, "path": path})


def _checked_history(history: Any, recipe: Recipe) -> list[dict[str, Any]]:
    records = _checked_list("history", history)
    if len(records) > recipe.plan.max_epochs:
        raise ValueError(f"history has {len(records)} epochs, max_epochs={recipe.plan.max_epochs}")
    for number, each in enumerate(records, 1):
        if not isinstance(each, dict) or each.get("epoch") != number or each.get("stage") not in _names(recipe):
            raise ValueError(f"history has no valid record of epoch {number}")
        _checked_number("train_loss", each.get("train_loss"), finite=True)
        for name in ("valid_loss", "valid_score", "valid_error"):
            if each.get(name) is not None:
                _checked_number(name, each[name])
    return records


def _names(recipe: Recipe) -> set[str]:
    return {stage.name for stage in recipe.plan.stages}


def _checked_step(step: Any, recipe: Recipe, rounds: int) -> tuple[int, int, int, int]:
    """Return a checked step of `Progress.path`: stage, attempt, epochs and round."""
    if len(_checked_list("path", step)) != 4:
        raise ValueError(f"path has a step of {len(step)} numbers, not 4")
    stage = _checked_int("path", step[0], 0, len(recipe.plan.stages) - 1)
    highest = (1, recipe.plan.stages[stage].epochs, rounds)
    attempt, epochs, round_ = (_checked_int("path", *pair) for pair in zip(step[1:], (0, 1, 0), highest, strict=True))
    return stage, attempt, epochs, round_


def _checked_scores(name: str, scores: Any) -> Scores:
    if not isinstance(scores, dict) or set(scores) != {each.name for each in fields(Scores)}:
        raise ValueError(f"{name} is not a record of scores")
    for field in ("loss", "score", "temperature"):
        _checked_number(f"{name}: {field}", scores[field])
    each = tuple(_checked_number(f"{name}: each", value) for value in _checked_list(f"{name}: each", scores["each"]))
    return Scores(**{**scores, "each": each})


def _checked_list(name: str, value: Any) -> list:
    if not isinstance(value, list):
        raise ValueError(f"{name} is a {type(value).__name__}, not a list")
    return value


def _checked_int(name: str, value: Any, lowest: int, highest: int) -> int:
    if type(value) is not int or not lowest <= value <= highest:
        raise ValueError(f"{name}={str(value)[:40]} is not a whole number from {lowest} to {highest}")
    return value


def _checked_number(name: str, value: Any, finite: bool = False) -> float:
    # Scores may be NaN or infinite: without held-out samples nothing is judged.
    if type(value) not in (int, float) or (finite and not math.isfinite(value)):
        raise ValueError(f"{name}={str(value)[:40]} is not a {'finite ' if finite else ''}number")
    return value


def checked_tensors(tensors: Mapping[str, Tensor], recipe: Recipe, stage: int) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of a checkpoint by part ("now", "best", "optimizer", "average") and name.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        Under "part/name".
    recipe : Recipe
        The fit that resumes.
    stage : int
        Position of the stage in which the checkpoint was written.

    Raises
    ------
    ValueError
        If a tensor is missing, unexpected, of another shape or type than the network's, or not finite.
    """
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in _PARTS}
    for name, value in tensors.items():
        part, _, rest = name.partition("/")
        if part not in parts:
            raise ValueError(f"it has an unexpected tensor {name!r}")
        parts[part][rest] = value
    if not is_finite(tensors.values()):
        raise ValueError("it has weights that are not finite")
    n_unfrozen = recipe.plan.stages[stage].n_unfrozen
    whole, head = recipe.network.state(n_unfrozen), recipe.network.state(0)
    _check_like(parts["now"], whole, required=whole)
    _check_like(parts["best"], whole, required=head)
    trained = _trained(recipe, n_unfrozen)
    _check_moments(parts["optimizer"], trained)
    averaged = dict(zip(map(str, range(len(trained))), trained.values(), strict=True))
    expected = {} if recipe.plan.settings.ema is None else averaged
    _check_like(parts["average"], expected, required=expected)
    return parts


def is_finite(tensors: Any) -> bool:
    """Return True if no floating-point tensor has a NaN or infinite value."""
    return all(bool(torch.isfinite(value).all()) for value in tensors if value.is_floating_point())


def _trained(recipe: Recipe, n_unfrozen: int) -> dict[str, Tensor]:
    """Parameters that train in a stage, by name."""
    recipe.network.unfreeze(n_unfrozen)
    parameters: dict[str, Tensor] = dict(recipe.network.named_parameters())
    recipe.network.unfreeze(0)
    return parameters


def _check_like(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], required: Mapping[str, Tensor]) -> None:
    """Refuse names that are missing or not expected, and other shapes or types than the expected tensors have."""
    for name in {*tensors, *required}:
        if name not in tensors:
            raise ValueError(f"it lacks the tensor {name!r}")
        if name not in expected:
            raise ValueError(f"it has an unexpected tensor {name!r}")
        _check_shape(name, tensors[name], expected[name].shape)
        if tensors[name].dtype != expected[name].dtype:
            raise ValueError(f"{name!r} is {tensors[name].dtype}, not {expected[name].dtype}")


def _check_moments(state: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> None:
    """Check the optimizer's state: all of it or nothing for each parameter that trains."""
    kinds: dict[str, set[str]] = {}
    for key in state:
        name, _, kind = key.rpartition("/")
        kinds.setdefault(name, set()).add(kind)
    for name, present in kinds.items():
        if name not in trained or present != {"step", *_MOMENTS}:
            raise ValueError(f"it has no valid optimizer state of {name!r}")
        _check_shape(f"{name}/step", state[f"{name}/step"], ())
        for moment in _MOMENTS:
            _check_shape(f"{name}/{moment}", state[f"{name}/{moment}"], trained[name].shape)


def _check_shape(name: str, value: Tensor, shape: Sequence[int]) -> None:
    if tuple(value.shape) != tuple(shape):
        raise ValueError(f"{name!r} has shape {tuple(value.shape)}, not {tuple(shape)}")
