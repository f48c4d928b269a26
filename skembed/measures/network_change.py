"""Change of a network by training: of its weights by their norm, of its outputs by linear CKA."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from skembed.backbones.base import Block

__all__ = ["linear_cka", "weight_drift"]


def weight_drift(before: Mapping[str, Any], after: Mapping[str, Any], blocks: Iterable[Block]) -> np.ndarray:
    """Return the norm of the change of each block's weights, divided by their norm before.

    Parameters
    ----------
    before : mapping of str to ndarray
        All weights by name.
    after : mapping of str to ndarray
        Weights that may have changed; others did not.
    blocks : iterable of Block
        Blocks with the names of their weights.

    Returns
    -------
    ndarray of shape (n_blocks,), float64
        Drift of each block; 0 if nothing changed, or if it has no weights.

    Examples
    --------
    >>> from skembed.backbones.base import Block
    >>> before = {"a.weight": [3.0, 4.0], "b.weight": [1.0]}
    >>> weight_drift(before, {"a.weight": [3.0, 5.0]}, [Block("a", ("a",)), Block("b", ("b",))])
    array([0.2, 0. ])
    """
    drifts = []
    for block in blocks:
        names = [name for name in before if block.owns(name)]
        change = sum(_squared(after[name], before[name]) for name in names if name in after)
        # Where nothing moved, the norm is not needed.
        norm = sum(_squared(before[name], 0.0) for name in names) if change else 1.0
        drifts.append(np.sqrt(change / norm) if norm else 0.0)
    return np.array(drifts)


def _squared(values: Any, less: Any) -> float:
    """Return the squared distance."""
    return float(np.square(np.asarray(values, dtype=np.float64) - np.asarray(less, dtype=np.float64)).sum())


def linear_cka(X, Y) -> float:
    """Compute the linear centered kernel alignment of two representations [1]_.

    It is the Hilbert-Schmidt independence criterion of the two linear kernels, normalized by that of each kernel with
    itself. Rotations, reflections and scalings of either representation do not change it; other linear maps do.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        One representation.
    Y : array-like of shape (n_samples, n_other_features)
        The other, of the same samples in the same order.

    Returns
    -------
    float
        From 0 (nothing in common) to 1 (the same up to rotation and scale). NaN if one of them has the same row for all
        samples. With fewer samples than features it is biased upwards.

    Raises
    ------
    ValueError
        If the numbers of samples differ.

    References
    ----------
    .. [1] Kornblith, Norouzi, Lee & Hinton (2019), Similarity of Neural Network Representations Revisited.

    Examples
    --------
    >>> import numpy as np
    >>> from skembed.measures import linear_cka
    >>> X = np.random.default_rng(0).normal(size=(100, 3))
    >>> rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    >>> round(linear_cka(X, 5 * X @ rotation + 1), 6)
    1.0
    """
    a, b = np.asarray(X, dtype=np.float64), np.asarray(Y, dtype=np.float64)
    if len(a) != len(b):
        raise ValueError(f"X has {len(a)} rows and Y has {len(b)}: both must be of the same samples.")
    a, b = a - a.mean(0), b - b.mean(0)
    if len(a) < max(a.shape[1], b.shape[1]):
        # The same sums over pairs of samples, which are fewer than the pairs of features.
        first, second = a @ a.T, b @ b.T
        shared, norms = (first * second).sum(), (np.linalg.norm(first), np.linalg.norm(second))
    else:
        shared, norms = np.square(a.T @ b).sum(), (np.linalg.norm(a.T @ a), np.linalg.norm(b.T @ b))
    return float(shared / (norms[0] * norms[1])) if min(norms) > 0 else float("nan")
