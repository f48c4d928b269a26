"""Resolution of the parameter `augment` into operations in order."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from skembed.augment.audio import Gain, Noise, SpeedPerturbation, TimeShift
from skembed.augment.image import ColorJitter, Flip, RandomErasing, RandomResizedCrop, Rotation
from skembed.augment.operation import Operation
from skembed.augment.rand_augment import RandAugment
from skembed.augment.spec_augment import SpecAugment
from skembed.augment.text import SynonymReplacement, WordDropout, WordSwap
from skembed.augment.tokens import TokenDropout, TokenMasking
from skembed.utils.naming import did_you_mean, shown
from skembed.utils.parameters import ParameterObject
from skembed.utils.sklearn_private import Interval

if TYPE_CHECKING:
    from skembed.backbones.base import Backbone, Item

__all__ = [
    "OPERATIONS",
    "PRESETS",
    "Augmentation",
    "AugmentationPipeline",
    "UserOperation",
    "describe",
    "resolve_augmentation",
]

#: Operations by name.
OPERATIONS: dict[str, type[Operation]] = {
    cls.name: cls
    for cls in (
        RandomResizedCrop, Flip, ColorJitter, Rotation, RandomErasing, RandAugment,
        WordDropout, WordSwap, SynonymReplacement, TokenMasking, TokenDropout,
        SpeedPerturbation, Gain, Noise, TimeShift, SpecAugment,
    )
}  # fmt: skip

#: Presets by modality and strength. They need no optional package, and no token that some tokenizer lacks. Those for
#: texts include an operation on tokens, since not all languages put spaces between words.
PRESETS: dict[str, dict[str, tuple[Operation, ...]]] = {
    "image": {
        "light": (RandomResizedCrop(scale=(0.7, 1.0)), Flip()),
        "standard": (RandomResizedCrop(), Flip(), ColorJitter()),
        "strong": (RandomResizedCrop(scale=(0.2, 1.0)), Flip(), RandAugment(), RandomErasing(probability=0.25)),
    },
    "text": {
        "light": (TokenDropout(rate=0.05),),
        "standard": (WordSwap(rate=0.05), TokenDropout(rate=0.1)),
        "strong": (WordDropout(rate=0.1), WordSwap(rate=0.1), TokenDropout(rate=0.15)),
    },
    "audio": {
        "light": (Gain(decibels=(-3.0, 3.0)), TimeShift(seconds=0.05)),
        "standard": (SpeedPerturbation(), Gain(), TimeShift(), Noise(snr=(15.0, 30.0))),
        "strong": (
            SpeedPerturbation(factors=(0.85, 0.9, 1.0, 1.1, 1.15)),
            Gain(),
            TimeShift(seconds=0.2),
            Noise(snr=(5.0, 25.0)),
            SpecAugment(),
        ),
    },
}

_VALUES = {"image": "an RGB PIL.Image", "text": "a str", "audio": "a waveform of shape (n_samples,), finite floats"}


@dataclass(frozen=True, repr=False)
class UserOperation(Operation):
    """Operation by a function of the user on a decoded sample.

    Parameters
    ----------
    function : callable
        Function of the sample. It is also passed a `numpy.random.Generator` if it has two positional parameters without
        defaults, or a second parameter that is named `rng`. Draws from other generators are not seeded and may depend
        on the number of workers. A module-level function can be pickled, a lambda cannot.
    modality : {"image", "text", "audio"}
        Modality that it changes.

    Examples
    --------
    >>> UserOperation(str.lower, "text").on_sample("ABC", np.random.default_rng(0))
    'abc'
    """

    name = "function"
    function: Callable[..., Any]
    modality: str  # type: ignore[misc]

    def on_sample(self, value, rng, *, sampling_rate=None) -> Any:
        result = self.function(value, rng) if _takes_rng(self.function) else self.function(value)
        if self.modality == "image" and hasattr(result, "convert"):
            return result.convert("RGB")
        if self.modality == "text" and isinstance(result, str):
            return result
        if self.modality == "audio" and _is_waveform(result):
            return np.ascontiguousarray(result, dtype=np.float32)
        raise TypeError(
            f"augment: {shown(self.function)} returned {_told(result)}. It must return {_VALUES[self.modality]}."
        )

    def describe(self) -> str:
        return shown(self.function)


class Augmentation(ParameterObject):
    """Random changes of training samples, and the number of changed views that are stored.

    Parameters
    ----------
    operations : str, Operation, callable or sequence, default="standard"
        A preset ("light", "standard" or "strong"); an operation by name, as ("name", {parameters}) or as an object of
        `skembed.augment`; a function of a decoded sample; or a sequence of these.
    views : int, default=None
        Number of stored views of each sample, including the unchanged one. They are used in turn from epoch to epoch,
        and activations of frozen blocks are computed once per view, which saves time. None changes samples anew in
        every epoch, so the frozen blocks run in every epoch too.

    See Also
    --------
    skembed.FineTuneClassifier : Takes it as `augment`; its `n_views` averages predictions over views.

    Examples
    --------
    >>> from skembed import Augmentation, FineTuneClassifier, ImageEmbedder
    >>> FineTuneClassifier(ImageEmbedder(), augment=Augmentation(["flip", ("rotation", {"degrees": 5})], views=4))
    FineTuneClassifier(augment=Augmentation(operations=['flip',
                                                        ('rotation',
                                                         {'degrees': 5})],
                                            views=4),
                       embedder=ImageEmbedder())
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "operations": "no_validation",
        "views": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(self, operations="standard", views=None):
        self.operations = operations
        self.views = views


