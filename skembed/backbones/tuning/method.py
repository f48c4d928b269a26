"""Interface of methods: the parameters that train, and how additions are attached and rebuilt."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from skembed.utils.parameters import ParameterObject

if TYPE_CHECKING:
    from torch import Tensor, nn

    from skembed.backbones.base import Backbone, Block

__all__ = ["METHODS", "Method", "find_method", "resolve_method"]

#: Modules of the methods by the names of their default objects.
METHODS = {
    "weights": "weights.Weights",
    "lora": "lora.LoRA",
    "ia3": "ia3.IA3",
    "adapter": "adapter.Adapter",
    "prefix": "prefix.Prefix",
    "prompt": "prompt.Prompt",
    "bitfit": "weights.BitFit",
    "norms": "weights.Norms",
}


class Method(ParameterObject):
    """Selection of the parameters that train in the blocks that a strategy reaches.

    A subclass says which tensors of the network train (`own`), or adds modules (`attach`) and builds them again in a
    fresh network (`rebuild`).

    See Also
    --------
    skembed.FineTuneClassifier : Use a method as its `method`.
    """

    #: Name by which an estimator's `method` asks for the default object; also stored with what was added.
    name: ClassVar[str]
    #: Learning rate of the top block relative to the head's, where `backbone_factor` is "auto". Pre-trained weights
    #: want small steps: large ones lose what is in them. Additions begin at nothing, and biases and scales are few:
    #: they take the head's own rate. With MiniLM on 600 topics, four epochs from the probe, no method's accuracy on 700
    #: others differed by a point (which is chance) between a tenth, a third and all of that rate.
    rate_factor: ClassVar[float] = 1.0
    #: True if the method trains below all blocks, so that no block can stay frozen while it trains.
    needs_all_blocks: ClassVar[bool] = False
    _parameter_constraints: ClassVar[dict[str, Any]] = {}

    @property
    def n_positions(self) -> int:
        """Number of positions of a text that the method occupies."""
        return 0

    def own(self, module: nn.Module, blocks: Sequence[Block]) -> list[str]:
        """Return the names of the network's own tensors, parameters and buffers, that may change.

        Parameters
        ----------
        module : nn.Module
            The network.
        blocks : sequence of Block
            Blocks that would train.
        """
        return []

    def check(self, backbone: Backbone, blocks: Sequence[Block], options: Any = None) -> None:
        """Refuse a network that the method cannot train, before anything is computed.

        Parameters
        ----------
        backbone : Backbone
            Loaded backbone.
        blocks : sequence of Block
            Blocks that would train.
        options : optional
            Preprocessing options of the backbone, which say how much of a text is read.

        Raises
        ------
        ValueError
            If these blocks have nothing, or not enough, for the method to train.
        ImportError
            If the method needs a library that is not installed.
        """

    def attach(
        self, backbone: Backbone, blocks: Sequence[Block], key: str, batch: Mapping[str, Tensor]
    ) -> dict[str, Any] | None:
        """Add modules to a network, in place; by default none.

        Parameters
        ----------
        backbone : Backbone
            Backbone whose module is changed; its tensors are not.
        blocks : sequence of Block
            Blocks that will train.
        key : str
            Name of the addition.
        batch : mapping of str to Tensor
            Any input of the network, from which additions take their shapes.

        Returns
        -------
        dict or None
            Record for `rebuild`: "method", and plain values; None if nothing was added.
        """
        return None

    @classmethod
    def rebuild(cls, backbone: Backbone, key: str, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Put trained additions into a newly loaded network.

        Parameters
        ----------
        backbone : Backbone
            Backbone whose module is changed in place.
        key : str
            Name of the addition.
        record : mapping
            Result of `attach`.
        tensors : mapping of str to Tensor
            Tensors of the addition by their full names.
        """
        raise KeyError(key)  # nothing was added that could be built

    def distance(self, pairs: Sequence[tuple[str, Tensor, Tensor]], record: Mapping[str, Any]) -> Tensor:
        """Return the squared distance from the pre-trained network, which L2-SP keeps small.

        For additions it is the distance from their initial values, with which the network has its pre-trained function.

        Parameters
        ----------
        pairs : sequence of (str, Tensor, Tensor)
            Name, value and initial value of each tensor that trains.
        record : mapping
            Result of `attach`; empty if nothing was added.
        """
        return sum((value - start).square().sum() for _, value, start in pairs)  # type: ignore[return-value]


def find_method(name: str) -> type[Method] | None:
    """Return the class of a method by its name; None for an unknown one."""
    if name not in METHODS:
        return None
    module, _, cls = METHODS[name].partition(".")
    return getattr(importlib.import_module(f"skembed.backbones.tuning.{module}"), cls)


def resolve_method(method: Method | str) -> Method:
    """Return a method that is given by name or as an object.

    Examples
    --------
    >>> resolve_method("lora")
    LoRA()
    """
    if isinstance(method, Method):
        return method
    found = find_method(method)
    assert found is not None, "names are validated before"
    return found()
