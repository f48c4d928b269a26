"""Sequences of unequal length stored end to end, so that no padding is computed.

All of an encoder but its attention looks at one position at a time. A batch of texts or clips is therefore run as one
row of positions, `Packed` says where each sequence begins and ends, and `attend` lets each see itself alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from skembed.backbones.base import Tokens
from skembed.utils.device import cpu_features

__all__ = ["Packed", "PackedTokens", "attend"]

_CPU = torch.device("cpu")
#: Most positions of a padded group: the queries of MiniLM, 384 wide in float32, then take 1.5 MB. Half or twice as many
#: change no more than a few percent.
_GROUP_ROWS = 1024
#: Keys up to which products are faster in every precision: 0.93 of the time of MiniLM over short texts.
_SHORT = 32
#: Keys from which on torch's fused attention is faster than products in float32; with fewer, bfloat16 never goes
#: through it. Sequences of this length are not padded to a common one either.
_FUSED_FROM = 160
#: Attention scores computed at a time by products (elements): what two cores' caches hold in bfloat16.
_SCORES = 4_500_000


class _Group(NamedTuple):
    """Sequences that are attended to together, as one padded batch.

    Parameters
    ----------
    shape : tuple of (count, time)
        Shape of the padded batch. Its last sequences may be there to fill it up.
    source : Tensor of shape (count x time,), int64, or slice
        The row at each position, at padding one of the same sequence; a slice where rows need no copy.
    mask : Tensor of shape (count, time), bool, or None
        True where a position is not padding; None without padding.
    rows : ndarray of shape (count x time,), int64
        The row at each position, and -1 where it is that of padding.
    """

    shape: tuple[int, int]
    source: Tensor | slice
    mask: Tensor | None
    rows: np.ndarray

    def take(self, rows: Tensor) -> Tensor:
        """Return rows of shape (n_rows, ...) as this group, of shape (count, time, ...)."""
        found = rows[self.source] if isinstance(self.source, slice) else rows.index_select(0, self.source)
        return found.unflatten(0, self.shape)


class Packed:
    """Places of sequences that are stored end to end in rows of shape (n_rows, ...).

    On a CPU short sequences of about one length are attended to together, as a padded group, and long ones with those
    of exactly their length. On an accelerator, where every call costs a launch, all are one group. A sequence sees no
    other and no padding either way.

    Parameters
    ----------
    lengths : sequence of int
        Rows of each sequence, in order.
    device : torch.device
        Device of the rows.
    exact : bool
        True if short sequences, too, share a group with those of exactly their length only. Clips, of which there are
        few in a batch, would otherwise spend 0.1 to 0.2 of their attention time on padding.
    n_filler : int
        Rows behind the sequences that are computed and dropped.
    like : Packed, optional
        Has the same sequences, and other lengths of them: groups are the same. None groups them by their lengths.

    Attributes
    ----------
    together : bool
        True if all sequences are one group, whatever their lengths.
    attended : bool
        True if a network's attention was seen to use this object; set from outside.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        device: torch.device = _CPU,
        *,
        exact: bool = False,
        n_filler: int = 0,
        like: Packed | None = None,
    ):
        self.lengths = tuple(lengths)
        self.device, self.n_filler = device, n_filler
        self.together = _prefers_one_group(device)
        self.attended = False
        alike = self.together or len(set(self.lengths)) == 1
        self._rounded = not (alike or exact)
        padded = [_round_length(length) if self._rounded else length for length in self.lengths]
        self._members = [list(range(len(self.lengths)))] if alike else list(_group_by_length(self.lengths, padded))
        if like is not None:
            self._rounded, self._members = like._rounded, like._members

    @cached_property
    def offsets(self) -> Tensor:
        """The first row of each sequence, of shape (batch,)."""
        return torch.from_numpy(_starts(self.lengths)).to(self.device)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of sequences, and rows of the longest: (batch, time)."""
        return len(self.lengths), max(self.lengths)

    @cached_property
    def mask(self) -> Tensor:
        """Mask of the rows among padded sequences, of shape (batch, time), bool."""
        return (torch.arange(self.shape[1]) < torch.tensor(self.lengths).unsqueeze(1)).to(self.device)

    @cached_property
    def index(self) -> Tensor:
        """Position of each row among those of the flattened padded batch, of shape (n_rows,)."""
        return self.mask.flatten().nonzero().squeeze(1)

    def pad(self, rows: Tensor) -> Tensor:
        """Return rows as a batch of shape (batch, time, ...), with zeros behind each sequence."""
        batch, time = self.shape
        padded = rows.new_zeros(batch * time, *rows.shape[1:]).index_copy(0, self.index, rows)
        return padded.unflatten(0, (batch, time))

    def unpad(self, padded: Tensor) -> Tensor:
        """Return the rows of a batch of shape (batch, time, ...), without those of the filler."""
        return padded.flatten(0, 1).index_select(0, self.index)

    def fill(self, rows: Tensor) -> Tensor:
        """Return rows with those of the filler, which repeat the first."""
        return torch.cat([rows, rows[:1].expand(self.n_filler, *rows.shape[1:])]) if self.n_filler else rows

    def first(self, counts: Sequence[int]) -> Packed:
        """Return the places of the first rows of each sequence, for fewer queries than keys."""
        return Packed(counts, self.device, like=self)

    def take_first(self, rows: Tensor, counts: Sequence[int]) -> Tensor:
        """Return the first rows of each sequence, end to end."""
        if tuple(counts) == self.lengths:
            return rows
        return torch.cat([own[:count] for own, count in zip(rows.split(self.lengths), counts, strict=True)])

    @cached_property
    def groups(self) -> list[_Group]:
        """The sequences that are attended to together."""
        return [self._make_group(members) for members in self._members]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the rows of groups of shape (count, time, ...) without padding.

        Rows of the filler are zeros.
        """
        rows = torch.cat([part.flatten(0, 1) for part in parts]) if len(parts) > 1 else parts[0].flatten(0, 1)
        if self._places is not None:
            rows = rows.index_select(0, self._places)
        return torch.cat([rows, rows.new_zeros(self.n_filler, *rows.shape[1:])]) if self.n_filler else rows

    def _make_group(self, members: list[int]) -> _Group:
        lengths = np.array(self.lengths)[members]
        count, time = len(members), int(lengths.max())
        if self._rounded:
            count, time = _round_count(count), _round_length(time)
        # The last sequence stands in for those that are missing.
        stand_in = np.minimum(np.arange(count), len(members) - 1)
        starts, lasts = _starts(self.lengths)[members][stand_in, None], lengths[stand_in, None] - 1
        positions = np.arange(time)
        source, real = starts + np.minimum(positions, lasts), positions <= lasts
        rows = np.where(real & (np.arange(count) < len(members))[:, None], source, -1).ravel()
        return _Group(
            (count, time),
            slice(rows[0], rows[-1] + 1) if _is_run(rows) else torch.from_numpy(source.ravel()).to(self.device),
            None if real.all() else torch.from_numpy(real).to(self.device),
            rows,
        )

    @cached_property
    def _places(self) -> Tensor | None:
        """Position of each row among those of all groups; None if they are the same."""
        rows = np.concatenate([group.rows for group in self.groups])
        if _is_run(rows):
            return None
        places = np.empty(sum(self.lengths), dtype=np.int64)
        positions = np.flatnonzero(rows >= 0)
        places[rows[positions]] = positions
        return torch.from_numpy(places).to(self.device)


