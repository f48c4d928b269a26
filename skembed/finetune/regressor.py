"""FineTuneRegressor: fine-tuning for numeric targets."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_is_fitted

from skembed.finetune.base import BaseFineTuner
from skembed.inputs import as_numbers
from skembed.utils.sklearn_private import fit_context, with_callbacks

__all__ = ["FineTuneRegressor"]


class FineTuneRegressor(RegressorMixin, BaseFineTuner):
    """Predict numbers from raw samples with a pre-trained backbone, tuned as deep as it helps.

    A ridge regression on frozen embeddings is fitted first. Training starts from this probe and has to beat it on
    held-out samples. Otherwise the probe is kept, and `report_` says so. The loss is the squared error of standardized
    targets.

    Parameters
    ----------
    embedder : ImageEmbedder, TextEmbedder or AudioEmbedder, default=None
        Embedder with the backbone to train; it also defines how samples are read. None uses ``TextEmbedder()``.
    strategy, method, learning_rate, max_epochs, batch_size, patience
        See `FineTuneClassifier`.
    optimization : Optimization, default=None
        See `FineTuneClassifier`. Its `label_smoothing` must be 0, since numbers have no classes to smooth over.
    augment, mix, n_views
        See `FineTuneClassifier`.
    scoring : str or callable, default=None
        Scorer that compares epochs. None compares held-out squared errors.
    validation_fraction, refit, checkpoint_dir, on_interrupt, warm_start, random_state, verbose
        See `FineTuneClassifier`.

    Attributes
    ----------
    diagnosis_, strategy_, method_, advice_
        See `FineTuneClassifier`.
    embedder_, kept_, history_, report_, n_epochs_, validation_score_, probe_score_, head_coef_, head_intercept_
        See `FineTuneClassifier`; scores are R². The head predicts standardized targets.

    See Also
    --------
    FineTuneClassifier : Classify in the same way; its parameters are explained there.

    Examples
    --------
    >>> from skembed import FineTuneRegressor
    >>> texts = [f"{'very ' * n}long" for n in range(20)]
    >>> regressor = FineTuneRegressor(strategy="head", max_epochs=3, random_state=0).fit(texts, range(20))
    >>> regressor.predict(["very very long"]).shape
    (1,)
    """

    _stratified: ClassVar[bool] = False
    _kind: ClassVar[str] = "regression"

    def __init__(
        self,
        embedder=None,
        *,
        strategy="progressive",
        method="weights",
        learning_rate=1e-3,
        max_epochs=30,
        batch_size=32,
        patience=10,
        optimization=None,
        augment=None,
        mix=None,
        n_views=1,
        scoring=None,
        validation_fraction=0.2,
        refit=True,
        checkpoint_dir=None,
        on_interrupt="raise",
        warm_start=False,
        random_state=None,
        verbose=False,
    ):
        self.embedder = embedder
        self.strategy = strategy
        self.method = method
        self.learning_rate = learning_rate
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.patience = patience
        self.optimization = optimization
        self.augment = augment
        self.mix = mix
        self.n_views = n_views
        self.scoring = scoring
        self.validation_fraction = validation_fraction
        self.refit = refit
        self.checkpoint_dir = checkpoint_dir
        self.on_interrupt = on_interrupt
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None, *, groups=None, X_val=None, y_val=None) -> Self:
        """Fit the linear probe, train from it, and keep the better of the two.

        Parameters
        ----------
        X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
            Raw samples.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Numbers, one or several per sample.
        sample_weight, groups, X_val, y_val
            See `FineTuneClassifier.fit`.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If y is not numeric and finite, or differs in length from X; if no sample can be held out; if a parameter
            is out of range; or if the method finds nothing to train in the backbone.
        DecodeError
            If a sample cannot be read. The error names its index.
        """
        return self._fit(X, y, sample_weight, groups, X_val, y_val)

    def score(self, X, y, sample_weight=None) -> float:
        """Return the coefficient of determination of the predictions, R².

        Parameters
        ----------
        X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
            Raw samples.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            True numbers, in any form that `fit` takes.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        float
            R², at most 1; for several targets, their mean.
        """
        check_is_fitted(self)
        return super().score(X, self._check_targets(y, warn_column=False), sample_weight)

    def _validate_params(self):
        super()._validate_params()
        smoothing = 0 if self.optimization is None else self.optimization.label_smoothing
        if smoothing:
            raise ValueError(f"label_smoothing={smoothing!r} is for classifiers only. Use label_smoothing=0.")

    def _check_targets(self, y, name="y", *, warn_column=True):
        return as_numbers(y, name, warn_column=warn_column)

    def _task(self, y):
        from skembed.finetune.tasks import Regression

        columns = y.reshape(len(y), -1)
        scale = columns.std(axis=0)
        return Regression(columns.mean(axis=0), np.where(scale > 0, scale, 1.0), y.ndim == 1, self.scoring)

    def _score_name(self):
        return "R²" if self.scoring is None else super()._score_name()

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
