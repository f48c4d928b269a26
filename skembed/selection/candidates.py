"""Candidates: embedders that can be fitted, from names and estimators that users give."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sklearn.base import BaseEstimator, clone

from skembed.backbones.loading.registry import KNOWN, suggestion
from skembed.backbones.weights.files import read_json
from skembed.embedders.base import BaseEmbedder
from skembed.embedders.encoder import Encoder

__all__ = ["Candidate", "as_candidates", "megabytes_of"]

_EMBEDDERS = {
    "audio": ("skembed.embedders.audio", "AudioEmbedder"),
    "image": ("skembed.embedders.image", "ImageEmbedder"),
    "text": ("skembed.embedders.text", "TextEmbedder"),
}
#: Parameters that are not part of a candidate's name: the table has columns for them, or rows do not depend on them.
_NOT_IN_NAME = {"backbone", "layers", "pooling", "batch_size", "device", "cache", "verbose", "on_error", "engine"}


@dataclass
class Candidate:
    """Candidate to be scored.

    Parameters
    ----------
    name : str
        Name in the table.
    embedder : estimator or None
        Unfitted clone; None if none could be made.
    error : Exception, optional
        Reason if none could be made.
    """

    name: str
    embedder: Any
    error: Exception | None = None


def as_candidates(candidates: Any, *, layers: Any = None, embedder: Any = None) -> list[Candidate]:
    """Return all candidates, each with each value of `layers`.

    Parameters
    ----------
    candidates : sequence, or mapping from names to them, of str, PathLike or estimator
        Names of backbones, embedders, or other transformers that turn X into rows of numbers.
    layers : sequence of int, list of int or "all", default=None
        Values of `layers` to try with each candidate that has this parameter; None uses the value of each candidate.
    embedder : estimator, default=None
        Embedder for candidates that are given by name; None chooses it by the name.

    Returns
    -------
    list of Candidate

    Raises
    ------
    TypeError
        If a candidate is neither a name nor a transformer.
    ValueError
        If there is no candidate.
    """
    settings = _check_layers(layers)
    found = []
    for label, candidate in _with_labels(candidates):
        try:
            made = clone(candidate) if hasattr(candidate, "fit") else _named(candidate, embedder)
        except ValueError as error:
            found.append(Candidate(label or str(candidate), None, error))
            continue
        own = settings if "layers" in made.get_params(deep=False) else [None]
        for setting in own:
            tried = made if setting is None else clone(made).set_params(layers=setting)
            found.append(Candidate(label or _describe(tried), tried))
    return found


def _with_labels(candidates: Any) -> list[tuple[str | None, Any]]:
    if isinstance(candidates, (str, os.PathLike)) or hasattr(candidates, "fit"):
        raise TypeError(f"candidates={candidates!r} is a single one. Give a list of those to choose from.")
    if not isinstance(candidates, (Mapping, Sequence)):
        raise TypeError(
            f"candidates is a {type(candidates).__name__}. Give a list, or a dict from names to candidates."
        )
    pairs = list(candidates.items()) if isinstance(candidates, Mapping) else [(None, each) for each in candidates]
    if not pairs:
        raise ValueError("candidates is empty. Give at least one: a backbone's name or an embedder.")
    for label, candidate in pairs:
        transforms = hasattr(candidate, "fit_transform") and not isinstance(candidate, type)
        if not isinstance(candidate, (str, os.PathLike)) and not transforms:
            where = "" if label is None else f" for {label!r}"
            raise TypeError(
                f"candidates holds {candidate!r}{where}, which is not a backbone's name or a transformer. "
                "Give names, embedders such as TextEmbedder(...), or other transformers, not their classes."
            )
    return [(None if label is None else str(label), candidate) for label, candidate in pairs]


def _check_layers(layers: Any) -> list[Any]:
    if layers is None:
        return [None]
    if isinstance(layers, str) or not isinstance(layers, Sequence) or not layers:
        raise TypeError(
            f"layers={layers!r} must be a list of values to try with each candidate, such as "
            "[-1, -2, [-2, -1]], or None."
        )
    return list(layers)


def _named(name: Any, template: Any) -> BaseEstimator:
    """Return an unfitted embedder with a named backbone."""
    if template is not None:
        return clone(template).set_params(backbone=name)
    found = [modality for modality, names in KNOWN.items() if str(name) in names]
    if len(found) != 1:
        why = f"is known for {' and '.join(found)}" if found else "is not in skembed.list_backbones()"
        near = "Pass" if found else f"{suggestion(str(name))} If the name is right, pass"
        raise ValueError(
            f"{str(name)!r} {why}, so which embedder reads it cannot be told. {near} embedder=, for "
            f"instance embedder={'ImageEmbedder()' if 'image' in found else 'TextEmbedder()'}, or the embedder "
            "itself as the candidate."
        )
    module, cls = _EMBEDDERS[found[0]]
    return getattr(importlib.import_module(module), cls)(name)


def _describe(candidate: Any) -> str:
    """Describe a candidate by its backbone and its changed parameters that have no column."""
    if not isinstance(candidate, BaseEmbedder):
        steps = getattr(candidate, "steps", None)
        return " + ".join(type(step).__name__ for _, step in steps) if steps else type(candidate).__name__
    backbone = candidate.backbone
    name = getattr(backbone, "__name__", None) or str(backbone)
    defaults, parameters = type(candidate)().get_params(deep=False), candidate.get_params(deep=False)
    changed = [key for key in parameters if key not in _NOT_IN_NAME and parameters[key] != defaults[key]]
    return ", ".join([name, *(f"{key}={parameters[key]!r}" for key in changed)])


def megabytes_of(embedder: Any) -> float:
    """Return megabytes (10^6 bytes) of a fitted embedder's weights on disk; NaN for others.

    A backbone that is built by a function has no files; its weights count as float32 in any precision.
    """
    if not isinstance(embedder, BaseEmbedder):
        return float("nan")
    from skembed.backbones.loading.card import identify

    located = identify(embedder.spec_)
    if located is None:
        module = Encoder(embedder).backbone().module
        return 4 * sum(tensor.numel() for tensor in module.state_dict().values()) / 1e6
    whole = located.directory / "model.safetensors"
    # Beside the weights there may be others of them, in half precision for instance, which nobody reads.
    shards = set(read_json(located.directory / "model.safetensors.index.json").get("weight_map", {}).values())
    files = [located.directory / shard for shard in shards] or sorted(located.directory.glob("*.safetensors"))
    return sum(path.stat().st_size for path in ([whole] if whole.is_file() else files)) / 1e6
