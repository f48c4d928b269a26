"""Transfer learning as scikit-learn estimators.

Public names are resolved when they are first used: ``import skembed`` imports neither torch nor transformers.
The logger "skembed" tells which backbones are loaded and which rows come from a cache.

The map of the package, from what users call down to what all of it stands on:

advice.py, diagnosis.py    what suits some data, and what went wrong in a fit
displays/                  pictures
finetune/                  FineTuneClassifier and FineTuneRegressor
assessment/                findings and remedies from numbers; measures/ has the measures
selection/, testing/       ranking of backbones; checks and doubles for embedders of your own
embedders/                 TextEmbedder, ImageEmbedder, AudioEmbedder; Encoder, which the rooms above are given
inference/                 from samples to rows: cache lookup, batches, pooling
augment/                   changed copies of samples, Mixup and CutMix
backbones/                 pre-trained networks, and methods that train them (backbones/tuning/)
probes/                    linear probes on rows
strategies.py, optimization.py, schedules.py    parameter objects of fits
inputs/, cache/, config.py samples and targets in any form; stored rows; settings of the package
utils/, exceptions.py      what has no better home; errors and warnings
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skembed import (
        advice,
        augment,
        backbones,
        diagnosis,
        displays,
        exceptions,
        measures,
        selection,
        testing,
    )
    from skembed.advice import advise
    from skembed.augment import Augmentation, CutMix, Mixup
    from skembed.backbones.loading.registry import list_backbones
    from skembed.backbones.tuning.adapter import Adapter
    from skembed.backbones.tuning.ia3 import IA3
    from skembed.backbones.tuning.lora import LoRA
    from skembed.backbones.tuning.prefix import Prefix
    from skembed.backbones.tuning.prompt import Prompt
    from skembed.backbones.tuning.weights import BitFit, Norms, Weights
    from skembed.cache import EmbeddingCache
    from skembed.config import config_context, get_config, set_config
    from skembed.diagnosis import diagnose
    from skembed.embedders.audio import AudioEmbedder
    from skembed.embedders.image import ImageEmbedder
    from skembed.embedders.text import TextEmbedder
    from skembed.finetune.classifier import FineTuneClassifier
    from skembed.finetune.learning_rate import find_learning_rate
    from skembed.finetune.regressor import FineTuneRegressor
    from skembed.optimization import Optimization
    from skembed.selection import BackboneSelector, rank_backbones
    from skembed.strategies import Full, Head, Partial, Progressive
    from skembed.versions import show_versions

logging.getLogger("skembed").addHandler(logging.NullHandler())

__version__ = "0.2.0"

_HOMES = {
    "Adapter": "skembed.backbones.tuning.adapter",
    "AudioEmbedder": "skembed.embedders.audio",
    "Augmentation": "skembed.augment",
    "BackboneSelector": "skembed.selection",
    "BitFit": "skembed.backbones.tuning.weights",
    "CutMix": "skembed.augment",
    "EmbeddingCache": "skembed.cache",
    "FineTuneClassifier": "skembed.finetune.classifier",
    "FineTuneRegressor": "skembed.finetune.regressor",
    "Full": "skembed.strategies",
    "Head": "skembed.strategies",
    "IA3": "skembed.backbones.tuning.ia3",
    "ImageEmbedder": "skembed.embedders.image",
    "LoRA": "skembed.backbones.tuning.lora",
    "Mixup": "skembed.augment",
    "Norms": "skembed.backbones.tuning.weights",
    "Optimization": "skembed.optimization",
    "Partial": "skembed.strategies",
    "Prefix": "skembed.backbones.tuning.prefix",
    "Progressive": "skembed.strategies",
    "Prompt": "skembed.backbones.tuning.prompt",
    "TextEmbedder": "skembed.embedders.text",
    "Weights": "skembed.backbones.tuning.weights",
    "advise": "skembed.advice",
    "config_context": "skembed.config",
    "diagnose": "skembed.diagnosis",
    "find_learning_rate": "skembed.finetune.learning_rate",
    "get_config": "skembed.config",
    "list_backbones": "skembed.backbones.loading.registry",
    "rank_backbones": "skembed.selection",
    "set_config": "skembed.config",
    "show_versions": "skembed.versions",
}
#: Modules that are attributes without having been imported.
_MODULES = (
    "advice", "augment", "backbones", "diagnosis", "displays", "exceptions", "measures", "selection", "testing"
)  # fmt: skip

__all__ = [
    "IA3",
    "Adapter",
    "AudioEmbedder",
    "Augmentation",
    "BackboneSelector",
    "BitFit",
    "CutMix",
    "EmbeddingCache",
    "FineTuneClassifier",
    "FineTuneRegressor",
    "Full",
    "Head",
    "ImageEmbedder",
    "LoRA",
    "Mixup",
    "Norms",
    "Optimization",
    "Partial",
    "Prefix",
    "Progressive",
    "Prompt",
    "TextEmbedder",
    "Weights",
    "__version__",
    "advice",
    "advise",
    "augment",
    "backbones",
    "config_context",
    "diagnose",
    "diagnosis",
    "displays",
    "exceptions",
    "find_learning_rate",
    "get_config",
    "list_backbones",
    "measures",
    "rank_backbones",
    "selection",
    "set_config",
    "show_versions",
    "testing",
]


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"skembed.{name}")
    if name not in _HOMES:
        from skembed.utils.naming import did_you_mean

        hint = "" if name.startswith("__") else did_you_mean(name, __all__)
        raise AttributeError(f"module 'skembed' has no attribute {name!r}.{hint}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__():
    return sorted(__all__)
