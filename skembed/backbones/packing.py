"""Texts of unequal length end to end in one row, so that a batch has no padding to compute.

All of an encoder but its attention looks at one position at a time. A batch is therefore run as a single row of
shape (1, total), and only the attention is told, through transformers' own interface for it, where each text
begins and ends.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from skembed.backbones.adapters import prefixed
from skembed.backbones.base import Tokens
from skembed.backbones.ragged import Ragged

__all__ = [
    "PACKABLE",
    "PackedTokens",
    "Packing",
    "allow_packing",
    "is_packable",
    "pack_inputs",
    "pad_rows",
    "plan_packing",
    "watch_attention",
]

#: The attention's name in transformers' registry.
_NAME = "skembed_packed"
#: Families that can be packed, and whether their positions count from behind the padding index on. Each of them
#: goes through transformers' attention interface, hands unknown keywords down to it, takes `position_ids`, and has
#: absolute positions that are added before the first layer; the tests hold each against a plain loop.
#: Not so the rest, which is run padded: the relative positions of MPNet, DeBERTa and T5 are a bias over whole rows,
#: ModernBERT's window would have to be cut to each text, decoders and CLIP are causal.
_FAMILIES = {
    "bert": False,
    "camembert": True,
    "distilbert": False,
    "electra": False,
    "roberta": True,
    "xlm-roberta": True,
}
PACKABLE = tuple(_FAMILIES)

_watched: ContextVar[tuple[list, ...]] = ContextVar("_watched", default=())


#: Leading bits of a number of tokens that tell one shape from another; see `_round_up`.
_BITS = 6


@dataclass(eq=False)
class Packing:
    """Where the tokens of one padded batch lie once they are put end to end, longest text first.

    Parameters
    ----------
    shape : tuple of (batch, time)
        The padded batch.
    index : Tensor of shape (total,), int64
        Positions of the real tokens in the flattened padded batch.
    order : Tensor of shape (total,), int64
        The same where the batch's texts lie end to end in their own order.
    texts : Ragged
        Where they begin and end, without the filler.
    n_filler : int
        Tokens behind the texts that are computed and dropped.
    """

    shape: tuple[int, int]
    index: Tensor
    order: Tensor
    texts: Ragged
    n_filler: int = 0
    _heeded: bool = field(default=False, init=False)

    def pack(self, values: Tensor) -> Tensor:
        """From (batch, time, ...) to (1, total + n_filler, ...)."""
        return self._filled(values.flatten(0, 1), self.index)

    def arrange(self, rows: Tensor) -> Tensor:
        """The same from (total, ...), the batch's texts end to end."""
        return self._filled(rows, self.order)

    def _filled(self, values: Tensor, index: Tensor) -> Tensor:
        if self.n_filler:
            index = torch.cat([index, index[:1].expand(self.n_filler)])
        return values[index].unsqueeze(0)

    def rows(self, values: Tensor) -> Tensor:
        """What a layer returned, of shape (1, total + n_filler, width), for the real tokens alone: (total, width)."""
        if not self._heeded:
            # The network dropped the keyword on its way down, and all texts have looked at each other.
            raise RuntimeError(
                f"transformers {transformers.__version__} does not hand keywords on to the attention of this network. "
                "Please report it; until then use an older transformers."
            )
        return values[0, : len(self.index)]


