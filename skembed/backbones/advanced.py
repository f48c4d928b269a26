"""Items that stand for a sample behind one of the network's blocks: what that block returned, kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from skembed.backbones.base import Item

__all__ = ["advanced", "collate_advanced", "join_advanced"]


def advanced(item: Item, block: int, hidden: Tensor, *, keep: Sequence[str] = ("ids",)) -> Item:
    """The item with what a block returned for it.

    Parameters
    ----------
    item : Item
        As it entered the network.
    block : int
        Whose output `hidden` is.
    hidden : Tensor
        Of this item alone, without the batch's axis; kept on the CPU.
    keep : sequence of str
        What else of its data the network above still needs.
    """
    kept = {name: item.data[name] for name in keep if name in item.data}
    # A copy of its own: a view would hold on to the whole batch.
    own = hidden.detach().to("cpu", copy=True).contiguous()
    return Item({**kept, "block": block, "hidden": own}, item.length, item.truncated)


def collate_advanced(items: Sequence[Item], width: int | None = None) -> dict[str, Tensor]:
    """The outputs of a block as one batch, in float32 and on the CPU; empty where the items are at the beginning.

    Parameters
    ----------
    items : sequence of Item
        All of them at the same block.
    width : int, optional
        Positions to pad to with zeros; None where all have equally many.
    """
    if "hidden" not in items[0].data:
        return {}
    rows = _rows(items)
    if width is None or all(len(row) == width for row in rows):
        hidden = torch.stack(rows).float()
    else:
        longest = nn.utils.rnn.pad_sequence(rows, batch_first=True).float()
        hidden = nn.functional.pad(longest, (*(0, 0) * (longest.ndim - 2), 0, width - longest.shape[1]))
    return {"hidden": hidden, "block": _block(items)}


def join_advanced(items: Sequence[Item]) -> dict[str, Tensor]:
    """As `collate_advanced`, with all rows end to end and not padded: of shape (sum of lengths, width)."""
    if "hidden" not in items[0].data:
        return {}
    return {"hidden": torch.cat(_rows(items)).float(), "block": _block(items)}


def _rows(items: Sequence[Item]) -> list[Tensor]:
    return [item.data["hidden"] for item in items]


def _block(items: Sequence[Item]) -> Tensor:
    return torch.tensor(items[0].data["block"])
