"""Labels that the other samples contradict with confidence."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["MIN_PROBE_R2", "NOISY_RATE", "Suspects", "noise_rate", "suspect_labels"]

#: The rate, less twice its standard error, from which on labels are noisy. Measured on 240 to 1,000 topics, images,
#: digits and overlapping clusters, where a probe is right on 65 to 99 of 100: at most 0.01 as they are, at least 0.045
#: with a tenth flipped.
NOISY_RATE = 0.04
#: What a probe has to explain of the classes before its disagreement says anything.
MIN_PROBE_R2 = 0.2


class Suspects(NamedTuple):
    """Samples whose labels are likely wrong.

    Parameters
    ----------
    positions : ndarray of int64
        The surest first.
    suggested : ndarray of int64
        The class that each is likely to be of.
    margins : ndarray of float64
        By how much the suggested class is more probable than the given one.
    """

    positions: np.ndarray
    suggested: np.ndarray
    margins: np.ndarray


def suspect_labels(probabilities, codes) -> Suspects:
    """Confident learning [1]_: samples that are confidently of another class than they are labelled.

    A class is confident of a sample if its probability reaches the mean probability that the class has among the
    samples labelled with it. A sample is a suspect if the most probable of the confident classes is another than its
    own: what the paper counts beside the diagonal of the confident joint.

    Parameters
    ----------
    probabilities : array-like of shape (n_samples, n_classes)
        Predicted without the sample itself.
    codes : array-like of shape (n_samples,), int
        The given class of each sample, a column of `probabilities`.

    Returns
    -------
    Suspects

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
    own = chances[np.arange(len(given)), given]
    counts = np.bincount(given, minlength=chances.shape[1])
    # A class without samples is confident of none.
    means = np.bincount(given, weights=own, minlength=chances.shape[1]) / np.maximum(counts, 1)
    thresholds = np.where(counts > 0, means, np.inf)
    confident = np.where(chances >= thresholds, chances, -np.inf)
    suggested = confident.argmax(1)
    margins = chances[np.arange(len(given)), suggested] - own
    found = np.flatnonzero((confident.max(1) > -np.inf) & (suggested != given) & (margins > 0))
    found = found[np.argsort(-margins[found], kind="stable")]
    return Suspects(found, suggested[found], margins[found])


def noise_rate(probabilities, codes) -> tuple[float, float]:
    """How many labels are wrong, by those of the samples that the probabilities are surest of.

    Classes that overlap are mistaken for each other where the probabilities are unsure; wrong labels are everywhere
    alike. So the quarter of the samples with the highest probabilities tells the two apart: what is labelled otherwise
    among them is wrong rather than hard.

    Parameters
    ----------
    probabilities, codes
        See `suspect_labels`.

    Returns
    -------
    rate, error : float
        Share of the surest quarter that has another label, and its standard error.

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
