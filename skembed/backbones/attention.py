"""Packed texts in transformers' networks: supported families, arguments, attention.

Only the attention looks at more than one position. It is told, through transformers' own interface for it, where each
text begins and ends.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from skembed.backbones.adapters import prefixed
from skembed.backbones.packing import Packed, attend

__all__ = [
    "PACKABLE",
    "allow_packing",
    "is_packable",
    "pack_inputs",
    "plan_packing",
    "read_packed",
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


def allow_packing(module: nn.Module) -> None:
    """Enable packing in a network if its family supports it.

    It remains usable as before: called without a packing it does what "sdpa" does, masks and gradients included.
    Copies are as the original, and the configuration that it saves does not mention it.
    """
    config: Any = module.config
    plain = config._attn_implementation == "sdpa" and not getattr(config, "is_decoder", False)
    if config.model_type in _FAMILIES and plain:
        module.set_attn_implementation(_NAME)  # type: ignore[operator]


def is_packable(module: nn.Module) -> bool:
    """Return True if a network uses the attention of this module."""
    return getattr(getattr(module, "config", None), "_attn_implementation", None) == _NAME


@contextmanager
def watch_attention():
    """Record the attention modules that run, with their heads and features per head."""
    seen: list[tuple[nn.Module, int, int]] = []
    token = _watched.set((*_watched.get(), seen))
    try:
        yield seen
    finally:
        _watched.reset(token)


def plan_packing(module: nn.Module, mask: Tensor) -> Packed | None:
    """Plan the packing of a batch; None if it has to run, or runs faster, with padding.

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
    time = real.shape[1]
    lengths = np.count_nonzero(real, axis=1)
    # Without padding there is nothing to gain. Padding on the left, inside or behind all texts, and texts of nothing,
    # are none of collate's; they keep the meaning that transformers gives them.
    if lengths.min() in (0, time) or lengths.max() < time:
        return None
    if not np.array_equal(real, np.arange(time) < lengths[:, None]):
        return None
    total = int(lengths.sum())
    return Packed(lengths.tolist(), n_filler=_round_up(total) - total)


def _round_up(total: int) -> int:
    """Round a number of tokens up to one of 32 steps per power of two, at most 3 % more.

    oneDNN makes and keeps a kernel for each shape that it meets. With every sum of lengths a shape of its own, it made
    new ones in nearly every batch, and memory grew by tens of kilobytes each time.
    """
    step = 1 << max(0, total.bit_length() - _BITS)
    return -(-total // step) * step


def pack_inputs(module: nn.Module, ids: Tensor, packed: Packed, *, entered: bool = False) -> dict[str, Any]:
    """Return the arguments of the network that replace padded ids and their mask.

    Parameters
    ----------
    module : nn.Module
        The network.
    ids : Tensor of shape (batch, time), int64
        Padded tokens.
    packed : Packed
        The texts of this batch.
    entered : bool, default=False
        True if the network is entered behind a block. It then computes its lower part of one token only.
    """
    if entered:
        token = ids[:1, :1]
        return {"input_ids": token, "position_ids": torch.zeros_like(token), "packing": packed}
    config: Any = module.config
    if _FAMILIES[config.model_type]:
        # As these networks count for themselves: a padding token that was written in a text has no number.
        counted = ids != config.pad_token_id
        positions = counted.cumsum(1) * counted + config.pad_token_id
    else:
        positions = torch.arange(ids.shape[1]).expand_as(ids)
    rows, positions = (packed.fill(packed.unpad(padded)).unsqueeze(0) for padded in (ids, positions))
    return {"input_ids": rows, "position_ids": positions, "packing": packed}


def read_packed(output: Tensor, packed: Packed) -> Tensor:
    """Return the rows of texts, without the filler, of an output of shape (1, n_rows, width).

    Raises
    ------
    RuntimeError
        If the network's attention was not told where texts begin and end.
    """
    if not packed.attended:
        # The network dropped the keyword on its way down, and all texts have looked at each other.
        raise RuntimeError(
            f"transformers {transformers.__version__} does not hand keywords on to the attention of this network. "
            "Please report it; until then use an older transformers."
        )
    return output[0, : sum(packed.lengths)]


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: Packed | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute the attention of each packed text to itself.

    Queries, keys and values have shape (1, heads, total, head width).
    """
    for seen in _watched.get():
        seen.append((module, query.shape[1], query.shape[3]))
    if packing is None:
        attended, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return prefixed(module, query, attended, scaling), None
    packing.attended = True
    # Not by an index, whose gradient is a copy into zeros.
    q, k, v = (states.squeeze(0).transpose(0, 1) for states in (query, key, value))
    attended = attend(q, k, v, packing, dropout=dropout, scale=scaling)
    return prefixed(module, query, attended.unsqueeze(0), scaling), None


AttentionInterface.register(_NAME, _attend)
# Without a mask function of that name, transformers would drop the mask of padded calls.
AttentionMaskInterface.register(_NAME, sdpa_mask)
