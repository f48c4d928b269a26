"""Settings that sentence-transformers stores beside a network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skembed.backbones.weights.json_files import invalid_entry, read_json
from skembed.backbones.weights.sentence_modules import SentenceModule, read_modules
from skembed.exceptions import BackboneReadError, SkembedWarning
from skembed.utils.warnings import warn

__all__ = ["SentenceLayout", "read_sentence_layout"]

#: Of its pooling modes, old and new names, those that are ours.
_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "lasttoken": "last",
}
#: Modules that are a network of transformers. The first versions had one for each family.
_NETWORKS = {"Transformer", "BERT", "RoBERTa", "DistilBERT", "ALBERT", "CamemBERT", "XLMRoBERTa"}
#: The network's settings: the first of these files that is there. The first versions had one for each family.
_SETTINGS = [
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta")
]
#: Names of prompts that sentence-transformers knows without a text for them.
_KNOWN_PROMPTS = {"query": "", "document": ""}


@dataclass(frozen=True)
class SentenceLayout:
    """Pooling, prompt and limits that a sentence-transformers network was trained with.

    Parameters
    ----------
    pooling : str, optional
        One of `skembed.backbones.spec.POOLINGS`; None where the directory does not say.
    normalize : bool
        True to scale rows to Euclidean length one.
    max_length : int, optional
        Tokens per text, special tokens included.
    lowercase : bool
        True to convert texts to lower case before the tokenizer.
    prompt : str
        Put before every text by default.
    pool_prompt : bool
        True to pool the positions of a prompt.
    truncate_dim : int, optional
        Leading features that are kept by default.
    """

    pooling: str | None = None
    normalize: bool = False
    max_length: int | None = None
    lowercase: bool = False
    prompt: str = ""
    pool_prompt: bool = True
    truncate_dim: int | None = None


def read_sentence_layout(directory: Path) -> SentenceLayout:
    """Return the layout of a sentence-transformers directory; defaults for any other.

    Warns
    -----
    SkembedWarning
        If the directory asks for something that is left out: a further layer, or a pooling that is not ours.

    Raises
    ------
    BackboneReadError
        If a file has an entry of a wrong type, or a module has no configuration.
    """
    modules = read_modules(directory)
    if not modules:
        return SentenceLayout()
    unknown = [module for module in modules if module.kind not in {*_NETWORKS, "Pooling", "Normalize"}]
    for module in unknown:
        warn(
            f"{directory} has a {module.kind} module, which skembed does not support: rows are its input.",
            SkembedWarning,
        )
    max_length, lowercase = _read_settings(directory / modules[0].folder)
    pooling, pool_prompt = _read_pooling(directory, modules)
    prompt, truncate_dim = _read_defaults(directory / "config_sentence_transformers.json")
    return SentenceLayout(
        pooling,
        any(module.kind == "Normalize" for module in modules),
        max_length,
        lowercase,
        prompt,
        pool_prompt,
        # The leading features of a module that is left out are not those of what enters it.
        None if unknown else truncate_dim,
    )


def _read_settings(network: Path) -> tuple[int | None, bool]:
    """Return the tokens per text and whether texts are lower-cased."""
    path = next((path for name in _SETTINGS if (path := network / name).is_file()), network / _SETTINGS[0])
    settings = _read_object(path)
    length, lowercase = settings.get("max_seq_length"), settings.get("do_lower_case")
    if length is not None and not _is_count(length):
        raise invalid_entry(path, "max_seq_length", length, "a positive integer")
    if not isinstance(lowercase, bool | None):
        raise invalid_entry(path, "do_lower_case", lowercase, "true or false")
    return length, bool(lowercase)


def _read_defaults(path: Path) -> tuple[str, int | None]:
    """Return the default prompt, and the leading features that are kept."""
    content = _read_object(path)
    prompts, name, truncate_dim = (content.get(key) for key in ("prompts", "default_prompt_name", "truncate_dim"))
    if truncate_dim is not None and not _is_count(truncate_dim):
        raise invalid_entry(path, "truncate_dim", truncate_dim, "a positive integer")
    if name is None:
        return "", truncate_dim
    if not isinstance(prompts, dict | None):
        raise invalid_entry(path, "prompts", prompts, "an object of names and texts")
    prompts = {**_KNOWN_PROMPTS, **(prompts or {})}
    if not isinstance(name, str) or name not in prompts:
        raise invalid_entry(path, "default_prompt_name", name, f"one of the prompts: {', '.join(prompts)[:200]}")
    if not isinstance(prompts[name], str | None):
        raise invalid_entry(path, f"prompts.{name}", prompts[name], "a string")
    return prompts[name] or "", truncate_dim


def _read_pooling(directory: Path, modules: list[SentenceModule]) -> tuple[str | None, bool]:
    """Return the pooling, and whether a prompt takes part in it."""
    folders = [module.folder for module in modules if module.kind == "Pooling"]
    if not folders:
        return None, True
    path = directory / folders[-1] / "config.json"
    if not path.is_file():
        raise BackboneReadError(f"{path} is missing, the configuration of a pooling. Download the backbone again.")
    config = _read_object(path)
    pool_prompt = config.get("include_prompt", True)
    if not isinstance(pool_prompt, bool):
        raise invalid_entry(path, "include_prompt", pool_prompt, "true or false")
    return _pooling_mode(path, config), pool_prompt


def _pooling_mode(path: Path, config: dict[str, Any]) -> str:
    flags = {key: on for key, on in config.items() if key.startswith("pooling_mode_")}
    for key, on in flags.items():
        if not isinstance(on, bool):
            raise invalid_entry(path, key, on, "true or false")
    asked = config.get("pooling_mode") or [key for key, on in flags.items() if on]
    names = [asked] if isinstance(asked, str) else asked
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise invalid_entry(path, "pooling_mode", asked, "a string or a list of strings")
    modes = [_MODES.get(name) for name in names or ["mean"]]
    if len(modes) == 1 and modes[0]:
        return modes[0]
    if sorted(map(str, modes)) == ["max", "mean"]:
        return "mean+max"
    warn(
        f"{path} asks for the pooling {', '.join(sorted(names))}, which is not supported: 'auto' means 'mean'.",
        SkembedWarning,
    )
    return "mean"


def _read_object(path: Path) -> dict[str, Any]:
    content: Any = read_json(path)
    if not isinstance(content, dict):
        raise BackboneReadError(f"{path} holds a {type(content).__name__}, not a dict. Download the backbone again.")
    return content


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0
