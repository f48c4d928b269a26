"""Detection of rows with NaN or infinite numbers, as from overflow in half precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from skembed.exceptions import NonFiniteRowError

__all__ = ["find_nonfinite"]

_REMEDIES = {
    torch.float16: 'the network overflowed in float16. Use precision="bfloat16" or precision="float32".',
    torch.bfloat16: 'the network returned NaN or infinite numbers in bfloat16. Use precision="float32".',
    torch.float32: (
        "the network returned NaN or infinite numbers in float32. Check its weights, and whether this sample has "
        "extreme values."
    ),
}


def find_nonfinite(rows: np.ndarray, positions: Sequence[int], dtype: torch.dtype) -> list[NonFiniteRowError]:
    """Return an error for each row that contains NaN or infinite numbers.

    Parameters
    ----------
    rows : ndarray of shape (n_samples, n_features)
        Embeddings.
    positions : sequence of int
        Index of each row's sample in X.
    dtype : torch.dtype
        Precision of the network.

    Examples
    --------
    >>> rows = np.array([[0.0, 1.0], [np.inf, 1.0]])
    >>> [error.index for error in find_nonfinite(rows, [4, 7], torch.float16)]
    [7]
    """
    message = _REMEDIES.get(dtype, _REMEDIES[torch.float32])
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1)).tolist()
    return [NonFiniteRowError(message, index=index) for index in sorted(int(positions[i]) for i in bad)]
