"""What a fine-tuned estimator does once it is fitted."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skembed.embedders.encoder import Encoder

__all__ = ["PredictingMixin"]


class PredictingMixin:
    """Predictions and embeddings by what a fit kept, and copies of it for other places."""

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
        """The head as the fit knows it; absent before the first fit."""
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
            As y was; NaN for a number of a sample that could not be embedded.

        Raises
        ------
        ValueError
            If a class is asked of a sample that could not be embedded, where the embedder goes on with NaN.
        """
        found = self._predictions(X)
        return self._predicting.answers(found)

    def self_contained(self) -> Self:
        """A copy that holds the base's weights too, for machines that have neither them nor a hub.

        Returns
        -------
        estimator : object
            Fitted alike; its pickle is as large as the backbone's directory. The weights are unpacked once a machine,
            below ``$SKEMBED_HOME``.

        Raises
        ------
        ValueError
            If the backbone comes from a function of yours, which has no directory.
        """
        from skembed.finetune.tuned import with_base

        check_is_fitted(self)
        copied = copy.copy(self)
        copied.embedder_ = with_base(self.embedder_)
        return copied

    def merged(self) -> Self:
        """A copy whose LoRA factors are multiplied out: its pickle holds whole weights and needs no base of LoRA's.

        Predictions are made with merged weights in any case, and are the same; the pickle of the factors is smaller.

        Returns
        -------
        estimator : object
            Fitted alike; where nothing was trained with LoRA, as it is.
        """
        from skembed.finetune.tuned import merged

        check_is_fitted(self)
        copied = copy.copy(self)
        copied.embedder_ = merged(self.embedder_)
        return copied

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "embedder_")
