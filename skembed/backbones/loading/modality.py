"""Hints at the right embedder, for users who took the wrong one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from skembed.backbones.loading.registry import KNOWN
from skembed.backbones.spec import BackboneSpec
from skembed.backbones.weights.files import read_json
from skembed.exceptions import BackboneNotFoundError

__all__ = ["other_reader", "refuse_other_reader"]

_READS = {"image": "images", "text": "texts", "audio": "recordings"}
_EMBEDDERS = {"image": "ImageEmbedder", "text": "TextEmbedder", "audio": "AudioEmbedder"}


def other_reader(name: str, modality: str) -> str:
    """Return a sentence that names the embedder for a backbone; empty if none is known.

    Parameters
    ----------
    name : str
        As it was given. It need not be installed.
    modality : {"image", "text", "audio"}
        Kind of samples that the chosen embedder reads.

    Examples
    --------
    >>> other_reader("facebook/dinov2-small", "text")
    "backbone='facebook/dinov2-small' is an image backbone, and TextEmbedder reads texts. Use ImageEmbedder."
    >>> other_reader("gpt2", "text")
    ''
    """
    found = {kind for kind, names in KNOWN.items() if name in names}
    if not found and "/" not in name and importlib.util.find_spec("timm"):
        import timm

        found = {"image"} if timm.is_model(name.split(".")[0]) else set()
    return _sentence(name, found, modality)


def refuse_other_reader(spec: BackboneSpec, directory: Path) -> None:
    """Raise if the configuration beside the weights belongs to another embedder.

    Parameters
    ----------
    spec : BackboneSpec
        As it was asked for.
    directory : Path
        With config.json.

    Raises
    ------
    BackboneNotFoundError
        Names the backbone as it was given, and the embedder that reads it.
    """
    told = _sentence(spec.name, _modalities(read_json(directory / "config.json")), spec.source)
    if told:
        raise BackboneNotFoundError(told)


def _modalities(config: dict[str, Any]) -> set[str]:
    """Return the modalities that a network of this configuration reads; empty if unknown."""
    if "architecture" in config:  # timm's
        return {"image"}
    if config.get("library_name") == "torchaudio":
        return {"audio"}
    from transformers.models.auto import modeling_auto as known

    kind = config.get("model_type")
    if kind in known.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES:
        return {"image", "text"}
    # Before texts: Whisper's decoder alone is a language model, too.
    if kind in known.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES:
        return {"audio"}
    if kind in known.MODEL_FOR_IMAGE_MAPPING_NAMES:
        return {"image"}
    texts = (
        known.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
        known.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        known.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    )
    return {"text"} if any(kind in names for names in texts) else set()


def _sentence(name: str, found: set[str], modality: str) -> str:
    if not found or modality in found or modality not in _READS:
        return ""
    own, right = _EMBEDDERS[modality], " or ".join(_EMBEDDERS[kind] for kind in sorted(found))
    article = "a" if found == {"text"} else "an"
    what = " and ".join(sorted(found))
    return f"backbone={name!r} is {article} {what} backbone, and {own} reads {_READS[modality]}. Use {right}."
