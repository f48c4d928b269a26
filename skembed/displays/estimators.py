"""Estimators for displays: the step of a pipeline that is meant, checked to be fitted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from skembed.embedders.base import BaseEmbedder
from skembed.embedders.encoder import Encoder
from skembed.embedders.layers import layer_rows

if TYPE_CHECKING:
    from skembed.finetune.base import BaseFineTuner

__all__ = ["as_embedder", "fitted_fine_tuner", "layer_features", "transformed"]


def fitted_fine_tuner(estimator: Any, who: str) -> tuple[BaseFineTuner, Callable[[Any], Any]]:
    """Return a fitted fine-tuner, and the transforms that a Pipeline applies to X before it.

    Parameters
    ----------
    estimator : FineTuneClassifier, FineTuneRegressor, or a Pipeline with one of them
    who : str
        Name of the display, for errors.

    Returns
    -------
    fine_tuner : BaseFineTuner
    prepare : callable
        The transforms of a Pipeline's earlier steps.

    Raises
    ------
    TypeError
        If `estimator` has no fine-tuner.
    NotFittedError
        If it is not fitted.
    """
    from skembed.finetune.base import BaseFineTuner

    steps = estimator.steps if isinstance(estimator, Pipeline) else [("", estimator)]
    places = [i for i, (_, step) in enumerate(steps) if isinstance(step, BaseFineTuner)]
    if not places:
        inside = f" of {', '.join(type(step).__name__ for _, step in steps)}" if isinstance(estimator, Pipeline) else ""
        hint = ", such as its best_estimator_" if hasattr(estimator, "best_estimator_") else ""
        raise TypeError(
            f"estimator is a {type(estimator).__name__}{inside}. {who} needs a fitted FineTuneClassifier or "
            f"FineTuneRegressor, or a Pipeline with one{hint}."
        )
    first = places[0]
    check_is_fitted(steps[first][1])
    return steps[first][1], (Pipeline(steps[:first]).transform if first else lambda X: X)


def as_embedder(embedder: Any, who: str) -> BaseEmbedder:
    """Return an unfitted clone of an embedder.

    Raises
    ------
    TypeError
        If it is something else. For a Pipeline, the error names the step.
    """
    if isinstance(embedder, BaseEmbedder):
        return clone(embedder)
    hint = ""
    if isinstance(embedder, Pipeline):
        inside = [name for name, step in embedder.steps if isinstance(step, BaseEmbedder)]
        hint = f" Of this Pipeline that is pipeline[{inside[0]!r}]." if inside else ""
    raise TypeError(
        f"embedder is a {type(embedder).__name__}. {who} needs an ImageEmbedder, TextEmbedder or AudioEmbedder.{hint}"
    )


def transformed(estimator: Any, X: Any, who: str) -> np.ndarray:
    """Return rows that a fitted estimator, or a Pipeline before its predictor, makes of X.

    A clone of an unfitted embedder is fitted first.

    Raises
    ------
    TypeError
        If it has no `transform`.
    NotFittedError
        If it is not fitted.
    """
    if isinstance(estimator, Pipeline) and not hasattr(estimator[-1], "transform") and len(estimator) > 1:
        estimator = estimator[:-1]
    if not hasattr(estimator, "transform"):
        raise TypeError(
            f"estimator is a {type(estimator).__name__}, which has no transform. {who} needs an embedder, a fine-tuner "
            "or a Pipeline that begins with one."
        )
    estimator = _fitted_embedder(estimator, X) if isinstance(estimator, BaseEmbedder) else estimator
    check_is_fitted(estimator)
    return np.asarray(estimator.transform(X), dtype=np.float64)


def _fitted_embedder(embedder: BaseEmbedder, X: Any) -> BaseEmbedder:
    """Return the embedder where it is fitted, otherwise a fitted clone."""
    try:
        check_is_fitted(embedder)
    except NotFittedError:
        return clone(embedder).fit(X)
    return embedder


def layer_features(embedder: BaseEmbedder, X: Any, layers: Any = "all") -> tuple[list[int], list[np.ndarray]]:
    """Return features of several layers from one pass over the network.

    Parameters
    ----------
    embedder : BaseEmbedder
        Embedder with the backbone, the pooling and the reading of samples; it is not changed.
    X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
        Raw samples.
    layers : "all" or list of int, default="all"
        Layers to return; negative ones count from the last.

    Returns
    -------
    layers : list of int
        Positions of the layers, from 0.
    features : list of ndarray of shape (n_samples, width), float32
        Features as the embedder with this layer alone returns them.
    """
    joint = Encoder(clone(embedder).set_params(layers=layers).fit(X))
    chosen = list(joint.readout.layers)
    return chosen, [joint.finish(rows) for rows in layer_rows(joint.embedder, joint.samples(X), chosen)]