def _starts(lengths: Sequence[int]) -> np.ndarray:
    own = np.array(lengths, dtype=np.int64)
    return own.cumsum() - own


def _is_run(rows: np.ndarray) -> bool:
    """Return True if rows follow one another, without any at padding."""
    return bool(rows[0] >= 0 and np.array_equal(rows, np.arange(rows[0], rows[0] + len(rows))))


def _prefers_one_group(device: torch.device) -> bool:
    return device.type != "cpu"


def _group_by_length(lengths: Sequence[int], padded: Sequence[int]) -> Iterator[list[int]]:
    """Yield sequences to pad to the same length, longest first, a limited number at a time."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for length, group in groupby(order, lambda i: padded[i]):
        members, step = list(group), max(1, _GROUP_ROWS // length)
        yield from (members[i : i + step] for i in range(0, len(members), step))


def _round_length(length: int) -> int:
    """Return a multiple of 8 up to 32 and of 16 beyond, and long sequences as they are.

    oneDNN makes and keeps a kernel for each shape that it meets in bfloat16. With a shape for each length, and for
    each number of sequences, memory grew with every batch.
    """
    if length >= _FUSED_FROM:
        return length
    step = 8 if length <= 32 else 16
    return -(-length // step) * step


def _round_count(count: int) -> int:
    """Return the next of two numbers in each octave: 1, 2, 3, 4, 6, 8, 12, 16, ..."""
    step = 1 << max(0, (count - 1).bit_length() - 2)
    return -(-count // step) * step


class PackedTokens(Tokens):
    """Output of a block for sequences end to end, which is padded only if `values` is used.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, width)
        Without those of the filler.
    packed : Packed
        Places of the sequences.
    mask : Tensor of shape (batch, time), bool
        False at padding, and at positions that are not to be read.
    pooled : Tensor of shape (batch, width), optional
        The network's own summary.
    """

    def __init__(self, rows: Tensor, packed: Packed, mask: Tensor, pooled: Tensor | None = None):
        self.rows, self.packed, self.mask, self.n_prefix, self.pooled = rows, packed, mask, 0, pooled

    @cached_property
    def values(self) -> Tensor:  # type: ignore[override]
        return self.packed.pad(self.rows)

    def sum(self) -> Tensor:
        index, (batch, time) = self.packed.index, self.packed.shape
        rows, read = self.rows.float(), self.mask.flatten()[index]
        if not read.all():
            rows = rows * read.unsqueeze(1)
        return rows.new_zeros(batch, rows.shape[1]).index_add(0, index // time, rows)

    def at(self, positions: Tensor) -> Tensor:
        return self.rows[self.packed.offsets + positions].float()


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packed: Packed,
    *,
    queries: Packed | None = None,
    bias: Callable[[Tensor], Tensor] | None = None,
    gate: Tensor | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
) -> Tensor:
    """Compute the attention of every sequence to itself.

    Parameters
    ----------
    query, key, value : Tensor of shape (n_rows, heads, head width)
        Projections of sequences end to end.
    packed : Packed
        Places of the sequences of keys and values.
    queries : Packed, optional
        The same of the queries, where they are fewer than the keys: what ``packed.first`` returns.
    bias : callable, optional
        Turns the gate of one group, of shape (count, time, heads), into what is added to its scores, of shape
        (count, heads, time, time).
    gate : Tensor of shape (n_rows, heads), optional
        Argument of `bias`.
    dropout : float
        Share of attention weights that are dropped.
    scale : float, optional
        Factor of the scores; None is the inverse root of the head width.

    Returns
    -------
    Tensor of shape (n_rows, heads, head width)
        As many rows as there are queries; those of the filler are zeros.
    """
    queries = queries or packed
    parts = []
    for group, asking in zip(packed.groups, queries.groups, strict=True):
        q, k, v = asking.take(query), group.take(key), group.take(value)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        added = None if bias is None or gate is None else bias(group.take(gate))
        if group.mask is not None:
            seen = group.mask[:, None, None]
            added = seen if added is None else added.masked_fill(~seen, torch.finfo(added.dtype).min)
        parts.append(_attend_padded(q, k, v, added, dropout, scale).transpose(1, 2))
    return queries.join(parts)


def _attend_padded(
    query: Tensor, key: Tensor, value: Tensor, added: Tensor | None, dropout: float, scale: float | None
) -> Tensor:
    """Compute attention of shape (batch, heads, time, width) in the faster way.

    `added` is added to the scores; as bool, of shape (batch, 1, 1, keys), it tells the keys that are seen.
    """
    if (added is None or added.dtype == torch.bool) and not dropout and _prefers_products(query, key, value):
        return _attend_by_products(query, key, value, added, query.shape[-1] ** -0.5 if scale is None else scale)
    return scaled_dot_product_attention(query, key, value, attn_mask=added, dropout_p=dropout, scale=scale)


def _prefers_products(query: Tensor, key: Tensor, value: Tensor) -> bool:
    if query.device.type != "cpu" or (torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))):
        return False
    n_keys = key.shape[2]
    if n_keys <= _SHORT:
        return True
    return query.dtype == torch.bfloat16 and (n_keys < _FUSED_FROM or not _has_matrix_units())


@functools.cache
def _has_matrix_units() -> bool:
    """Return True if torch's fused attention has bfloat16 kernels here, as with AMX."""
    return bool(cpu_features().get("amx_tile", True))


