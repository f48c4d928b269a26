"""Clips of unequal length in one batch without padding: rows behind one another, attention within each clip."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from skembed.backbones.attention import attend_plainly

__all__ = ["Packing", "attend", "pad_rows"]


class Packing:
    """Where the clips of a batch lie among packed rows, and which of them are computed together.

    On a CPU clips of one length that lie side by side are one group, a view without a copy. On an accelerator, where
    every call costs a launch, all clips are one group, padded with zeros and masked. Neither lets a clip see another.

    Parameters
    ----------
    lengths : sequence of int
        Rows of each clip, in order.
    device : torch.device
        Where the rows lie.
    together : bool, optional
        Whether all clips are one padded group; None decides by the device.
    beside : sequence of int, optional
        Other lengths of the same clips: those that differ in either are no group, so that two packings of the same
        clips have the same groups.

    Attributes
    ----------
    groups : list of (int, int)
        Clips, and rows of the longest of them, of each group.
    masks : list of (Tensor of shape (clips, rows), bool, or None)
        Of each group what is no padding; None where nothing is.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        device: torch.device,
        *,
        together: bool | None = None,
        beside: Sequence[int] | None = None,
    ):
        self.lengths = list(lengths)
        self.groups = [(len(self.lengths), max(self.lengths))]
        self.masks: list[Tensor | None] = [None]
        self._index: Tensor | None = None
        if together is None:
            together = _prefers_one_group(device)
        if not together:
            runs = itertools.groupby(zip(self.lengths, beside or self.lengths, strict=True))
            self.groups = [(sum(1 for _ in run), length) for (length, _), run in runs]
            self.masks = [None] * len(self.groups)
        elif len(set(self.lengths)) > 1:
            mask = _real(self.lengths)
            self._index = mask.flatten().nonzero().squeeze(1).to(device)
            self.masks = [mask.to(device)]

    def split(self, rows: Tensor) -> list[Tensor]:
        """Rows of shape (sum of lengths, ...) as one tensor of shape (clips, longest, ...) a group."""
        if self._index is not None:
            clips, longest = self.groups[0]
            full = rows.new_zeros(clips * longest, *rows.shape[1:]).index_copy(0, self._index, rows)
            return [full.unflatten(0, (clips, longest))]
        parts = rows.split([clips * length for clips, length in self.groups])
        return [part.unflatten(0, group) for part, group in zip(parts, self.groups, strict=True)]

    def join(self, parts: Iterable[Tensor]) -> Tensor:
        """What `split` took apart, without the padding."""
        flat = [part.flatten(0, 1) for part in parts]
        if self._index is not None:
            return flat[0].index_select(0, self._index)
        return flat[0] if len(flat) == 1 else torch.cat(flat)

    def leading(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """The first rows of each clip, packed again."""
        if list(counts) == self.lengths:
            return rows
        return torch.cat([own[:count] for own, count in zip(rows.split(self.lengths), counts, strict=True)])


def pad_rows(rows: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Packed rows as (clips, longest, width), with zeros behind each clip, and the mask of what is real."""
    mask = _real(lengths)
    return Packing(lengths, rows.device, together=True).split(rows)[0], mask.to(rows.device)


def _prefers_one_group(device: torch.device) -> bool:
    return device.type != "cpu"


def _real(lengths: Sequence[int]) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(list(lengths)).unsqueeze(1)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    n_heads: int,
    packing: Packing,
    *,
    queries: Packing | None = None,
    bias: Callable[[Tensor], Tensor] | None = None,
    gate: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention of every clip to itself.

    Parameters
    ----------
    query, key, value : Tensor of shape (rows, width)
        Packed projections.
    n_heads : int
        Heads that share the width.
    packing : Packing
        Of keys and values.
    queries : Packing, optional
        Of the queries, where they are fewer than the keys, with the same clips in each of its groups.
    bias : callable, optional
        Turns the gate of one group, of shape (clips, rows, heads), into what is added to its scores, of shape
        (clips, heads, rows, rows).
    gate : Tensor of shape (rows, heads), optional
        What `bias` is given.
    dropout : float
        Share of attention weights that are dropped.

    Returns
    -------
    Tensor of shape (rows of the queries, width)
    """
    queries = queries or packing
    gates = [None] * len(packing.groups) if gate is None else packing.split(gate)
    parts = []
    for q, k, v, mask, g in zip(
        queries.split(query), packing.split(key), packing.split(value), packing.masks, gates, strict=True
    ):
        q, k, v = (x.unflatten(-1, (n_heads, -1)).transpose(1, 2) for x in (q, k, v))
        added = None if bias is None or g is None else bias(g)
        if mask is not None:
            keys = mask[:, None, None, :]
            added = keys if added is None else added.masked_fill(~keys, torch.finfo(added.dtype).min)
        parts.append(attend_plainly(q, k, v, added=added, dropout=dropout).transpose(1, 2).flatten(2))
    return queries.join(parts)
