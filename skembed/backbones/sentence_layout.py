"""What sentence-transformers writes beside a network: how positions become one vector."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skembed._warn import warn
from skembed.backbones.weights import read_json
from skembed.exceptions import SkembedWarning

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


@dataclass(frozen=True)
class SentenceLayout:
    """How a network was trained to be read.

    Parameters
    ----------
    pooling : str, optional
        One of `skembed.engine.pooling.POOLINGS`; None where the directory does not say.
    normalize : bool
        Whether rows are scaled to Euclidean length one.
    max_length : int, optional
        Tokens a text, special tokens included.
    lowercase : bool
        Whether texts are lower-cased before they reach the tokenizer.
    """

    pooling: str | None = None
    normalize: bool = False
    max_length: int | None = None
    lowercase: bool = False


def read_sentence_layout(directory: Path) -> SentenceLayout:
    """The layout of a sentence-transformers directory; of any other directory, one that says nothing.

    Warns
    -----
    SkembedWarning
        If the directory asks for something that is left out: a further layer, or a pooling that is not ours.
    """
    modules: Any = read_json(directory / "modules.json")
    if not modules:
        return SentenceLayout()
    settings = read_json(directory / "sentence_bert_config.json")
    pooling, normalize = None, False
    for module in modules:
        kind = module["type"].rpartition(".")[2]
        if kind == "Pooling":
            pooling = _pooling(directory / module["path"] / "config.json")
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            warn(f"{directory} has a {kind} module, which is left out: rows are what enters it.", SkembedWarning)
    return SentenceLayout(pooling, normalize, settings.get("max_seq_length"), bool(settings.get("do_lower_case")))


def _pooling(path: Path) -> str:
    config = read_json(path)
    asked = config.get("pooling_mode") or [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
    names = [asked] if isinstance(asked, str) else sorted(asked, key=str)
    modes = [_MODES.get(name) for name in names]
    if modes and modes[0] and len(modes) == 1:
        return modes[0]
    if sorted(map(str, modes)) == ["max", "mean"]:
        return "mean+max"
    warn(
        f"{path} asks for the pooling {', '.join(names) or '(none)'}, which is not ours: 'auto' is 'mean'.",
        SkembedWarning,
    )
    return "mean"
