"""Linear probe with a ridge penalty on frozen features: where a head begins, and what fine-tuning has to beat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from skembed.utils.blas import SMALL, SMALL_PRODUCT, one_blas_thread

__all__ = [
    "RIDGE_PENALTIES",
    "STRENGTHS",
    "Probe",
    "Standardizer",
    "feature_scale",
    "fit_ridge",
    "fit_softmax",
    "search_probe",
]

#: Penalties that are tried, strongest first: 1 / C in scikit-learn's terms.
STRENGTHS = (100.0, 10.0, 1.0, 0.1, 0.01)
#: What each strength is in ridge regression, per feature, so that the same strengths serve both.
RIDGE_PENALTIES = tuple(strength / 10 for strength in STRENGTHS)
#: A feature that hardly varies is not blown up to the size of the others: a new sample may vary in it.
_LEAST_RELATIVE_SCALE = 0.1


def feature_scale(variance: np.ndarray) -> np.ndarray:
    """Return what to divide each feature by: its standard deviation, at least a tenth of the usual one, never zero."""
    scale = np.sqrt(np.maximum(variance, _LEAST_RELATIVE_SCALE**2 * variance.mean()))
    return np.where(scale > 0, scale, 1.0)


@dataclass(frozen=True)
class Standardizer:
    """Mean and scale of each feature.

    Parameters
    ----------
    mean, scale : ndarray of shape (n_features,), float64
    """

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray, weights: np.ndarray) -> Standardizer:
        """Return mean and scale of weighted samples; a weight of two counts like the sample twice."""
        share = weights / weights.sum()
        with one_blas_thread(when=features.size < SMALL):
            mean = share @ features
            variance = share @ np.square(features - mean)
        return cls(mean, feature_scale(variance))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return (features - self.mean) / self.scale


@dataclass(frozen=True)
class Probe:
    """Linear map on standardized features.

    Parameters
    ----------
    weight : ndarray of shape (n_outputs, n_features), float64
    bias : ndarray of shape (n_outputs,), float64
    strength : float
        Penalty of the fit, see `STRENGTHS`.
    """

    weight: np.ndarray
    bias: np.ndarray
    strength: float

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return outputs of shape (n_samples, n_outputs)."""
        return features @ self.weight.T + self.bias


#: Takes features, targets, weights, strength and a probe to begin with; returns the fitted probe.
Fit = Callable[[np.ndarray, np.ndarray, np.ndarray, float, "Probe | None"], "Probe"]


def fit_softmax(
    features: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    strength: float,
    start: Probe | None = None,
    *,
    multilabel: bool = False,
) -> Probe:
    """Fit multinomial logistic regression with a ridge penalty, or one logistic regression per label, by L-BFGS.

    Minimizes the weighted sum of losses plus ``strength / 2`` times the squared norm of the weights; the bias is free.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features), float64
        Standardized features.
    targets : ndarray of shape (n_samples, n_outputs)
        Probabilities.
    weights : ndarray of shape (n_samples,)
        Sample weights.
    strength : float
        Strength of the penalty: 1 / C in scikit-learn's terms.
    start : Probe, optional
        Solution to begin with; None begins with zeros.
    multilabel : bool, default=False
        True for labels that do not exclude each other, False for classes.
    """
    n_outputs, n_features = targets.shape[1], features.shape[1]
    # As a mean, so that the stopping rule means the same for ten samples and for ten thousand.
    shares, pull = weights / weights.sum(), strength / weights.sum()

    def parts(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return flat[n_outputs:].reshape(n_outputs, n_features), flat[:n_outputs]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight, bias = parts(flat)
        losses, gradient = _losses(features @ weight.T + bias, targets, multilabel)
        gradient *= shares[:, None]
        slope = np.concatenate([gradient.sum(0), (gradient.T @ features).ravel()])
        slope[n_outputs:] += pull * flat[n_outputs:]
        return shares @ losses + pull / 2 * np.square(weight).sum(), slope

    first = np.zeros(n_outputs * (n_features + 1))
    if start is not None:
        first = np.concatenate([start.bias, start.weight.ravel()])
    solution = minimize(objective, first, jac=True, method="L-BFGS-B", options={"maxiter": 500, "gtol": 1e-6})
    weight, bias = parts(solution.x)
    return Probe(weight.copy(), bias.copy(), strength)


def _losses(outputs: np.ndarray, targets: np.ndarray, multilabel: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the cross entropy of each sample, and its gradient with respect to the outputs."""
    if multilabel:
        losses = (np.logaddexp(0, outputs) - targets * outputs).sum(1)
        return losses, 1 / (1 + np.exp(-np.clip(outputs, -500, 500))) - targets
    shifted = outputs - outputs.max(1, keepdims=True)
    exponentials = np.exp(shifted)
    sums = exponentials.sum(1, keepdims=True)
    return (targets * (np.log(sums) - shifted)).sum(1), exponentials / sums - targets


def fit_ridge(
    features: np.ndarray, targets: np.ndarray, weights: np.ndarray, strength: float, start: Probe | None = None
) -> Probe:
    """Fit ridge regression in closed form; the bias is free.

    Parameters
    ----------
    features, targets, weights, strength
        See `fit_softmax`; targets are numbers, and the penalty is that of `RIDGE_PENALTIES` times the features.
    start : Probe, optional
        Ignored, because a closed form needs no start.
    """
    share = weights / weights.sum()
    feature_mean, target_mean = share @ features, share @ targets
    rows = (features - feature_mean) * np.sqrt(weights)[:, None]
    values = (targets - target_mean) * np.sqrt(weights)[:, None]
    penalty = strength / 10 * features.shape[1]
    if rows.shape[0] < rows.shape[1]:
        # As many equations as samples, where they are fewer than the features.
        weight = rows.T @ np.linalg.solve(rows @ rows.T + penalty * np.eye(len(rows)), values)
    else:
        weight = np.linalg.solve(rows.T @ rows + penalty * np.eye(rows.shape[1]), rows.T @ values)
    return Probe(weight.T, target_mean - feature_mean @ weight, strength)


def search_probe(
    fit: Fit,
    features: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    judge: Callable[[Probe], float] | None,
    strengths: Sequence[float] = STRENGTHS,
    report: Callable[[], Any] | None = None,
) -> Probe:
    """Return the probe whose penalty is best on held-out data.

    Parameters
    ----------
    fit : callable
        `fit_softmax` or `fit_ridge`.
    features, targets, weights
        See `fit_softmax`.
    judge : callable, optional
        Returns the loss of a probe on held-out data; None takes the middle one of the penalties.
    strengths : sequence of float, default=STRENGTHS
        Penalties in the order of their fits, each of which begins with the last solution. The search ends once the loss
        has risen twice.
    report : callable, optional
        Called after each penalty.
    """
    report = report or (lambda: None)
    width = min(features.shape) if fit is fit_ridge else targets.shape[1]
    with one_blas_thread(when=features.size * width < SMALL_PRODUCT):
        if judge is None:
            return fit(features, targets, weights, strengths[len(strengths) // 2], None)
        best = last = fit(features, targets, weights, strengths[0], None)
        least, risen = judge(best), 0
        for strength in strengths[1:]:
            report()
            last = fit(features, targets, weights, strength, last)
            loss = judge(last)
            risen = 0 if loss < least else risen + 1
            if loss < least:
                best, least = last, loss
            if risen == 2:
                break
        return best
