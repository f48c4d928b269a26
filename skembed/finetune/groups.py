"""Parameter groups of the optimizer: the head has the highest rate, lower blocks have lower ones."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from skembed.backbones.base import Block

__all__ = ["block_rates", "parameter_groups", "trainable"]


def block_rates(n_blocks: int, *, rate: float, decay: float) -> list[float]:
    """Return the learning rate of each block, the lowest block first.

    Parameters
    ----------
    n_blocks : int
        Number of blocks that train.
    rate : float
        Learning rate of the highest block.
    decay : float
        Ratio of a block's rate to that of the block above.

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
    """Return parameters of blocks by name, only those `among` some names if these are given."""
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
    """Return groups for an optimizer: the head, then blocks from the highest to the lowest.

    Parameters
    ----------
    module : nn.Module
        Network of the backbone.
    blocks : sequence of Block
        Blocks that train, the lowest first; may be empty.
    head : nn.Module
        Head, which always trains.
    head_rate, backbone_rate : float
        Learning rates of the head and of the highest block.
    layer_decay : float
        See `block_rates`.
    weight_decay : float
        Weight decay of matrices. Vectors, such as biases and scales of normalizations, have none.
    among : container of str, optional
        Names of the parameters that may train; None for all of the blocks.

    Returns
    -------
    list of dict
        Groups with "params", "lr", "base_rate", "weight_decay" and "name".
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
