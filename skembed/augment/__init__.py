"""Augmentation: changed copies of training samples that keep their labels, for small data.

`resolve_augmentation` turns the parameter `augment` into an `AugmentationPipeline`. Its changes depend on the sample
and the given generator alone. `sample_rng` makes that generator, so that all workers change a sample in the same way.
"""

from skembed.augment.audio import Gain, Noise, SpeedPerturbation, TimeShift
from skembed.augment.image import ColorJitter, Flip, RandomErasing, RandomResizedCrop, Rotation
from skembed.augment.mixing import CutMix, Mixup, cutmix, mixup
from skembed.augment.operation import Operation, sample_rng
from skembed.augment.rand_augment import RandAugment
from skembed.augment.resolve import (
    OPERATIONS,
    PRESETS,
    Augmentation,
    AugmentationPipeline,
    UserOperation,
    describe,
    resolve_augmentation,
)
from skembed.augment.spec_augment import SpecAugment
from skembed.augment.text import SynonymReplacement, WordDropout, WordSwap
from skembed.augment.tokens import TokenDropout, TokenMasking

__all__ = [
    "OPERATIONS",
    "PRESETS",
    "Augmentation",
    "AugmentationPipeline",
    "ColorJitter",
    "CutMix",
    "Flip",
    "Gain",
    "Mixup",
    "Noise",
    "Operation",
    "RandAugment",
    "RandomErasing",
    "RandomResizedCrop",
    "Rotation",
    "SpecAugment",
    "SpeedPerturbation",
    "SynonymReplacement",
    "TimeShift",
    "TokenDropout",
    "TokenMasking",
    "UserOperation",
    "WordDropout",
    "WordSwap",
    "cutmix",
    "describe",
    "mixup",
    "resolve_augmentation",
    "sample_rng",
]
