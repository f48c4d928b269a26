"""Specs of `backbone` parameters, and names worth suggesting."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from skembed.backbones.spec import BackboneSpec, TunedWeights
from skembed.exceptions import BackboneNotFoundError
from skembed.utils.naming import nearest

__all__ = ["KNOWN", "list_backbones", "resolve", "suggestion"]

#: Backbones that are known to work, by modality: what `list_backbones` shows and typos are compared with.
KNOWN: dict[str, tuple[str, ...]] = {
    "image": (
        "tf_efficientnet_lite0.in1k",
        "resnet18.a1_in1k",
        "resnet50.a1_in1k",
        "efficientnet_b0.ra_in1k",
        "convnext_tiny.fb_in22k",
        "vit_small_patch16_224.augreg_in21k",
        "vit_base_patch16_224.augreg_in21k",
        "vit_small_patch14_dinov2.lvd142m",
        "vit_base_patch14_reg4_dinov2.lvd142m",
        "swin_tiny_patch4_window7_224.ms_in22k",
        "vit_base_patch16_clip_224.openai",
        "vit_base_patch16_siglip_224.webli",
        "facebook/dinov2-small",
        "facebook/dinov2-base",
        "google/vit-base-patch16-224-in21k",
        "microsoft/swin-tiny-patch4-window7-224",
        "microsoft/resnet-50",
        "facebook/convnext-tiny-224",
        "openai/clip-vit-base-patch32",
        "google/siglip-base-patch16-224",
    ),
    "text": (
        "sentence-transformers/all-MiniLM-L6-v2",
        "sentence-transformers/all-mpnet-base-v2",
        "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
        "BAAI/bge-small-en-v1.5",
        "intfloat/multilingual-e5-small",
        "google-bert/bert-base-uncased",
        "google-bert/bert-base-multilingual-cased",
        "distilbert/distilbert-base-uncased",
        "FacebookAI/roberta-base",
        "FacebookAI/xlm-roberta-base",
        "microsoft/deberta-v3-small",
        "microsoft/deberta-v3-base",
        "answerdotai/ModernBERT-base",
        "google-t5/t5-small",
        "google/mt5-small",
        "openai-community/gpt2",
        "Qwen/Qwen3-Embedding-0.6B",
        "openai/clip-vit-base-patch32",
    ),
    "audio": (
        "openai/whisper-tiny.en",
        "openai/whisper-base",
        "openai/whisper-small",
        "facebook/wav2vec2-base",
        "facebook/wav2vec2-xls-r-300m",
        "facebook/hubert-base-ls960",
        "microsoft/wavlm-base-plus",
        "MIT/ast-finetuned-audioset-10-10-0.4593",
        "WAV2VEC2_BASE",
        "HUBERT_BASE",
        "WAVLM_BASE",
    ),
}


def list_backbones(modality: str | None = None) -> list[str]:
    """List backbones that are known to work with an embedder.

    Other timm names, hub ids and local directories of the same families work as well.

    Parameters
    ----------
    modality : {"image", "text", "audio"}, optional
        Kind of samples that the backbones read. None lists those of all kinds.

    Returns
    -------
    list of str
        Names for the parameter `backbone` of the embedders. The default backbone of a modality is the first.

    Raises
    ------
    ValueError
        If `modality` is unknown.

    See Also
    --------
    skembed.selection.rank_backbones : Compare backbones on labeled data.

    Examples
    --------
    >>> from skembed import list_backbones
    >>> list_backbones("audio")[0]
    'openai/whisper-tiny.en'
    """
    if modality is None:
        return list(dict.fromkeys(name for names in KNOWN.values() for name in names))
    if modality not in KNOWN:
        raise ValueError(f"modality={modality!r} is unknown. Use one of {', '.join(map(repr, KNOWN))}, or None.")
    return list(KNOWN[modality])


def resolve(
    backbone: str | os.PathLike | Callable | TunedWeights,
    modality: str,
    *,
    revision: str | None = None,
    options: tuple[tuple[str, object], ...] = (),
) -> BackboneSpec:
    """Return the spec of a `backbone` parameter, without reading weights or using a network.

    Parameters
    ----------
    backbone : str, PathLike, callable or TunedWeights
        Hub id, timm name, torchaudio bundle, local directory, "package.module:function", such a function, or what
        fine-tuning made of one of them.
    modality : {"image", "text", "audio"} or str
        Kind of samples that the embedder reads.
    revision : str, optional
        Branch, tag or commit on the hub.
    options : tuple of (str, object) pairs
        Options that change the network itself.

    Raises
    ------
    BackboneNotFoundError
        If a path does not exist, or a function has no name to import it by.
    """
    if isinstance(backbone, TunedWeights):
        return replace(backbone.base, options=options, tuned=backbone)
    if callable(backbone):
        return BackboneSpec("factory", _factory_name(backbone), None, options)
    name = str(backbone)
    if not name:
        raise BackboneNotFoundError(f"backbone='' is empty. {suggestion(name, modality)}")
    module, colon, function = name.partition(":")
    if colon and function.isidentifier() and module.replace(".", "").isidentifier():
        return BackboneSpec("factory", name, None, options)
    path = Path(name).expanduser()
    if path.is_dir():
        return BackboneSpec(modality, str(path.resolve()), None, options)
    if path.is_absolute() or name.startswith((".", "~")):
        raise BackboneNotFoundError(
            f"backbone={name!r} does not exist. Use a directory with config.json and *.safetensors."
        )
    return BackboneSpec(modality, name, revision, options)


def _factory_name(factory: Callable) -> str:
    module = getattr(factory, "__module__", None)
    name = getattr(factory, "__qualname__", "")
    if module is None or not name.isidentifier():
        raise BackboneNotFoundError(
            f"backbone={factory!r} has no name that clone, pickle and other processes could find it by. "
            "Use a function defined at the top of a module."
        )
    return f"{module}:{name}"


def suggestion(name: str, modality: str | None = None) -> str:
    """Return a sentence with the nearest known names, of one modality or of all."""
    known = list_backbones() if modality is None else list(KNOWN.get(modality, ()))
    if modality == "image" and importlib.util.find_spec("timm"):
        import timm

        known += timm.list_models(pretrained=True)
    short = {candidate.split("/")[-1]: candidate for candidate in reversed(known)}
    near = nearest(name.split("/")[-1], short, n=3)
    if near:
        return f"Did you mean {' or '.join(repr(short[key]) for key in near)}?"
    where = "" if modality is None else repr(modality)
    return f"Known ones are {', '.join(map(repr, known[:5]))}, ...: see skembed.list_backbones({where})."
