"""A linear probe whose every prediction was made without the sample itself, in closed form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from skembed.utils.blas import SMALL, one_blas_thread

__all__ = ["LeftOut", "LinearProbe"]

#: Penalties that are tried, for each feature: those of the estimators' own probe.
_PENALTIES = (10.0, 1.0, 0.1, 0.01, 0.001)
#: Leverages above it are numerically one: such a sample says nothing of itself once it is left out.
_MOST_LEVERAGE = 1 - 1e-9


@dataclass(frozen=True)
class LeftOut:
    """Predictions that were made without the sample itself.

    Parameters
    ----------
    outputs : ndarray of shape (n_samples, n_targets), float64
    r2 : float
        One less the squared error over that of the mean of the other samples, over all targets.
    penalty : float
        Of each feature, chosen by the squared error.
    """

    outputs: np.ndarray
    r2: float
    penalty: float

    def probabilities(self, codes: np.ndarray) -> np.ndarray:
        """Probabilities of classes, of shape (n_samples, n_classes), where the targets were indicators of them.

        Parameters
        ----------
        codes : ndarray of shape (n_samples,), int
            Which class each sample has: one temperature, fitted to it, makes outputs into probabilities [1]_.

        References
        ----------
        .. [1] Guo et al. (2017), On Calibration of Modern Neural Networks.
        """
        own = np.arange(len(codes)), codes

        def loss(logarithm: float) -> float:
            return float(-log_softmax(self.outputs / np.exp(logarithm), axis=1)[own].mean())

        return softmax(self.outputs / np.exp(minimize_scalar(loss, bounds=(-5, 3), method="bounded").x), axis=1)


class LinearProbe:
    """Ridge regression of any targets on standardised rows, each sample predicted from all others [1]_.

    One decomposition serves all penalties and all targets: without sample i its residual is
    ``residual[i] / (1 - leverage[i])``, so nothing is fitted twice and nothing is drawn.

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
    >>> from skembed.measures import LinearProbe
    >>> X = np.random.default_rng(0).normal(size=(60, 3))
    >>> LinearProbe(X).left_out(X[:, 0] - X[:, 1]).r2 > 0.99
    True
    """

    def __init__(self, X):
        rows = np.asarray(X, dtype=np.float64)
        rows = rows - rows.mean(0)
        scale = rows.std(0)
        # As the estimators' probe has it: a feature that hardly varies is not blown up to the size of the others.
        floor = 0.1 * np.sqrt(np.square(scale).mean())
        rows = rows / np.where(np.maximum(scale, floor) > 0, np.maximum(scale, floor), 1.0)
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
        """Predictions at the penalty that leaves the smallest error.

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
        return LeftOut(columns - residuals[best], self._r2(columns, errors[best]), _PENALTIES[best])

    def is_chance(self, targets, rng: np.random.Generator, n_permutations: int = 19) -> bool:
        """Whether shuffled targets are predicted as well as these: a permutation test [1]_.

        Parameters
        ----------
        targets : array-like of shape (n_samples,) or (n_samples, n_targets)
        rng : numpy Generator
            Shuffles them.
        n_permutations : int, default=19
            Shuffles that must all do worse: 19 have a level of 0.05.

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
        least = np.stack(errors).reshape(len(_PENALTIES), -1, columns.shape[1]).sum(2).min(0)
        return bool(least[0] > 0 and (least[1:] <= least[0]).any())

    def shuffled(
        self, targets, rng: np.random.Generator, n_permutations: int = 19
    ) -> Iterator[tuple[np.ndarray, LeftOut]]:
        """Predictions of shuffled targets, which is what knowing nothing of them comes to.

        Parameters
        ----------
        targets : array-like of shape (n_samples,) or (n_samples, n_targets)
        rng : numpy Generator
            Shuffles them.
        n_permutations : int, default=19

        Yields
        ------
        order : ndarray of shape (n_samples,), int
            Which sample's targets each sample was given.
        left_out : LeftOut
            Their predictions.
        """
        columns = np.asarray(targets, dtype=np.float64).reshape(self.n_samples, -1)
        for _ in range(n_permutations):
            order = rng.permutation(self.n_samples)
            yield order, self.left_out(columns[order])

    def _residuals(self, columns: np.ndarray) -> Iterator[np.ndarray]:
        """What each sample's targets are beside what is predicted from all others, at each penalty."""
        centred = columns - columns.mean(0)
        projected = self._directions.T @ centred
        for penalty in _PENALTIES:
            shrunk = self._directions / (self._values + penalty * self.n_features)
            leverage = (shrunk * self._directions).sum(1) + 1 / self.n_samples
            yield (centred - shrunk @ projected) / (1 - np.minimum(leverage, _MOST_LEVERAGE))[:, None]

    def _r2(self, columns: np.ndarray, error: float) -> float:
        # Of the mean of the others, which is what knowing nothing comes to.
        total = np.square((columns - columns.mean(0)) * self.n_samples / max(1, self.n_samples - 1)).sum()
        return float(1 - error / total) if total > 0 else float("nan")
