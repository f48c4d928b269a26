"""How far weights moved, block by block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from skembed.backbones.base import Block

__all__ = ["weight_drift"]


def weight_drift(before: Mapping[str, Any], after: Mapping[str, Any], blocks: Iterable[Block]) -> np.ndarray:
    """Norm of the change of each block's weights, divided by their norm before.

    Parameters
    ----------
    before : mapping of str to ndarray
        All weights by their names.
    after : mapping of str to ndarray
        Those of them that may have changed.
    blocks : iterable of Block
        Which names belong together.

    Returns
    -------
    ndarray of shape (n_blocks,), float64
        0 for blocks that nothing changed of, or that have no weights.

    Examples
    --------
    >>> from skembed.backbones.base import Block
    >>> before = {"a.weight": [3.0, 4.0], "b.weight": [1.0]}
    >>> weight_drift(before, {"a.weight": [3.0, 5.0]}, [Block("a", ("a",)), Block("b", ("b",))])
    array([0.2, 0. ])
    """
    found = []
    for block in blocks:
        names = [name for name in before if block.owns(name)]
        change = sum(_squared(after[name], before[name]) for name in names if name in after)
        # The norm of what did not move is not asked for.
        norm = sum(_squared(before[name], 0.0) for name in names) if change else 1.0
        found.append(np.sqrt(change / norm) if norm else 0.0)
    return np.array(found)


def _squared(values: Any, less: Any) -> float:
    """Squared distance."""
    return float(np.square(np.asarray(values, dtype=np.float64) - np.asarray(less, dtype=np.float64)).sum())
