"""Predictions of fitted fine-tuning estimators, and copies of them for other machines."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skembed.embedders.encoder import Encoder

__all__ = ["PredictingMixin"]


class PredictingMixin:
    """Predictions by the model that was kept, and self-contained copies of it."""

    n_views: int
    embedder_: Any
    head_coef_: np.ndarray
    head_intercept_: np.ndarray
    temperature_: float
    _predicting: Any

    @abstractmethod
    def _augmentation(self, embedder: Any) -> Any: ...

    @property
    def _head(self):
        """Head of the fitted estimator; missing before the first fit."""
        from skembed.finetune.record import Linear

        return Linear(self.head_coef_, self.head_intercept_, self.temperature_)

    def _predictions(self, X) -> dict[str, np.ndarray]:
        check_is_fitted(self)
        outputs = self._head(self.embedder_.embed(X))
        augmentation = self._augmentation(self.embedder_)
        if self.n_views > 1 and augmentation is not None:
            from skembed.finetune.data import Views, embed_view

            encoder, views = Encoder(self.embedder_), Views(augmentation, 0)
            samples = encoder.samples(X)
            others = (self._head(embed_view(encoder, samples, views, i)) for i in range(1, self.n_views))
            outputs = sum(others, start=outputs) / self.n_views
        return self._predicting.predictions(outputs, self.temperature_)

    def predict(self, X) -> np.ndarray:
        """Predict the targets of raw samples.

        Parameters
        ----------
        X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
            Raw samples, as the embedder takes them.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Predictions in the form of y. Numbers are NaN for samples that could not be embedded.

        Raises
        ------
        ValueError
            If the embedder returns NaN for a sample that it cannot embed: such a sample has no class.
        """
        found = self._predictions(X)
        return self._predicting.answers(found)

    def self_contained(self) -> Self:
        """Return a copy whose pickle includes the pre-trained weights, for machines without them.

        Returns
        -------
        estimator : object
            Fitted copy. Its pickle is as large as the backbone's directory. The weights are unpacked once per machine,
            below ``$SKEMBED_HOME``.

        Raises
        ------
        ValueError
            If the backbone comes from a function, which has no directory.
        """
        from skembed.finetune.tuned import with_base

        check_is_fitted(self)
        copied = copy.copy(self)
        copied.embedder_ = with_base(self.embedder_)
        return copied

    def merged(self) -> Self:
        """Return a copy that stores whole weights in the place of LoRA factors.

        Predictions are the same, since they are always made with merged weights. A pickle with factors is smaller.

        Returns
        -------
        estimator : object
            Fitted copy; the estimator itself if nothing was trained with LoRA.
        """
        from skembed.finetune.tuned import merged

        check_is_fitted(self)
        copied = copy.copy(self)
        copied.embedder_ = merged(self.embedder_)
        return copied

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "embedder_")
