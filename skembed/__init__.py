"""Transfer learning as scikit-learn estimators.

Public names are resolved when they are first used: ``import skembed`` imports neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skembed.audio import AudioEmbedder
    from skembed.backbones.registry import list_backbones
    from skembed.image import ImageEmbedder
    from skembed.text import TextEmbedder

__version__ = "0.1.0"

_HOMES = {
    "AudioEmbedder": "skembed.audio",
    "ImageEmbedder": "skembed.image",
    "TextEmbedder": "skembed.text",
    "list_backbones": "skembed.backbones.registry",
}

__all__ = ["AudioEmbedder", "ImageEmbedder", "TextEmbedder", "__version__", "list_backbones"]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'skembed' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__():
    return sorted({*globals(), *__all__})
