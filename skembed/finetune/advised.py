"""Estimators built from advice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sklearn.base import clone

if TYPE_CHECKING:
    from skembed.assessment.advice import Advice
    from skembed.finetune.base import BaseFineTuner

__all__ = ["build_advised"]


def build_advised(advice: Advice, **parameters: Any) -> BaseFineTuner:
    """Return the unfitted estimator that an advice describes.

    Parameters
    ----------
    advice : Advice
        Strategy, method and settings.
    **parameters
        Further parameters, which override the advised ones.
    """
    from skembed.finetune.classifier import FineTuneClassifier
    from skembed.finetune.regressor import FineTuneRegressor

    chosen = FineTuneRegressor if advice.task == "regression" else FineTuneClassifier
    embedder = None if advice.embedder is None else clone(advice.embedder)
    strategy, method = clone(advice.strategy), clone(advice.method)
    built = chosen(embedder, strategy=strategy, method=method, random_state=advice.random_state)
    settings = {name: clone(value, safe=False) for name, value in advice.settings.items()}
    return built.set_params(**{**settings, **parameters})
