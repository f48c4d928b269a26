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
        change = norm = 0.0
        for name in (name for name in before if block.owns(name)):
            old = np.asarray(before[name], dtype=np.float64)
            norm += float((old**2).sum())
            if name in after:
                change += float(((np.asarray(after[name], dtype=np.float64) - old) ** 2).sum())
        found.append(np.sqrt(change / norm) if norm else 0.0)
    return np.array(found)