@dataclass(frozen=True)
class AugmentationPipeline:
    """Operations in order, as `resolve_augmentation` returns them.

    Parameters
    ----------
    operations : tuple of Operation
        Operations in order; those on items follow all of those on samples.
    modality : {"image", "text", "audio"}
        Modality that they change.
    """

    operations: tuple[Operation, ...]
    modality: str

    @property
    def changes_samples(self) -> bool:
        """True if an operation changes decoded samples, which are then prepared in every epoch."""
        return any(type(operation).on_sample is not Operation.on_sample for operation in self.operations)

    @property
    def changes_items(self) -> bool:
        """True if an operation changes items that a backbone has prepared."""
        return any(type(operation).on_item is not Operation.on_item for operation in self.operations)

    def on_sample(self, value: Any, rng: np.random.Generator, *, sampling_rate: int | None = None) -> Any:
        """Change a decoded sample.

        Parameters
        ----------
        value, rng, sampling_rate
            See `Operation.on_sample`.
        """
        for operation in self.operations:
            value = operation.on_sample(value, rng, sampling_rate=sampling_rate)
        return value

    def on_item(self, item: Item, rng: np.random.Generator, backbone: Backbone) -> Item:
        """Change a prepared sample.

        Parameters
        ----------
        item, rng, backbone
            See `Operation.on_item`.
        """
        for operation in self.operations:
            item = operation.on_item(item, rng, backbone)
        return item


def resolve_augmentation(augment: Any, modality: str) -> AugmentationPipeline | None:
    """Return the operations that a parameter `augment` asks for.

    Parameters
    ----------
    augment : None, Augmentation, str, Operation, callable, or sequence of them
        A preset ("light", "standard", "strong"), the name of an operation, ("name", {parameters}), an operation, a
        function of a decoded sample (see `UserOperation`), or several of these in order.
    modality : {"image", "text", "audio"}
        Modality of the samples.

    Returns
    -------
    AugmentationPipeline or None
        None if there is nothing to do.

    Raises
    ------
    ValueError
        If a name or a parameter is unknown or out of range, or an operation is for another modality.
    ImportError
        If an operation needs a package that is not installed. The error says how to install it.

    Examples
    --------
    >>> describe(resolve_augmentation(["flip", ("rotation", {"degrees": 5})], "image"))
    'flip, rotation(degrees=5)'
    """
    if modality not in PRESETS:
        raise ValueError(f"modality={modality!r} is not known. Use 'image', 'text' or 'audio'.")
    operations = _parse(augment, modality)
    for operation in operations:
        if operation.modality != modality:
            raise ValueError(
                f"augment: {operation.name} changes {operation.modality} samples, and these are {modality} samples. "
                f"Use {_known(modality)}."
            )
        operation.require()
    return AugmentationPipeline(operations, modality) if operations else None


def describe(augmentation: AugmentationPipeline | None) -> str:
    """Describe the operations in one line, with parameters that differ from their defaults.

    Parameters
    ----------
    augmentation : AugmentationPipeline or None
        Operations to describe.

    Examples
    --------
    >>> describe(resolve_augmentation("light", "audio"))
    'gain(decibels=(-3.0, 3.0)), time_shift(seconds=0.05)'
    >>> describe(None)
    'none'
    """
    return "none" if augmentation is None else ", ".join(operation.describe() for operation in augmentation.operations)


def _parse(augment: Any, modality: str) -> tuple[Operation, ...]:
    if augment is None:
        return ()
    if isinstance(augment, Augmentation):
        augment.validate()
        return _parse(augment.operations, modality)
    if isinstance(augment, AugmentationPipeline):
        return augment.operations
    if isinstance(augment, Operation):
        return (augment,)
    if isinstance(augment, str):
        return PRESETS[modality].get(augment) or (_named(augment, {}, modality),)
    if isinstance(augment, Sequence):
        if len(augment) == 2 and isinstance(augment[0], str) and isinstance(augment[1], Mapping):
            return (_named(augment[0], augment[1], modality),)
        return tuple(operation for part in augment for operation in _parse(part, modality))
    if callable(augment) and not isinstance(augment, type):
        return (UserOperation(augment, modality),)
    raise ValueError(
        f"augment={augment!r} is not an augmentation. Use 'light', 'standard' or 'strong', {_known(modality)}, "
        "('name', {parameters}), a function of a sample, or a sequence of these."
    )


def _named(name: str, parameters: Mapping[str, Any], modality: str) -> Operation:
    if name not in OPERATIONS:
        hint = did_you_mean(name, [*OPERATIONS, *PRESETS[modality]])
        raise ValueError(
            f"augment: {name!r} is not known.{hint} Use 'light', 'standard' or 'strong', or {_known(modality)}."
        )
    known = [field.name for field in fields(OPERATIONS[name])]  # type: ignore[arg-type]
    unknown = [parameter for parameter in parameters if parameter not in known]
    if unknown:
        raise ValueError(f"augment: {name} has no parameter {unknown[0]!r}. It has {', '.join(sorted(known))}.")
    return OPERATIONS[name](**parameters)


def _known(modality: str) -> str:
    return ", ".join(repr(name) for name, cls in OPERATIONS.items() if cls.modality == modality)


def _takes_rng(function: Callable) -> bool:
    """Return True if a function takes a generator besides the sample."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # some functions written in C tell nothing about themselves
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    # A second parameter with a default has a meaning of its own, unless it says that it is this one.
    return len(positional) >= 2 and (positional[1].default is inspect.Parameter.empty or positional[1].name == "rng")


def _is_waveform(result: Any) -> bool:
    if not isinstance(result, np.ndarray):
        return False
    return result.ndim == 1 and result.size > 0 and result.dtype.kind == "f" and bool(np.isfinite(result).all())


def _told(result: Any) -> str:
    if isinstance(result, np.ndarray):
        return f"an array of shape {result.shape}, {result.dtype}"
    return f"an instance of {type(result).__name__}"
