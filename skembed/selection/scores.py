"""Scores of embeddings for labels by linear algebra alone: LogME, H-score, TransRate.

All scores take rows and labels and return one number, higher is better; none trains anything. LEEP and NLEEP are in
`skembed.selection.leep_scores`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from skembed.inputs.target_kinds import class_codes, resolve_task, target_columns
from skembed.probes.cross_validated import check_rows

__all__ = ["BayesianEvidence", "h_score", "ledoit_wolf", "logme", "maximum_evidence", "transrate"]

#: Ratios of noise to prior that are tried first, over the largest squared singular value of the features. Beyond
#: the upper end the weights are nil; the lower end keeps the evidence of a perfect fit, which has no bound, finite.
_NOISE_TO_PRIOR_RATIOS = np.logspace(-12, 6, 73)


class BayesianEvidence(NamedTuple):
    """Largest evidence of Bayesian linear regression, for each target.

    Parameters
    ----------
    log_evidence : ndarray of shape (n_targets,)
        Logarithm of p(y | X, alpha, beta), over all samples.
    alpha : ndarray of shape (n_targets,)
        Precision of the prior of the weights at which it is reached.
    beta : ndarray of shape (n_targets,)
        Precision of the noise at which it is reached.
    """

    log_evidence: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray


def logme(X, y, *, task: str = "auto") -> float:
    """Compute LogME: the log of the maximum evidence of a Bayesian linear model, per sample.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings. They are not centered, as in the paper.
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Classes; or numbers, one or several per sample.
    task : {"auto", "classification", "regression"}, default="auto"
        "auto" takes floats with a fraction for regression and everything else for classes.

    Returns
    -------
    float
        Nats per sample, averaged over targets, of any sign. For classes, targets are columns of 0 and 1.

    Raises
    ------
    ValueError
        If X is not finite, y does not fit it, or has fewer than two values.

    Notes
    -----
    The paper reaches the maximum by fixed-point iterations. Here the scale is solved for, and the ratio of noise to
    prior is searched on a grid and then by bisection, so that a lower local maximum is not returned. At the maximum,
    the paper's fixed-point equations hold.

    References
    ----------
    .. [1] You, Liu, Wang & Long (2021), LogME: Practical Assessment of Pre-trained Models for Transfer Learning.
    .. [2] MacKay (1992), Bayesian Interpolation.

    Examples
    --------
    >>> import numpy as np
    >>> from skembed.selection import logme
    >>> X = np.random.default_rng(0).normal(size=(100, 5))
    >>> logme(X, X[:, 0] > 0) > logme(X, np.arange(100) % 2)
    True
    """
    rows = check_rows(X)
    targets = target_columns(y, len(rows), resolve_task(y, task))
    return float(np.mean(maximum_evidence(rows, targets).log_evidence) / len(rows))


def maximum_evidence(X: np.ndarray, targets: np.ndarray) -> BayesianEvidence:
    """Maximize the evidence of ``target = X @ w + noise`` over the precisions of w and of the noise.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Features.
    targets : ndarray of shape (n_samples, n_targets)
        Each column is a regression of its own.

    Returns
    -------
    BayesianEvidence
        One value per target.
    """
    U, singular = _thin_svd(X)
    n_samples, squares = len(X), singular[:, None] ** 2
    projected = U.T @ targets
    # What no weights can explain; exactly nothing where there are as many directions as samples.
    rest = ((targets - U @ projected) ** 2).sum(axis=0) if len(singular) < n_samples else np.zeros(targets.shape[1])
    n_rest = n_samples - len(singular)

    def profile(log_ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Evidence at ratios of noise to prior, and the variance of the prior that is best there."""
        ratio = np.exp(log_ratio)
        variances = ratio + squares
        scale = ((projected**2 / variances).sum(axis=0) + rest / ratio) / n_samples
        log_determinant = np.log(variances).sum(axis=0) + n_rest * log_ratio
        return -0.5 * (n_samples * (np.log(2 * np.pi * scale) + 1) + log_determinant), scale

    grid = np.log(_NOISE_TO_PRIOR_RATIOS * squares[0])
    values = np.array([profile(np.full(targets.shape[1], point))[0] for point in grid])
    best = values.argmax(axis=0)
    low, high = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, len(grid) - 1)]
    for _ in range(60):
        third = (high - low) / 3
        falls = profile(low + third)[0] >= profile(high - third)[0]
        low, high = np.where(falls, low, low + third), np.where(falls, high - third, high)
    middle = (low + high) / 2
    log_evidence, scale = profile(middle)
    return BayesianEvidence(log_evidence, 1 / scale, 1 / (scale * np.exp(middle)))


