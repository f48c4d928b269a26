"""scikit-learn's callbacks during a fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from skembed.finetune.plan import FitPlan

__all__ = ["FitCallbacks"]


class FitCallbacks:
    """Callbacks that a user registered with `set_callbacks`, for one fit with one task per epoch.

    Parameters
    ----------
    estimator : FineTuneClassifier or FineTuneRegressor
        Estimator that is being fitted.
    plan : FitPlan
        Plan of the fit.
    X, y, sample_weight
        Arguments of `fit`. Callbacks get X without the samples that the fit leaves out, and y in its checked form,
        because scorers accept fewer forms of y than `fit`.
    """

    def __init__(self, estimator: Any, plan: FitPlan, X: Any, y: Any, sample_weight: Any):
        self.estimator = estimator
        self._best: Callable[[], dict[str, Any]] | None = None
        self._context = None
        if hasattr(estimator, "_init_callback_context"):  # scikit-learn 1.9 and later
            self._data = _training_data(plan, X, y, sample_weight)
            self._context = estimator._init_callback_context(max_subtasks=plan.max_epochs)
            self._context.call_on_fit_task_begin(estimator=estimator, **self._data)

    def follow(self, best: Callable[[], dict[str, Any]]) -> None:
        """Take a function that returns the fitted attributes of the best estimator so far."""
        self._best = best

    def end_epoch(self) -> bool:
        """Report an epoch; return True if a callback asks to stop."""
        if self._context is None:
            return False
        task = self._context.subcontext(task_name="epoch")
        task.call_on_fit_task_begin(estimator=self.estimator, **self._data)
        # A function, so that attributes are computed only for callbacks that ask for a fitted estimator.
        fitted = {"reconstruction_attributes": self._best}
        return bool(task.call_on_fit_task_end(estimator=self.estimator, **self._data, **fitted))

    def end(self) -> None:
        """Report the end of the fit, when the estimator has all its attributes."""
        if self._context is not None:
            self._context.call_on_fit_task_end(estimator=self.estimator, **self._data, reconstruction_attributes={})


def _training_data(plan: FitPlan, X: Any, y: Any, sample_weight: Any) -> dict[str, Any]:
    """Return X, or a list of its used samples if some are left out, and their y."""
    n_used = len(plan.train) if plan.own_validation else len(plan.y)
    n_given = np.shape(np.asarray(y))[0]  # not len, which what is merely like an array may lack
    weights = None if sample_weight is None else np.broadcast_to(np.asarray(sample_weight), n_given)
    if n_used < n_given:
        X = list(plan.samples[:n_used])
        weights = None if weights is None else weights[plan.positions[:n_used]]
    metadata = None if weights is None else {"sample_weight": weights}
    used = plan.y if n_used == len(plan.y) else plan.y[:n_used]
    return {"X": X, "y": used, "metadata": metadata}
