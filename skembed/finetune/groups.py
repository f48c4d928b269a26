"""Which parameters train, and at which rate: faster at the top, slower below, the head fastest."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from skembed.backbones.base import Block

__all__ = ["block_rates", "parameter_groups", "trainable"]


def block_rates(n_blocks: int, *, rate: float, decay: float) -> list[float]:
    """The learning rate of each block, the lowest first.

    Parameters
    ----------
    n_blocks : int
        Blocks that train.
    rate : float
        Of the highest of them.
    decay : float
        What each block's rate is multiplied by for the one below.

    References
    ----------
    .. [1] Howard & Ruder (2018), Universal Language Model Fine-tuning for Text Classification, section 3.2.
    .. [2] Clark et al. (2020), ELECTRA, appendix A (layer-wise learning rate decay).

    Examples
    --------
    >>> block_rates(3, rate=1e-4, decay=0.5)
    [2.5e-05, 5e-05, 0.0001]
    """
    return [rate * decay**depth for depth in reversed(range(n_blocks))]


def trainable(module: nn.Module, blocks: Sequence[Block], among: Container[str] | None = None) -> dict[str, Any]:
    """The parameters of blocks, by name; those `among` some names, where these are given."""
    return {
        name: value
        for name, value in module.named_parameters()
        if (among is None or name in among) and any(block.owns(name) for block in blocks)
    }


def parameter_groups(
    module: nn.Module,
    blocks: Sequence[Block],
    head: nn.Module,
    *,
    head_rate: float,
    backbone_rate: float,
    layer_decay: float,
    weight_decay: float,
    among: Container[str] | None = None,
) -> list[dict[str, Any]]:
    """Groups for an optimiser: the head, then blocks from the highest to the lowest.

    Parameters
    ----------
    module : nn.Module
        The backbone's network.
    blocks : sequence of Block
        Those that train, the lowest first; may be empty.
    head : nn.Module
        Always trains.
    head_rate, backbone_rate : float
        Of the head, and of the highest block.
    layer_decay : float
        See `block_rates`.
    weight_decay : float
        Of matrices; vectors (biases, the scales of normalisations) are not pulled to zero.
    among : container of str, optional
        Names of the parameters that may train; None for all of the blocks.

    Returns
    -------
    list of dict
        With "params", "lr", "base_rate", "weight_decay" and "name".
    """
    rates = block_rates(len(blocks), rate=backbone_rate, decay=layer_decay)
    parts = [("head", head_rate, list(head.parameters()))]
    for block, rate in reversed(list(zip(blocks, rates, strict=True))):
        parts.append((block.name, rate, list(trainable(module, [block], among).values())))
    groups = []
    for name, rate, parameters in parts:
        for decay, chosen in (
            (weight_decay, [p for p in parameters if p.ndim > 1]),
            (0.0, [p for p in parameters if p.ndim <= 1]),
        ):
            if chosen:
                groups.append({"params": chosen, "lr": rate, "base_rate": rate, "weight_decay": decay, "name": name})
    return groups
