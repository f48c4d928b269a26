"""Confidence intervals of an accuracy and of a mean loss, for decisions from a few held-out samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["FEW_JUDGED", "TEMPERATURE_RANGE", "describe_judging", "standard_error", "wilson_interval"]

#: From this number of held-out samples on, the interval of an accuracy is narrower than +-0.1 and is not mentioned.
FEW_JUDGED = 100
#: Range of temperatures in calibration.
TEMPERATURE_RANGE = (0.1, 10.0)
#: Quantile of the normal distribution for 95 %.
_Z = 1.959964


def wilson_interval(share: float, n: float) -> tuple[float, float]:
    """Compute the 95 % confidence interval of a share in n independent samples [1]_.

    Parameters
    ----------
    share : float
        Share, from 0 to 1.
    n : float
        Number of samples; for weighted samples, their effective number.

    Returns
    -------
    low, high : float

    References
    ----------
    .. [1] Wilson (1927), Probable Inference, the Law of Succession, and Statistical Inference.

    Examples
    --------
    >>> [round(bound, 3) for bound in wilson_interval(0.5, 10)]
    [0.237, 0.763]
    >>> [round(bound, 3) for bound in wilson_interval(1.0, 10)]
    [0.722, 1.0]
    """
    center = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(0.0, center - half), min(1.0, center + half)


def standard_error(losses: Sequence[float]) -> float:
    """Compute the standard error of a mean loss; infinite for fewer than two losses."""
    return float(np.std(losses, ddof=1) / len(losses) ** 0.5) if len(losses) > 1 else math.inf


def describe_judging(
    losses: Sequence[float], weights: np.ndarray, loss: float, accuracy: float | None
) -> tuple[str, dict[str, float]]:
    """Describe held-out scores, with confidence intervals if the samples are few.

    Parameters
    ----------
    losses : sequence of float
        Loss of each held-out sample.
    weights : ndarray of shape (n_held_out,)
        Weights of the held-out samples.
    loss : float
        Mean loss.
    accuracy : float or None
        Accuracy; None if the score is something else.

    Returns
    -------
    sentence : str
        Description; empty for many samples, and for none.
    numbers : dict of str to float
        Bounds by name.
    """
    n = len(weights)
    if not n or n >= FEW_JUDGED or not weights.any():
        return "", {}
    parts, numbers = [], {"held_out": float(n)}
    if accuracy is not None:
        low, high = wilson_interval(accuracy, weights.sum() ** 2 / np.square(weights).sum())
        parts.append(f"accuracy {accuracy:.2f} (95 % interval {low:.2f} to {high:.2f})")
        numbers |= {"accuracy_low": low, "accuracy_high": high}
    if len(losses) > 1 and math.isfinite(loss):
        half = _Z * standard_error(losses)
        parts.append(f"loss {loss:.3f} (+-{half:.3f})")
        numbers |= {"loss_low": loss - half, "loss_high": loss + half}
    if not parts:
        return "", {}
    few = f"Decided on {n} held-out sample{'s' if n > 1 else ''}: {', '.join(parts)}."
    return f"{few} Smaller differences between fits, epochs or settings may be chance.", numbers