class PackedTokens(Tokens):
    """What a block returned for texts that lie end to end. They are padded only for those who ask for `values`.

    Parameters
    ----------
    rows : Tensor of shape (total, width)
        Of the real tokens, in the order of the packing.
    packing : Packing
    mask : Tensor of shape (batch, time), bool
        False at padding, and at tokens that are not to be read.
    pooled : Tensor of shape (batch, width), optional
        The network's own summary.
    """

    def __init__(self, rows: Tensor, packing: Packing, mask: Tensor, pooled: Tensor | None = None):
        self.rows, self.packing, self.mask, self.n_prefix, self.pooled = rows, packing, mask, 0, pooled

    @cached_property
    def values(self) -> Tensor:  # type: ignore[override]
        return pad_rows(self.rows, self.packing.index, self.packing.shape)

    def sum(self) -> Tensor:
        index, (batch, time) = self.packing.index, self.packing.shape
        rows, read = self.rows.float(), self.mask.flatten()[index]
        if not read.all():
            rows = rows * read.unsqueeze(1)
        return rows.new_zeros(batch, rows.shape[1]).index_add(0, index // time, rows)

    def at(self, positions: Tensor) -> Tensor:
        index, (batch, time) = self.packing.index, self.packing.shape
        places = index.new_empty(batch * time).index_copy_(0, index, torch.arange(len(index)))
        return self.rows[places[torch.arange(batch) * time + positions]].float()


def pad_rows(rows: Tensor, index: Tensor, shape: tuple[int, int]) -> Tensor:
    """Rows of texts as a batch of shape (batch, time, width), with zeros where there is padding.

    Parameters
    ----------
    rows : Tensor of shape (total, width)
    index : Tensor of shape (total,), int64
        Position of each in the flattened batch.
    shape : tuple of (batch, time)
    """
    batch, time = shape
    return rows.new_zeros(batch * time, rows.shape[1]).index_copy_(0, index, rows).view(batch, time, -1)


def allow_packing(module: nn.Module) -> None:
    """Let a network be packed, where its family is one that can be.

    It remains usable as before: called without a packing it does what "sdpa" does, masks and gradients included.
    Copies are as the original, and the configuration that it saves does not mention it.
    """
    config: Any = module.config
    plain = config._attn_implementation == "sdpa" and not getattr(config, "is_decoder", False)
    if config.model_type in _FAMILIES and plain:
        module.set_attn_implementation(_NAME)  # type: ignore[operator]


def is_packable(module: nn.Module) -> bool:
    """Whether a network's attention is the one of this module."""
    return getattr(getattr(module, "config", None), "_attn_implementation", None) == _NAME


@contextmanager
def watch_attention():
    """Note which attention modules are called meanwhile, with their numbers of heads and features a head."""
    seen: list[tuple[nn.Module, int, int]] = []
    token = _watched.set((*_watched.get(), seen))
    try:
        yield seen
    finally:
        _watched.reset(token)


def plan_packing(module: nn.Module, mask: Tensor) -> Packing | None:
    """How to pack a batch; None where it is better, or only possible, to run it padded.

    Parameters
    ----------
    module : nn.Module
        The network.
    mask : Tensor of shape (batch, time), bool
        True where a position is real.
    """
    # Whoever changed the attention since would have all texts look at each other. On accelerators nothing was
    # measured, and a kernel for each length is the last thing that they like.
    if not is_packable(module) or mask.device.type != "cpu":
        return None
    # By NumPy, whose operations on so little take half of the time of torch's.
    real = mask.numpy()
    batch, time = real.shape
    lengths = np.count_nonzero(real, axis=1)
    # Without padding there is nothing to gain. Padding on the left or inside, and texts of nothing, are none of
    # collate's; they keep the meaning that transformers gives them.
    if lengths.min() in (0, time) or not np.array_equal(real, np.arange(time) < lengths[:, None]):
        return None
    order = np.argsort(-lengths, kind="stable")
    rows, columns = np.nonzero(real[order])
    rows, total = order[rows], len(rows)
    index, own = rows * time + columns, (lengths.cumsum() - lengths)[rows] + columns
    texts = Ragged(lengths[order].tolist())
    return Packing(
        (batch, time), torch.from_numpy(index), torch.from_numpy(own), texts, n_filler=_round_up(total) - total
    )


def _round_up(total: int) -> int:
    """The next of 32 numbers of tokens between a power of two and the next: at most 3 % more.

    oneDNN makes and keeps a kernel for each shape that it meets. With every sum of lengths a shape of its own, it made
    new ones in nearly every batch, and memory grew by tens of kilobytes each time.
    """
    step = 1 << max(0, total.bit_length() - _BITS)
    return -(-total // step) * step


def pack_inputs(module: nn.Module, ids: Tensor, packing: Packing, *, entered: bool = False) -> dict[str, Any]:
    """What the network is called with, in place of padded ids and their mask.

    Parameters
    ----------
    module : nn.Module
        The network.
    ids : Tensor of shape (batch, time), int64
        Padded tokens.
    packing : Packing
        Of this batch.
    entered : bool, default=False
        Whether the network is entered behind a block: what it computes below its layers, it then does of one token.
    """
    if entered:
        token = ids[:1, :1]
        return {"input_ids": token, "position_ids": torch.zeros_like(token), "packing": packing}
    config: Any = module.config
    if _FAMILIES[config.model_type]:
        # As these networks count for themselves: a padding token that was written in a text has no number.
        counted = ids != config.pad_token_id
        positions = counted.cumsum(1) * counted + config.pad_token_id
    else:
        positions = torch.arange(ids.shape[1]).expand_as(ids)
    return {"input_ids": packing.pack(ids), "position_ids": packing.pack(positions), "packing": packing}


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: Packing | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of each text to itself, over queries, keys and values of shape (1, heads, total, head width)."""
    for seen in _watched.get():
        seen.append((module, query.shape[1], query.shape[3]))
    if packing is None:
        attended, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return prefixed(module, query, attended, scaling), None
    packing._heeded = True
    # Not by an index, whose gradient is a copy into zeros.
    rows = [states.squeeze(0).transpose(0, 1) for states in (query, key, value)]
    attended = packing.texts.attend(*rows, p_dropout=dropout, scale=scaling)
    return prefixed(module, query, attended.unsqueeze(0), scaling), None


AttentionInterface.register(_NAME, _attend)
# Without a mask function of that name, transformers would drop the mask of padded calls.
AttentionMaskInterface.register(_NAME, sdpa_mask)
