"""Convert tensors and other array objects to NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from skembed.exceptions import DecodeError

__all__ = ["as_array"]


def as_array(sample: Any) -> Any:
    """Return an array object as an ndarray, and anything else unchanged.

    Tensors of torch are detached and copied to the CPU; sparse tensors become dense, and bfloat16, which NumPy does
    not have, becomes float32. Neither changes a value.

    Parameters
    ----------
    sample : object
        Masked arrays, tensors, and objects with ``__array__`` and a shape are converted.

    Raises
    ------
    DecodeError
        If values of a masked array are masked.

    Examples
    --------
    >>> as_array(np.ma.masked_array([1, 2])), as_array("text")
    (array([1, 2]), 'text')
    """
    if isinstance(sample, np.ma.MaskedArray):
        return _unmasked(sample)
    if isinstance(sample, np.ndarray) or hasattr(sample, "getexif"):
        return sample
    if hasattr(sample, "detach") and hasattr(sample, "cpu"):
        return _from_tensor(sample)
    if hasattr(sample, "__array__") and getattr(sample, "shape", None):
        return np.asarray(sample)
    return sample


def _unmasked(array: np.ma.MaskedArray) -> np.ndarray:
    n_masked = int(np.ma.count_masked(array))
    if n_masked:
        raise DecodeError(
            f"{n_masked} of its {array.size} values are masked. Fill them with .filled(value), or leave the sample out."
        )
    return np.asarray(array.data)


def _from_tensor(tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    if str(tensor.layout) != "torch.strided":
        tensor = tensor.to_dense()
    if str(tensor.dtype) == "torch.bfloat16":
        tensor = tensor.float()
    return tensor.cpu().resolve_conj().resolve_neg().numpy()
