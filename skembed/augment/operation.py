"""Interface of operations: frozen parameters, and a change of one sample by a given generator.

No operation reads or writes the global random states of Python, NumPy or torch. All threads share these states, so a
result would depend on the number of threads, and seeding them would disturb other draws, such as dropout.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import MISSING, Field, dataclass, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from skembed.utils.naming import shown

if TYPE_CHECKING:
    from skembed.backbones.base import Backbone, Item

__all__ = ["Operation", "SampleOperation", "check_interval", "check_number", "sample_rng"]


def sample_rng(seed: int, epoch: int, index: int, stage: int = 0) -> np.random.Generator:
    """Return the random generator of one sample in one epoch.

    Parameters
    ----------
    seed : int
        Seed of the whole fit, 0 or more.
    epoch : int
        Number of the epoch, or of the view if views are stored or averaged.
    index : int
        Position of the sample in the data, not in the batch.
    stage : int, default=0
        Another number gives independent draws for the same sample. `on_item` needs a generator of another stage, unless
        it continues with that of `on_sample`.

    Returns
    -------
    numpy.random.Generator

    Examples
    --------
    >>> float(sample_rng(0, epoch=1, index=2).random()) == float(sample_rng(0, epoch=1, index=2).random())
    True
    """
    # A spawn key and not one list of numbers: NumPy fills lists with zeros, so that [1] and [1, 0] are the same.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch, index, stage)))


class Operation(ABC):
    """Change of a sample with a name.

    A subclass is a frozen dataclass and overrides `on_sample` or `on_item`.
    """

    #: Name in `augment=`.
    name: ClassVar[str]
    #: Modality that it changes: "image", "text" or "audio".
    modality: ClassVar[str]

    def on_sample(self, value: Any, rng: np.random.Generator, *, sampling_rate: int | None = None) -> Any:
        """Change a decoded sample; return a new one, or the same one if nothing changes.

        Parameters
        ----------
        value : PIL.Image.Image in mode RGB, str, or ndarray of shape (n_samples,), float32
            Never written to.
        rng : numpy.random.Generator
            The only source of chance.
        sampling_rate : int, optional
            Samples per second (Hz) of a waveform.
        """
        return value

    def on_item(self, item: Item, rng: np.random.Generator, backbone: Backbone) -> Item:
        """Change a prepared sample; return a new item, or the same one if nothing changes.

        Parameters
        ----------
        item : Item
            Never written to: it may be used again in the next epoch.
        rng : numpy.random.Generator
            The only source of chance.
        backbone : Backbone
            Backbone that prepared the item.
        """
        return item

    def require(self) -> None:
        """Raise ImportError if something that the operation needs is not installed."""
        return None

    def describe(self) -> str:
        """Return the name, and the parameters that differ from their defaults."""
        changed = [
            f"{field.name}={shown(getattr(self, field.name))}"
            for field in self._fields()
            if field.default is MISSING or getattr(self, field.name) != field.default
        ]
        return f"{self.name}({', '.join(changed)})" if changed else self.name

    def __repr__(self) -> str:
        # Functions by their names: addresses differ from process to process.
        values = [f"{field.name}={shown(getattr(self, field.name))}" for field in self._fields()]
        return f"{type(self).__name__}({', '.join(values)})"

    def _fields(self) -> list[Field]:
        """Return the parameters, with `probability` last."""
        return sorted(fields(self), key=lambda field: field.name == "probability")  # type: ignore[arg-type]


@dataclass(frozen=True, repr=False, kw_only=True)
class SampleOperation(Operation):
    """Operation on decoded samples that is applied with some probability.

    Parameters
    ----------
    probability : float, default=1.0
        Share of the samples that are changed, from 0 to 1.
    """

    probability: float = 1.0

    def __post_init__(self):
        check_number(self, "probability", 0, 1)

    def on_sample(self, value, rng, *, sampling_rate=None) -> Any:
        return self._change(value, rng, sampling_rate) if rng.random() < self.probability else value

    @abstractmethod
    def _change(self, value: Any, rng: np.random.Generator, sampling_rate: int | None) -> Any:
        """Return the changed sample."""


def check_number(operation: Operation, parameter: str, low: float, high: float, *, whole: bool = False) -> None:
    """Raise ValueError unless the parameter is a number (or a whole number) from `low` to `high`."""
    value = getattr(operation, parameter)
    kind, words = (Integral, "a whole number") if whole else (Real, "a number")
    # True is an Integral; NaN is between nothing.
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= float(value) <= high:
        raise ValueError(
            f"{operation.name}: {parameter}={value!r} is out of range. Use {words} from {low:g} to {high:g}."
        )


def check_interval(operation: Operation, parameter: str, low: float, high: float) -> None:
    """Raise ValueError unless the parameter is a pair of numbers in order, both from `low` to `high`; store a tuple."""
    value = getattr(operation, parameter)
    pair = tuple(value) if isinstance(value, (tuple, list)) else ()
    numbers = all(isinstance(part, Real) and not isinstance(part, bool) for part in pair)
    if len(pair) != 2 or not numbers or not low <= pair[0] <= pair[1] <= high:
        raise ValueError(
            f"{operation.name}: {parameter}={value!r} is out of range. "
            f"Use two numbers in order, from {low:g} to {high:g}."
        )
    # A list would make the operation unhashable.
    object.__setattr__(operation, parameter, pair)
