"""Labels that the other samples contradict with confidence."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["MIN_PROBE_R2", "NOISY_RATE", "Suspects", "noise_rate", "suspect_labels"]

#: The rate, less twice its standard error, from which on labels are noisy. Measured on 240 to 1,000 topics, images,
#: digits and overlapping clusters, where a probe is right on 65 to 99 of 100: at most 0.01 as they are, at least 0.045
#: with a tenth flipped.
NOISY_RATE = 0.04
#: Smallest R² of a probe whose disagreement with labels counts.
MIN_PROBE_R2 = 0.2


class Suspects(NamedTuple):
    """Samples whose labels are likely wrong.

    Parameters
    ----------
    positions : ndarray of int64
        Positions, the most confident first.
    suggested : ndarray of int64
        Likely class of each.
    margins : ndarray of float64
        Probability of the suggested class minus that of the given one.
    """

    positions: np.ndarray
    suggested: np.ndarray
    margins: np.ndarray


def suspect_labels(probabilities, codes) -> Suspects:
    """Find samples whose labels are likely wrong, by confident learning [1]_.

    A class is confident of a sample if its probability reaches the mean probability of the class among the samples with
    its label. A sample is a suspect if the most probable confident class is not its label. These are the samples off
    the diagonal of the paper's confident joint.

    Parameters
    ----------
    probabilities : array-like of shape (n_samples, n_classes)
        Probabilities, each predicted without the sample itself.
    codes : array-like of shape (n_samples,), int
        The given class of each sample, a column of `probabilities`.

    Returns
    -------
    Suspects
        Positions, likely classes and margins, the most confident first.

    References
    ----------
    .. [1] Northcutt, Jiang & Chuang (2021), Confident Learning: Estimating Uncertainty in Dataset Labels.

    Examples
    --------
    >>> from skembed.measures import suspect_labels
    >>> suspect_labels([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.95, 0.05]], [0, 0, 1, 1]).positions.tolist()
    [3]
    """
    chances, given = np.asarray(probabilities, dtype=np.float64), np.asarray(codes)
    given_chances = chances[np.arange(len(given)), given]
    counts = np.bincount(given, minlength=chances.shape[1])
    # A class without samples is confident of none.
    means = np.bincount(given, weights=given_chances, minlength=chances.shape[1]) / np.maximum(counts, 1)
    thresholds = np.where(counts > 0, means, np.inf)
    confident = np.where(chances >= thresholds, chances, -np.inf)
    suggested = confident.argmax(1)
    margins = chances[np.arange(len(given)), suggested] - given_chances
    suspects = np.flatnonzero((confident.max(1) > -np.inf) & (suggested != given) & (margins > 0))
    suspects = suspects[np.argsort(-margins[suspects], kind="stable")]
    return Suspects(suspects, suggested[suspects], margins[suspects])


def noise_rate(probabilities, codes) -> tuple[float, float]:
    """Estimate how many labels are wrong, by the samples whose probabilities are highest.

    Overlapping classes are confused where probabilities are low, whereas wrong labels occur everywhere. So the quarter
    of the samples with the highest probabilities separates the two: a different label among them is wrong rather than
    hard to predict.

    Parameters
    ----------
    probabilities, codes
        See `suspect_labels`.

    Returns
    -------
    rate, error : float
        Share of the most certain quarter that has another label, and its standard error.

    Examples
    --------
    >>> from skembed.measures import noise_rate
    >>> noise_rate([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.5, 0.5]], [1, 0, 0, 0])[0]
    1.0
    """
    chances, given = np.asarray(probabilities, dtype=np.float64), np.asarray(codes)
    surest = np.argsort(-chances.max(1), kind="stable")[: max(1, len(given) // 4)]
    rate = float((chances[surest].argmax(1) != given[surest]).mean())
    return rate, float(np.sqrt(rate * (1 - rate) / len(surest)))
