"""Samples of a batch mixed with one another, and their targets with them."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

__all__ = ["cutmix", "mixup"]


def mixup(inputs: Tensor, targets: Tensor, rng: np.random.Generator, alpha: float = 0.2) -> tuple[Tensor, Tensor]:
    """Average every sample with another one of the batch, and their targets in the same proportion [1]_.

    Parameters
    ----------
    inputs : Tensor of shape (batch, ...), floating
        Pixels, or features of any kind. Not written to.
    targets : Tensor of shape (batch, n_classes) or (batch,), floating
        Soft targets, one-hot at first; or the numbers of a regression.
    rng : numpy.random.Generator
        The only source of chance.
    alpha : float, default=0.2
        The share of the first sample is drawn from Beta(alpha, alpha), once for the batch: 0 changes nothing, small
        values leave one of the two nearly alone, 1 makes all shares equally likely.

    Returns
    -------
    inputs, targets : Tensor
        Of the same shapes, types and devices.

    References
    ----------
    .. [1] Zhang et al. (2018), mixup: Beyond Empirical Risk Minimization.

    Examples
    --------
    >>> import numpy as np, torch
    >>> inputs, targets = mixup(torch.eye(3), torch.eye(3), np.random.default_rng(0), alpha=1.0)
    >>> targets.sum(dim=1)
    tensor([1., 1., 1.])
    """
    _check(inputs, targets, alpha, "mixup")
    if not alpha:
        return inputs, targets
    share, other = float(rng.beta(alpha, alpha)), rng.permutation(len(inputs)).tolist()
    return _blend(inputs, other, share), _blend(targets, other, share)


def cutmix(inputs: Tensor, targets: Tensor, rng: np.random.Generator, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
    """Paste a rectangle of another image of the batch into every image; targets are mixed by the areas [1]_.

    Parameters
    ----------
    inputs : Tensor of shape (batch, channels, height, width), floating
        Images. Not written to.
    targets : Tensor of shape (batch, n_classes) or (batch,), floating
        Soft targets, one-hot at first; or the numbers of a regression.
    rng : numpy.random.Generator
        The only source of chance.
    alpha : float, default=1.0
        The share of the area that stays is drawn from Beta(alpha, alpha), once for the batch; 0 changes nothing.

    Returns
    -------
    inputs, targets : Tensor
        Of the same shapes, types and devices. The rectangle's centre may lie anywhere, so that part of it may lie
        outside: targets are mixed by what is inside.

    References
    ----------
    .. [1] Yun et al. (2019), CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features.

    Examples
    --------
    >>> import numpy as np, torch
    >>> images = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    >>> mixed, targets = cutmix(images, torch.tensor([0.0, 1.0]), np.random.default_rng(3))
    >>> bool((mixed.mean(dim=(1, 2, 3)) == targets).all())
    True
    """
    _check(inputs, targets, alpha, "cutmix")
    if inputs.ndim != 4:
        raise ValueError(
            f"cutmix: inputs of shape {tuple(inputs.shape)} are no images. Use (batch, channels, height, width), or "
            "mixup."
        )
    if not alpha:
        return inputs, targets
    height, width = inputs.shape[2:]
    share, other = float(rng.beta(alpha, alpha)), rng.permutation(len(inputs)).tolist()
    rows, columns = _cut(height, share, rng), _cut(width, share, rng)
    mixed = inputs.clone()
    mixed[:, :, rows, columns] = inputs[other, :, rows, columns]
    pasted = (rows.stop - rows.start) * (columns.stop - columns.start)
    return mixed, _blend(targets, other, 1 - pasted / (height * width))


def _cut(length: int, share: float, rng: np.random.Generator) -> slice:
    """One side of a rectangle of the area 1 - share, about a centre anywhere; what is outside is clipped."""
    half = length * math.sqrt(1 - share) / 2
    centre = rng.uniform(0, length)
    return slice(round(max(0.0, centre - half)), round(min(length, centre + half)))


def _blend(values: Tensor, other: list[int], share: float) -> Tensor:
    return share * values + (1 - share) * values[other]


def _check(inputs: Tensor, targets: Tensor, alpha: float, name: str) -> None:
    if not isinstance(alpha, Real) or not 0 <= alpha < math.inf:
        raise ValueError(f"{name}: alpha={alpha!r} is out of range. Use 0 or more.")
    if not inputs.is_floating_point():
        raise ValueError(f"{name}: inputs are {inputs.dtype}, which cannot be mixed. Use floats, or mix features.")
    if not targets.is_floating_point():
        raise ValueError(
            f"{name}: targets are {targets.dtype}. Use soft targets, such as "
            "torch.nn.functional.one_hot(labels, n_classes).float()."
        )
    if len(inputs) != len(targets):
        raise ValueError(f"{name}: {len(inputs)} inputs and {len(targets)} targets. Give one target for each input.")
