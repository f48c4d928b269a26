"""Items that store the output of a block, so that a network can resume behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from skembed.backbones.base import Item

__all__ = ["advance_each", "advanced", "collate_advanced", "join_advanced"]


def advanced(item: Item, block: int, hidden: Tensor, *, keep: Sequence[str] = ("ids", "unpooled")) -> Item:
    """Return the item with the output of a block for it.

    Parameters
    ----------
    item : Item
        As it entered the network.
    block : int
        Whose output `hidden` is.
    hidden : Tensor
        Output for this item alone, without the batch axis, on the CPU.
    keep : sequence of str
        Other data of the item that the network above needs.
    """
    kept = {name: item.data[name] for name in keep if name in item.data}
    # A copy of its own: a view would hold on to the whole batch.
    own = hidden.detach().to("cpu", copy=True).contiguous()
    return Item({**kept, "block": block, "hidden": own}, item.length, item.truncated)


def advance_each(items: Sequence[Item], found: Mapping[int, Iterable[Tensor]]) -> list[list[Item]]:
    """Return, for each block, the items with its outputs; see `advanced`."""
    return [
        [advanced(item, block, own) for item, own in zip(items, hidden, strict=True)] for block, hidden in found.items()
    ]


def collate_advanced(items: Sequence[Item]) -> dict[str, Tensor]:
    """Stack the stored outputs of a block as a batch in float32; empty for whole samples.

    Parameters
    ----------
    items : sequence of Item
        All of them behind the same block, with as many positions each.
    """
    return _batch(items, torch.stack)


def join_advanced(items: Sequence[Item]) -> dict[str, Tensor]:
    """Join stored outputs of any lengths end to end, of shape (sum of lengths, width)."""
    return _batch(items, torch.cat)


def _batch(items: Sequence[Item], combine: Callable[[list[Tensor]], Tensor]) -> dict[str, Tensor]:
    if "hidden" not in items[0].data:
        return {}
    hidden = combine([item.data["hidden"] for item in items]).float()
    return {"hidden": hidden, "block": torch.tensor(items[0].data["block"])}
