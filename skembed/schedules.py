"""Schedules: factors of the learning rate as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable

__all__ = ["SCHEDULES", "constant", "cosine", "one_cycle", "slanted_triangular"]


def constant(step: int, *, total: int) -> float:
    """Return factor 1 at every step."""
    return 1.0


def slanted_triangular(step: int, *, total: int, peak: float = 0.1, ratio: float = 32) -> float:
    """Return a factor that rises linearly for a short time and then falls linearly [1]_.

    Parameters
    ----------
    step : int
        Step, from 0 to ``total - 1``.
    total : int
        Number of steps of the run.
    peak : float, default=0.1
        Part of the run after which the factor is 1.
    ratio : float, default=32
        Ratio of the highest to the lowest factor.

    Returns
    -------
    float
        Factor in (0, 1].

    References
    ----------
    .. [1] Howard & Ruder (2018), Universal Language Model Fine-tuning for Text Classification, equation 3.

    Examples
    --------
    >>> [round(slanted_triangular(step, total=10), 2) for step in (0, 1, 5, 9)]
    [0.03, 1.0, 0.57, 0.14]
    """
    cut = max(1, math.floor(total * peak))
    share = step / cut if step < cut else 1 - (step - cut) / max(1, total - cut)
    return (1 + max(0.0, share) * (ratio - 1)) / ratio


def cosine(step: int, *, total: int, warmup: float = 0.1, floor: float = 0.0) -> float:
    """Return a factor with a linear warm-up, then half a cosine down to `floor` [1]_.

    Parameters
    ----------
    step, total : int
        See `slanted_triangular`.
    warmup : float, default=0.1
        Part of the run in which the factor rises to 1.
    floor : float, default=0
        Last factor.

    References
    ----------
    .. [1] Loshchilov & Hutter (2017), SGDR: Stochastic Gradient Descent with Warm Restarts, equation 5.

    Examples
    --------
    >>> [round(cosine(step, total=20), 2) for step in (0, 1, 2, 11, 19)]
    [0.5, 1.0, 1.0, 0.5, 0.01]
    """
    rise = math.floor(total * warmup)
    if step < rise:
        return (step + 1) / rise
    share = (step - rise) / max(1, total - rise)
    return floor + (1 - floor) * (1 + math.cos(math.pi * share)) / 2


def one_cycle(step: int, *, total: int, peak: float = 0.3, start: float = 1 / 25, end: float = 1e-4) -> float:
    """Return a factor that rises and then falls far below its start, both as half cosines [1]_.

    Parameters
    ----------
    step, total : int
        See `slanted_triangular`.
    peak : float, default=0.3
        Part of the run after which the factor is 1.
    start, end : float
        First and last factor.

    References
    ----------
    .. [1] Smith & Topin (2018), Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates.

    Examples
    --------
    >>> [round(one_cycle(step, total=11), 3) for step in (0, 3, 10)]
    [0.04, 1.0, 0.0]
    """
    top = max(1.0, peak * (total - 1))
    if step <= top:
        return _swing(start, 1.0, step / top)
    return _swing(1.0, end, (step - top) / max(1e-9, total - 1 - top))


def _swing(low: float, high: float, share: float) -> float:
    return high + (low - high) * (1 + math.cos(math.pi * min(1.0, share))) / 2


#: Schedules by name.
SCHEDULES: dict[str, Callable[..., float]] = {
    "slanted_triangular": slanted_triangular,
    "cosine": cosine,
    "one_cycle": one_cycle,
    "constant": constant,
}
