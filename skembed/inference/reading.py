"""What to read from a backbone. Without torch, so that a warm cache never needs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Reading"]


@dataclass(frozen=True)
class Reading:
    """What to read from a backbone.

    Parameters
    ----------
    layers : tuple of int
        Blocks to read, from 0 to n - 1.
    pooling : str
        One of `skembed.inference.pooling.POOLINGS`.
    options : object
        The backbone's preprocessing options.
    """

    layers: tuple[int, ...]
    pooling: str
    options: Any = None
