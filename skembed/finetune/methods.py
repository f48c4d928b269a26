"""What each method trains of a network: tensors of its own, or some that are added to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skembed.backbones.base import Backbone, Block
from skembed.strategies import Method

__all__ = ["KINDS", "Kind", "check_method"]

Pairs = Sequence[tuple[str, Tensor, Tensor]]


@dataclass(frozen=True)
class Kind:
    """A way to train a network, in three functions.

    Parameters
    ----------
    own : callable
        Takes the network and blocks; names the tensors of the base, parameters and buffers, that may change.
    add : callable, optional
        Takes a backbone, blocks, the addition's name, an input and the method; puts new modules into the network and
        returns what `skembed.backbones.tuning.modules` needs to build them again.
    distance : callable
        Takes (name, parameter, its value before training) of what trains, and what `add` returned; gives the squared
        distance from the pre-trained network that L2-SP holds small.
    """

    own: Callable[[nn.Module, Sequence[Block]], list[str]]
    add: Callable[[Backbone, Sequence[Block], str, Mapping[str, Tensor], Method], dict[str, Any]] | None = None
    distance: Callable[[Pairs, Mapping[str, Any]], Tensor] = lambda pairs, _record: _straight(pairs)


def check_method(backbone: Backbone, blocks: Sequence[Block], method: Method, options: Any = None) -> None:
    """Refuse what cannot work before anything is computed.

    Parameters
    ----------
    backbone : Backbone
        Loaded.
    blocks : sequence of Block
        Those that would train.
    method : Method
        What would train in them.
    options : optional
        The backbone's preprocessing options, which say how much of a text is read.

    Raises
    ------
    ValueError
        If the network has nothing in these blocks that the method could train, or not as much as it would.
    ImportError
        If the method needs a library that is not installed.
    """
    from skembed.backbones.tuning import lora, modules

    if method.name == "lora":
        lora.require_peft()
        names = lora.find_targets(backbone.module, blocks, method.target_modules, backbone.spec.name)
        lora.check_rank(backbone.module, names, method.lora_rank, backbone.spec.name)
    elif method.name in ("prefix", "prompt"):
        modules.require_packable(backbone, method.name)
        if method.name == "prompt":
            modules.require_room(backbone, method.n_virtual_tokens, options)
    elif method.name in ("bitfit", "norm") and not KINDS[method.name].own(backbone.module, blocks):
        what = "biases" if method.name == "bitfit" else "normalisations with weights"
        raise ValueError(
            f"strategy={method.name!r}: {backbone.spec.name} has no {what} in the blocks that would train. "
            'Use "lora", "adapter" or "full", or more blocks.'
        )


# -- tensors of the base ------------------------------------------------------------------------------------


def _all(module: nn.Module, blocks: Sequence[Block]) -> list[str]:
    return [name for name in module.state_dict() if any(block.owns(name) for block in blocks)]


def _none(_module: nn.Module, _blocks: Sequence[Block]) -> list[str]:
    return []


def _biases(module: nn.Module, blocks: Sequence[Block]) -> list[str]:
    """Of linear maps, convolutions and normalisations alike [1]_; some networks call theirs "q_bias" and so on.

    References
    ----------
    .. [1] Ben Zaken, Goldberg & Ravfogel (2022), BitFit: Simple Parameter-efficient Fine-tuning for Transformers.
    """
    parameters = [name for name, _ in module.named_parameters() if any(block.owns(name) for block in blocks)]
    return [name for name in parameters if name.rpartition(".")[2].split("_")[-1] == "bias"]


def _norms(module: nn.Module, blocks: Sequence[Block]) -> list[str]:
    """Scales and shifts. What batch normalisations remember of the pre-training is no parameter, and stays."""
    norms = [name for name, sub in module.named_modules() if "norm" in type(sub).__name__.lower()]
    parameters = [name for name, _ in module.named_parameters() if any(block.owns(name) for block in blocks)]
    return [name for name in parameters if name.rpartition(".")[0] in norms]


# -- what is added ------------------------------------------------------------------------------------------


def _lora(backbone, blocks, name, _batch, method: Method):
    from skembed.backbones.tuning.modules import add_lora

    return add_lora(
        backbone,
        blocks,
        name,
        rank=method.lora_rank,
        alpha=method.lora_alpha,
        dropout=method.lora_dropout,
        targets=method.target_modules,
    )


def _adapters(backbone, blocks, name, batch, method: Method):
    from skembed.backbones.tuning.modules import add_adapters

    return add_adapters(backbone, blocks, name, batch, width=method.adapter_width)


def _prefixes(backbone, blocks, name, batch, method: Method):
    from skembed.backbones.tuning.modules import add_prefixes

    return add_prefixes(backbone, blocks, name, batch, n_tokens=method.n_virtual_tokens)


def _prompt(backbone, _blocks, name, _batch, method: Method):
    from skembed.backbones.tuning.modules import add_prompt

    return add_prompt(backbone, name, n_tokens=method.n_virtual_tokens)


# -- how far it is from the base ----------------------------------------------------------------------------


def _straight(pairs: Pairs) -> Tensor:
    """Of weights from those of the base; of what was added from where it began, which is the base's own function."""
    return torch.stack([(value - start).square().sum() for _, value, start in pairs]).sum()


def _of_products(pairs: Pairs, record: Mapping[str, Any]) -> Tensor:
    from skembed.backbones.tuning.lora import distance

    return distance({name: value for name, value, _ in pairs}, record["scale"])


KINDS = {
    "weights": Kind(_all),
    "bitfit": Kind(_biases),
    "norm": Kind(_norms),
    "lora": Kind(_none, _lora, _of_products),
    "adapter": Kind(_none, _adapters),
    "prefix": Kind(_none, _prefixes),
    "prompt": Kind(_none, _prompt),
}
