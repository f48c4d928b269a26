"""Linear probe that predicts each sample from all others, in closed form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from skembed.probes.linear import RIDGE_PENALTIES, feature_scale
from skembed.utils.blas import SMALL, one_blas_thread

__all__ = ["MIN_LEFT_OUT_SAMPLES", "N_SHUFFLES", "LeftOut", "LinearProbe"]

#: With fewer samples, predictions of left-out samples are not meaningful.
MIN_LEFT_OUT_SAMPLES = 10
#: Number of shuffled targets that a probe has to beat in advice and diagnosis: all 39 have a level of 0.025.
N_SHUFFLES = 39

#: Leverages above it are numerically one: nothing else tells of such a sample once it is left out.
_MOST_LEVERAGE = 1 - 1e-9


@dataclass(frozen=True)
class LeftOut:
    """Predictions of samples by a probe that was fitted on all others.

    Parameters
    ----------
    outputs : ndarray of shape (n_samples, n_targets), float64
    r2 : float
        One minus the squared error divided by that of the mean of the other samples, over all targets.
    penalty : float
        Penalty per feature with the smallest squared error.
    """

    outputs: np.ndarray
    r2: float
    penalty: float

    def quality(self, targets: np.ndarray, codes: np.ndarray | None) -> np.ndarray:
        """Return how well each sample is predicted: 0 or 1, or its part of the explained variance.

        Parameters
        ----------
        targets : ndarray of shape (n_samples, n_targets), float64
            Targets of the probe.
        codes : ndarray of shape (n_samples,), int, or None
            Class of each sample where the targets are indicators of classes.
        """
        if codes is not None:
            return (self.outputs.argmax(1) == codes).astype(float)
        variance = np.square(targets - targets.mean(0)).sum(1).mean()
        return 1 - np.square(self.outputs - targets).sum(1) / (variance if variance > 0 else 1.0)

    def probabilities(self, codes: np.ndarray) -> np.ndarray:
        """Return class probabilities of shape (n_samples, n_classes).

        Parameters
        ----------
        codes : ndarray of shape (n_samples,), int
            Class of each sample. One temperature is fitted to them and makes probabilities of the outputs [1]_.

        References
        ----------
        .. [1] Guo et al. (2017), On Calibration of Modern Neural Networks.
        """
        of_its_class = np.arange(len(codes)), codes

        def loss(logarithm: float) -> float:
            return float(-log_softmax(self.outputs / np.exp(logarithm), axis=1)[of_its_class].mean())

        return softmax(self.outputs / np.exp(minimize_scalar(loss, bounds=(-5, 3), method="bounded").x), axis=1)


class LinearProbe:
    """Ridge regression that predicts each sample from all others, on standardized rows [1]_.

    One decomposition serves all penalties and all targets: without sample i its residual is
    ``residual[i] / (1 - leverage[i])``, so nothing is fitted twice and no folds are drawn.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Embeddings, finite.

    References
    ----------
    .. [1] Allen (1974), The Relationship between Variable Selection and Data Augmentation and a Method for Prediction.

    Examples
    --------
    >>> import numpy as np
    >>> from skembed.probes.leave_one_out import LinearProbe
    >>> X = np.random.default_rng(0).normal(size=(60, 3))
    >>> LinearProbe(X).left_out(X[:, 0] - X[:, 1]).r2 > 0.99
    True
    """

    def __init__(self, X):
        rows = np.asarray(X, dtype=np.float64)
        rows = rows - rows.mean(0)
        rows = rows / feature_scale(rows.var(0))
        self.n_samples, self.n_features = rows.shape
        with self._threads():
            if self.n_samples < self.n_features:
                values, vectors = np.linalg.eigh(rows @ rows.T)
                self._directions = vectors * np.sqrt(np.maximum(values, 0.0))
            else:
                values, vectors = np.linalg.eigh(rows.T @ rows)
                self._directions = rows @ vectors
        self._values = np.maximum(values, 0.0)

    def _threads(self):
        # Small products are slower on several threads than on one, and much slower beside other processes.
        return one_blas_thread(when=self.n_samples * self.n_features < SMALL)

    def left_out(self, targets) -> LeftOut:
        """Return predictions at the penalty with the smallest squared error.

        Parameters
        ----------
        targets : array-like of shape (n_samples,) or (n_samples, n_targets)
            Numbers, or indicators of classes.
        """
        columns = np.asarray(targets, dtype=np.float64).reshape(self.n_samples, -1)
        with self._threads():
            residuals = list(self._residuals(columns))
        errors = [float(np.square(each).sum()) for each in residuals]
        best = int(np.argmin(errors))
        return LeftOut(columns - residuals[best], self._r2(columns, errors[best]), RIDGE_PENALTIES[best])

    def is_chance(self, targets, rng: np.random.Generator, n_permutations: int = 19) -> bool:
        """Return True if shuffled targets are predicted as well as these: a permutation test [1]_.

        Parameters
        ----------
        targets : array-like of shape (n_samples,) or (n_samples, n_targets)
        rng : numpy Generator
            Shuffles the targets.
        n_permutations : int, default=19
            Number of shuffles that must all do worse: 19 have a level of 0.05.

        References
        ----------
        .. [1] Ojala & Garriga (2010), Permutation Tests for Studying Classifier Performance.
        """
        columns = np.asarray(targets, dtype=np.float64).reshape(self.n_samples, -1)
        # Beside one another, so that each penalty takes one product for all. Shuffled, they vary as much as ever: the
        # smallest error is the highest R2.
        shuffled = [columns[rng.permutation(self.n_samples)] for _ in range(n_permutations)]
        together = np.concatenate([columns, *shuffled], axis=1)
        with self._threads():
            errors = [np.square(each).sum(0) for each in self._residuals(together)]
        least = np.stack(errors).reshape(len(RIDGE_PENALTIES), -1, columns.shape[1]).sum(2).min(0)
        return bool(least[0] > 0 and (least[1:] <= least[0]).any())

    def shuffled(
        self, targets, rng: np.random.Generator, n_permutations: int = 19
    ) -> Iterator[tuple[np.ndarray, LeftOut]]:
        """Yield predictions of shuffled targets, from which nothing can be learned.

        Parameters
        ----------
        targets : array-like of shape (n_samples,) or (n_samples, n_targets)
        rng : numpy Generator
            Shuffles the targets.
        n_permutations : int, default=19

        Yields
        ------
        order : ndarray of shape (n_samples,), int
            The sample whose targets each sample was given.
        left_out : LeftOut
            Predictions of the shuffled targets.
        """
        columns = np.asarray(targets, dtype=np.float64).reshape(self.n_samples, -1)
        for _ in range(n_permutations):
            order = rng.permutation(self.n_samples)
            yield order, self.left_out(columns[order])

    def _residuals(self, columns: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the differences of targets and predictions from all other samples, at each penalty."""
        centered = columns - columns.mean(0)
        projected = self._directions.T @ centered
        for penalty in RIDGE_PENALTIES:
            shrunk = self._directions / (self._values + penalty * self.n_features)
            leverage = (shrunk * self._directions).sum(1) + 1 / self.n_samples
            yield (centered - shrunk @ projected) / (1 - np.minimum(leverage, _MOST_LEVERAGE))[:, None]

    def _r2(self, columns: np.ndarray, error: float) -> float:
        # Against the mean of the other samples, which predicts without any knowledge of the rows.
        total = np.square((columns - columns.mean(0)) * self.n_samples / max(1, self.n_samples - 1)).sum()
        return float(1 - error / total) if total > 0 else float("nan")
