"""Methods that train tensors of the network itself: all of them, its biases, or its normalizations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from skembed.backbones.base import Backbone, Block
from skembed.backbones.tuning.method import Method

__all__ = ["BitFit", "Norms", "Weights"]


class Weights(Method):
    """Train all tensors of the blocks: ordinary fine-tuning.

    Examples
    --------
    >>> from skembed import FineTuneClassifier
    >>> FineTuneClassifier().method
    'weights'
    """

    name = "weights"
    rate_factor = 0.1

    def own(self, module: nn.Module, blocks: Sequence[Block]) -> list[str]:
        return [name for name in module.state_dict() if any(block.owns(name) for block in blocks)]


class _OwnParameters(Method):
    """Method that trains some parameters of the network, and needs at least one."""

    #: What they are, for the error.
    _what: str

    def check(self, backbone: Backbone, blocks: Sequence[Block], options: Any = None) -> None:
        if not self.own(backbone.module, blocks):
            raise ValueError(
                f"method={self.name!r}: {backbone.spec.name} has no {self._what} in the blocks that would train. "
                "Use method='lora', 'adapter' or 'weights', or a strategy with more blocks."
            )


class BitFit(_OwnParameters):
    """Train the biases alone, of linear maps, convolutions and normalizations alike [1]_.

    References
    ----------
    .. [1] Ben Zaken, Goldberg & Ravfogel (2022), BitFit: Simple Parameter-efficient Fine-tuning for Transformers.

    Examples
    --------
    >>> from skembed import BitFit, FineTuneClassifier
    >>> FineTuneClassifier(strategy="full", method=BitFit())
    FineTuneClassifier(method=BitFit(), strategy='full')
    """

    name = "bitfit"
    _what = "biases"

    def own(self, module: nn.Module, blocks: Sequence[Block]) -> list[str]:
        # Some networks call theirs "q_bias" and so on.
        return [name for name in _parameters(module, blocks) if name.rpartition(".")[2].split("_")[-1] == "bias"]


class Norms(_OwnParameters):
    """Train the scales and shifts of normalizations alone.

    Statistics of batch normalizations stay as pre-trained.

    Examples
    --------
    >>> from skembed import FineTuneClassifier, Norms
    >>> FineTuneClassifier(strategy="full", method=Norms())
    FineTuneClassifier(method=Norms(), strategy='full')
    """

    name = "norms"
    _what = "normalizations with weights"

    def own(self, module: nn.Module, blocks: Sequence[Block]) -> list[str]:
        norms = {name for name, sub in module.named_modules() if "norm" in type(sub).__name__.lower()}
        return [name for name in _parameters(module, blocks) if name.rpartition(".")[0] in norms]


def _parameters(module: nn.Module, blocks: Sequence[Block]) -> list[str]:
    return [name for name, _ in module.named_parameters() if any(block.owns(name) for block in blocks)]
