"""Attention of texts that lie end to end, each to itself.

Texts of about one length are attended to together, as one padded bucket, by torch's own attention. The buckets have few
shapes: oneDNN makes and keeps a kernel for each shape that it meets in bfloat16, so that with a shape for each length
memory grew with every batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from skembed.backbones.attention import attend_plainly

__all__ = ["Ragged"]

#: Bytes of queries attended to at a time. Half or twice as many change no more than a few percent.
_BYTES = 1536 * 2**10
#: The length of a bucket is a multiple of the first up to the second, then of the third.
_STEP, _SHORT, _LONG_STEP = 8, 32, 16


@dataclass(frozen=True, eq=False)
class _Bucket:
    """Neighboring texts as one padded batch.

    Parameters
    ----------
    shape : tuple of (count, length)
        Shape of the padded batch. Its last texts may be there to fill it up.
    source : Tensor of shape (count x length,), int64
        The token at each position; at padding one of the same text.
    wanted : Tensor of shape (tokens,), int64
        The positions of the texts' own tokens.
    seen : Tensor of shape (count, 1, 1, length), bool, or None
        True where a key is not padding; None without padding.
    """

    shape: tuple[int, int]
    source: Tensor
    wanted: Tensor
    seen: Tensor | None

    def pick(self, rows: Tensor) -> Tensor:
        """Rows of all texts as this batch, of shape (count, heads, length, head width)."""
        return rows.index_select(0, self.source).unflatten(0, self.shape).transpose(1, 2)

    def put(self, attended: Tensor) -> Tensor:
        """The texts' own rows of such a batch, end to end."""
        return attended.transpose(1, 2).flatten(0, 1).index_select(0, self.wanted)


class Ragged:
    """Texts of unequal length that lie end to end.

    Parameters
    ----------
    lengths : sequence of int
        Tokens of each text, in their order. Neighbours of about one length are attended to together, so sort them.
    """

    def __init__(self, lengths: Sequence[int]):
        self.lengths = tuple(lengths)
        #: By bytes of a row: all layers of a network have the same.
        self._buckets: dict[int, list[_Bucket]] = {}

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, *, p_dropout: float = 0.0, scale: float | None = None
    ) -> Tensor:
        """Attention as torch's `scaled_dot_product_attention` computes it, over one text at a time.

        Parameters
        ----------
        query, key, value : Tensor of shape (tokens, heads, head width)
            There may be rows behind those of the texts. They are nobody's, and come back as zeros.
        p_dropout : float
            Share of attention weights that are dropped.
        scale : float, optional
            What the scores are multiplied by; None is the inverse root of the head width.

        Returns
        -------
        Tensor of shape (tokens, heads, head width)
        """
        kind = query.shape[1] * query.shape[2] * query.element_size()
        if kind not in self._buckets:
            self._buckets[kind] = list(_make_buckets(self.lengths, kind))
        parts = []
        for bucket in self._buckets[kind]:
            q, k, v = (bucket.pick(rows) for rows in (query, key, value))
            parts.append(bucket.put(attend_plainly(q, k, v, added=bucket.seen, dropout=p_dropout, scale=scale)))
        n_more = len(query) - sum(self.lengths)
        return torch.cat([*parts, value.new_zeros(n_more, *value.shape[1:])] if n_more else parts)


def _make_buckets(lengths: Sequence[int], row_bytes: int) -> Iterator[_Bucket]:
    """Neighbors whose lengths round to the same, as many as are attended to at a time."""
    start = 0
    for rounded, group in groupby(lengths, _round_length):
        texts = list(group)
        step = max(1, _BYTES // (row_bytes * rounded))
        for first in range(0, len(texts), step):
            chunk = texts[first : first + step]
            yield _make_bucket(chunk, rounded, start)
            start += sum(chunk)


def _make_bucket(lengths: Sequence[int], rounded: int, start: int) -> _Bucket:
    """Texts of these lengths, the first from token `start` on, padded to one length and to a usual number of texts."""
    own = np.array(lengths)
    count = _round_count(len(own))
    # The last text stands in for those that are missing.
    texts = np.minimum(np.arange(count), len(own) - 1)
    starts, lasts = (start + own.cumsum() - own)[texts, None], own[texts, None] - 1
    positions = np.arange(rounded)
    seen = positions <= lasts
    return _Bucket(
        (count, rounded),
        torch.from_numpy((starts + np.minimum(positions, lasts)).ravel()),
        torch.from_numpy(np.flatnonzero(seen[: len(own)])),
        None if seen.all() else torch.from_numpy(seen[:, None, None]),
    )


def _round_length(length: int) -> int:
    step = _STEP if length <= _SHORT else _LONG_STEP
    return -(-length // step) * step


def _round_count(count: int) -> int:
    """The next of two numbers in each octave: 1, 2, 3, 4, 6, 8, 12, 16, ..."""
    step = 1 << max(0, (count - 1).bit_length() - 2)
    return -(-count // step) * step