def _attend_by_products(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None, scale: float) -> Tensor:
    """Compute attention as two products and a softmax, some queries of all heads at a time.

    Without AMX torch's fused attention multiplies bfloat16 no faster than float32; plain products do. Measured on an
    EPYC with AVX512-BF16: 14 ms against 24 with 6 heads of 64 over 1500 keys.

    Scores are rounded to bfloat16, which suits the small ones of speech encoders: with a standard deviation of 1 the
    error of a row is 0.004 of its length (torch's 0.002), with 10 it is 0.012. Vision transformers, whose scores can be
    as large, would gain 10 % by it, or 5 % with scores in float32, and keep torch's.
    """
    batch, heads, n_queries, size = query.shape
    n_keys = key.shape[2]
    # Contiguous once, where the products would copy strided heads at every step.
    query, key, value = (x.flatten(0, 1).contiguous() for x in (query * scale, key, value))
    key = key.transpose(1, 2)
    unseen = None
    if seen is not None:
        unseen = query.new_zeros(batch, heads, 1, n_keys).masked_fill_(~seen, -torch.inf).flatten(0, 1)
    step = max(1, _SCORES // (batch * heads * n_keys))
    # One buffer for all: fresh memory of this size costs more in page faults than the products do.
    buffer = query.new_empty(batch * heads * min(step, n_queries) * n_keys)
    out = query.new_empty(batch, n_queries, heads, size)
    for start in range(0, n_queries, step):
        part = query[:, start : start + step]
        scores = buffer[: part.shape[0] * part.shape[1] * n_keys].view(part.shape[0], part.shape[1], n_keys)
        if unseen is None:
            torch.bmm(part, key, out=scores)
        else:
            torch.baddbmm(unseen, part, key, out=scores)
        torch.softmax(scores, -1, out=scores)
        out[:, start : start + step] = torch.bmm(scores, value).unflatten(0, (batch, heads)).transpose(1, 2)
    return out.transpose(1, 2)
