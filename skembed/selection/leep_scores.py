"""LEEP and NLEEP: likelihood of labels given source classes, or parts of a mixture."""

from __future__ import annotations

import numpy as np
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.utils import check_array

from skembed.inputs.target_kinds import class_codes
from skembed.probes.cross_validated import check_rows
from skembed.utils.sklearn_private import fit_transform_array

__all__ = ["leep", "nleep"]


def leep(probabilities, y) -> float:
    """Compute LEEP: the log-likelihood of labels, given the classes of the source head.

    Parameters
    ----------
    probabilities : array-like of shape (n_samples, n_source_classes)
        Probabilities of the pre-trained network's head for each sample; rows sum to one.
    y : array-like of shape (n_samples,)
        Classes.

    Returns
    -------
    float
        Nats per sample, at most 0. A head without information gives minus the entropy of y.

    Raises
    ------
    ValueError
        If rows are not probabilities, or y is not categorical.

    References
    ----------
    .. [1] Nguyen, Hassner, Seeger & Archambeau (2020), LEEP: A New Measure to Evaluate Transferability of Learned
       Representations.

    Examples
    --------
    >>> from skembed.selection import leep
    >>> leep([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], ["a", "a", "b", "b"])
    0.0
    """
    theta = check_array(probabilities, dtype=np.float64, input_name="probabilities")
    if (theta < 0).any() or not np.allclose(theta.sum(axis=1), 1, atol=1e-4):
        raise ValueError(
            "probabilities must be positive with rows that sum to one; found values from "
            f"{theta.min():.3g} to {theta.max():.3g} and sums from {theta.sum(axis=1).min():.3g} to "
            f"{theta.sum(axis=1).max():.3g}. Apply the softmax to the head's logits first."
        )
    codes, n_classes = class_codes(y, len(theta))
    joint = np.eye(n_classes)[codes].T @ theta / len(theta)
    mass = joint.sum(axis=0)
    conditional = joint[:, mass > 0] / mass[mass > 0]
    expected = (theta[:, mass > 0] @ conditional.T)[np.arange(len(theta)), codes]
    # Rounding may put a certain label a hair above one.
    return float(np.log(np.minimum(expected, 1.0)).mean())


def nleep(
    X,
    y,
    *,
    variance: float = 0.8,
    n_gaussians: int | str = "auto",
    covariance_type: str = "full",
    random_state: int | None = 0,
) -> float:
    """Compute NLEEP: LEEP with a Gaussian mixture of the embeddings as the source head.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings, which are first reduced by principal components.
    y : array-like of shape (n_samples,)
        Classes.
    variance : float in (0, 1], default=0.8
        Share of the variance that the components keep.
    n_gaussians : int or "auto", default="auto"
        Number of parts of the mixture. "auto" uses five per class, and at most one per two samples.
    covariance_type : {"full", "tied", "diag", "spherical"}, default="full"
        See `sklearn.mixture.GaussianMixture`.
    random_state : int or None, default=0
        Seed of the mixture.

    Returns
    -------
    float
        Nats per sample, at most 0.

    Raises
    ------
    ValueError
        If X is not finite, y is not categorical, or a parameter is out of range.

    References
    ----------
    .. [1] Li et al. (2021), Ranking Neural Checkpoints.

    Examples
    --------
    >>> import numpy as np
    >>> from skembed.selection import nleep
    >>> X = np.random.default_rng(0).normal(size=(100, 5))
    >>> nleep(X, X[:, 0] > 0) > nleep(X, np.arange(100) % 2)
    True
    """
    rows = check_rows(X)
    codes, n_classes = class_codes(y, len(rows))
    if not 0 < variance <= 1:
        raise ValueError(f"variance={variance!r} is out of range. Use a share above 0 and up to 1.")
    if n_gaussians == "auto":
        n_gaussians = max(2, min(5 * n_classes, len(rows) // 2))
    elif isinstance(n_gaussians, str) or not 1 <= n_gaussians <= len(rows):
        raise ValueError(f"n_gaussians={n_gaussians!r}: use a number from 1 to the {len(rows)} samples, or 'auto'.")
    # sklearn reads 1.0 as one component.
    pca = PCA(None if variance == 1 else variance, svd_solver="full")
    reduced = fit_transform_array(pca, rows)
    # The mixture adds a constant to its variances, which must mean the same whatever the scale of the features.
    reduced /= reduced.std()
    mixture = GaussianMixture(int(n_gaussians), covariance_type=covariance_type, random_state=random_state)  # type: ignore[arg-type]
    return leep(mixture.fit(reduced).predict_proba(reduced), codes)