def h_score(X, y, *, shrinkage: str | float = "auto") -> float:
    """Compute the H-score: the share of the variance that lies between classes.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings.
    y : array-like of shape (n_samples,)
        Classes.
    shrinkage : float in [0, 1) or "auto", default="auto"
        Shrinkage of the covariance towards a multiple of the identity. "auto" uses the formula of Ledoit and Wolf, as
        Ibrahim et al. propose. 0 is the H-score of Bao et al. with the pseudo-inverse, which is useless if features are
        about as many as samples, or more.

    Returns
    -------
    float
        From 0 to the number of classes minus one.

    Raises
    ------
    ValueError
        If X is not finite, y is not categorical, or `shrinkage` is out of range.

    References
    ----------
    .. [1] Bao et al. (2019), An Information-Theoretic Approach to Transferability in Task Transfer Learning.
    .. [2] Ibrahim, Ponomareva & Mazumder (2022), Newer is not always better: Rethinking transferability metrics,
       their peculiarities, stability and performance.

    Examples
    --------
    >>> from skembed.selection import h_score
    >>> X = [[0.0], [0.0], [1.0], [1.0]]
    >>> round(h_score(X, ["a", "a", "b", "b"], shrinkage=0.0), 6)
    1.0
    >>> round(h_score(X, ["a", "b", "a", "b"], shrinkage=0.0), 6)
    0.0
    """
    rows = check_rows(X)
    codes, n_classes = class_codes(y, len(rows))
    centered = rows - rows.mean(axis=0)
    alpha = ledoit_wolf(centered) if shrinkage == "auto" else _check_shrinkage(shrinkage)
    U, singular = _thin_svd(centered)
    variances = singular**2 / len(rows)
    indicators = np.eye(n_classes)[codes]
    # In the basis of the singular vectors the covariance is diagonal, and of the class means' one only the
    # diagonal counts: no matrix of n_features squared is made.
    between = variances * ((U.T @ indicators) ** 2 / indicators.sum(axis=0)).sum(axis=1)
    spread = variances.sum() / rows.shape[1]
    return float(((1 - alpha) * between / ((1 - alpha) * variances + alpha * spread)).sum())


def ledoit_wolf(centered: np.ndarray) -> float:
    """Compute how far a covariance should be shrunk to the identity.

    Parameters
    ----------
    centered : ndarray of shape (n_samples, n_features)
        Features minus their means.

    Returns
    -------
    float
        Weight of the identity, from 0 to 1.

    References
    ----------
    .. [1] Ledoit & Wolf (2004), A well-conditioned estimator for large-dimensional covariance matrices.
    """
    n_samples, n_features = centered.shape
    gram = centered.T @ centered if n_features <= n_samples else centered @ centered.T
    # Squared norm of the covariance, which the smaller of the two products has as well.
    norm = (gram**2).sum() / n_samples**2
    distance = norm / n_features - (np.trace(gram) / n_samples / n_features) ** 2
    fourth = ((centered**2).sum(axis=1) ** 2).sum()
    error = (fourth / n_samples - norm) / n_samples / n_features
    return float(min(max(error, 0.0) / distance, 1.0)) if distance > 0 else 0.0


def _check_shrinkage(shrinkage: Any) -> float:
    if isinstance(shrinkage, str) or not 0 <= shrinkage < 1:
        raise ValueError(f"shrinkage={shrinkage!r} is out of range. Use a number from 0 to less than 1, or 'auto'.")
    return float(shrinkage)


def transrate(X, y, *, eps: float = 1e-4, normalize: bool = True, weights: str = "uniform") -> float:
    """Compute TransRate: the coding rate of all rows minus that of the rows of each class.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings. They are centered.
    y : array-like of shape (n_samples,)
        Classes.
    eps : float, default=1e-4
        Squared error of the coding.
    normalize : bool, default=True
        If True, scale centered rows to length one, as the authors' code does, because the rate depends on the scale of
        the features. False uses them unscaled, like the listing in the paper.
    weights : {"uniform", "frequency"}, default="uniform"
        Weights of the classes in the average of their rates: equal, as in the paper, or by number of samples, which is
        the exact conditional rate and never negative. Both agree if classes are equally large.

    Returns
    -------
    float
        Nats per row.

    Raises
    ------
    ValueError
        If X is not finite, y is not categorical, or a parameter is out of range.

    References
    ----------
    .. [1] Huang, Huang, Rong, Yang & Wei (2022), Frustratingly Easy Transferability Estimation.

    Examples
    --------
    >>> import numpy as np
    >>> from skembed.selection import transrate
    >>> X = np.repeat(np.eye(3), 4, axis=0)
    >>> transrate(X, np.repeat([0, 1, 2], 4)) > transrate(X, np.arange(12) % 3)
    True
    """
    rows = check_rows(X)
    codes, n_classes = class_codes(y, len(rows))
    if not eps > 0:
        raise ValueError(f"eps={eps!r} must be above 0; the paper uses 1e-4.")
    if weights not in ("uniform", "frequency"):
        raise ValueError(f"weights={weights!r} is unknown. Use 'uniform' or 'frequency'.")
    centered = rows - rows.mean(axis=0)
    if normalize:
        lengths = np.linalg.norm(centered, axis=1, keepdims=True)
        centered = centered / np.where(lengths == 0, 1, lengths)
    rates = [_coding_rate(centered[codes == code], eps) for code in range(n_classes)]
    share = np.bincount(codes) / len(codes) if weights == "frequency" else np.full(n_classes, 1 / n_classes)
    return float(_coding_rate(centered, eps) - share @ rates)


def _coding_rate(rows: np.ndarray, eps: float) -> float:
    """Return half the log-determinant of the identity plus the rows' second moments over eps."""
    n_samples, n_features = rows.shape
    # Both products have the same determinant; the smaller is the cheaper.
    gram = rows.T @ rows if n_features <= n_samples else rows @ rows.T
    return 0.5 * np.linalg.slogdet(np.eye(len(gram)) + gram / (n_samples * eps))[1]


def _thin_svd(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return left singular vectors and singular values of the directions that are more than rounding."""
    U, singular, _ = np.linalg.svd(X, full_matrices=False)
    kept = singular > singular[0] * max(X.shape) * np.finfo(X.dtype).eps
    return U[:, kept], singular[kept]
