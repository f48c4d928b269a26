"""How alike two representations of the same samples are."""

from __future__ import annotations

import numpy as np

__all__ = ["linear_cka"]


def linear_cka(X, Y) -> float:
    """Linear centred kernel alignment of two representations of the same samples [1]_.

    The Hilbert-Schmidt independence criterion of the two linear kernels, divided by what each has with itself. It stays
    the same under rotations, reflections and scalings of either, and changes under other linear maps.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        One representation.
    Y : array-like of shape (n_samples, n_other_features)
        The other, of the same samples in the same order.

    Returns
    -------
    float
        From 0 (nothing in common) to 1 (the same up to a rotation and a scale); NaN where one of them has the same
        row for all samples, so that there is nothing to compare. With fewer samples than features it is biased
        upwards.

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
        shared, own, other = (first * second).sum(), np.linalg.norm(first), np.linalg.norm(second)
    else:
        shared, own, other = np.square(a.T @ b).sum(), np.linalg.norm(a.T @ a), np.linalg.norm(b.T @ b)
    return float(shared / (own * other)) if own > 0 and other > 0 else float("nan")
