"""Layers, pooling and options of a readout, without torch, which a warm cache never needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Reading"]


@dataclass(frozen=True)
class Reading:
    """Layers, pooling and preprocessing options with which a backbone is read.

    Parameters
    ----------
    layers : tuple of int
        Blocks to read, from 0 to n - 1.
    pooling : str
        One of `skembed.backbones.spec.POOLINGS`.
    options : object
        The backbone's preprocessing options.
    """

    layers: tuple[int, ...]
    pooling: str
    options: Any = None
