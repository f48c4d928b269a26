"""FineTuneRegressor: as FineTuneClassifier, for numbers."""

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
    """Predict numbers from raw samples with a pre-trained backbone, trained as deep as it helps and no deeper.

    A ridge regression on frozen embeddings is fitted first. Training starts from it, and has to beat it on samples that
    were held out: otherwise it is what is kept. Targets are standardised inside; the loss is the squared error.

    Parameters
    ----------
    embedder : ImageEmbedder, TextEmbedder or AudioEmbedder, default=None
        Names the backbone, and how samples are read; None is ``TextEmbedder()``.
    strategy, n_unfrozen, learning_rate, backbone_factor, layer_decay, schedule
        See `FineTuneClassifier`.
    lora_rank, lora_alpha, lora_dropout, target_modules, adapter_width, n_virtual_tokens
        See `FineTuneClassifier`.
    max_epochs, stage_epochs, unfreeze_step, patience, batch_size
        See `FineTuneClassifier`.
    dropout, weight_decay, l2_sp, mixup, mixup_on, cutmix, augment, augment_views, n_views, clip_norm, ema
        See `FineTuneClassifier`.
    scoring : str or callable, default=None
        The scorer by which epochs are compared. None compares the held-out squared error.
    validation_fraction, refit, replay_prefix, checkpoint_dir, on_interrupt, warm_start, random_state, verbose
        See `FineTuneClassifier`.

    Attributes
    ----------
    diagnosis_, strategy_, advice_
        See `FineTuneClassifier`.
    embedder_, kept_, history_, report_, n_epochs_, validation_score_, probe_score_, head_coef_, head_intercept_
        See `FineTuneClassifier`; scores are R². The head predicts standardised targets.

    References
    ----------
    See `FineTuneClassifier`.

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
        n_unfrozen=1,
        lora_rank=8,
        lora_alpha=16.0,
        lora_dropout=0.0,
        target_modules=None,
        adapter_width=32,
        n_virtual_tokens=10,
        learning_rate=1e-3,
        backbone_factor="auto",
        layer_decay=0.8,
        schedule="slanted_triangular",
        max_epochs=30,
        stage_epochs=5,
        unfreeze_step="double",
        patience=10,
        batch_size=32,
        dropout=0.1,
        weight_decay=0.01,
        l2_sp=0.0,
        mixup=0.0,
        mixup_on="auto",
        cutmix=0.0,
        augment=None,
        augment_views=None,
        n_views=1,
        clip_norm=1.0,
        ema=None,
        scoring=None,
        validation_fraction=0.2,
        refit=True,
        replay_prefix=True,
        checkpoint_dir=None,
        on_interrupt="raise",
        warm_start=False,
        random_state=None,
        verbose=False,
    ):
        self.embedder = embedder
        self.strategy = strategy
        self.n_unfrozen = n_unfrozen
        self.lora_rank = lora_rank
        self.lora_alpha = lora_alpha
        self.lora_dropout = lora_dropout
        self.target_modules = target_modules
        self.adapter_width = adapter_width
        self.n_virtual_tokens = n_virtual_tokens
        self.learning_rate = learning_rate
        self.backbone_factor = backbone_factor
        self.layer_decay = layer_decay
        self.schedule = schedule
        self.max_epochs = max_epochs
        self.stage_epochs = stage_epochs
        self.unfreeze_step = unfreeze_step
        self.patience = patience
        self.batch_size = batch_size
        self.dropout = dropout
        self.weight_decay = weight_decay
        self.l2_sp = l2_sp
        self.mixup = mixup
        self.mixup_on = mixup_on
        self.cutmix = cutmix
        self.augment = augment
        self.augment_views = augment_views
        self.n_views = n_views
        self.clip_norm = clip_norm
        self.ema = ema
        self.scoring = scoring
        self.validation_fraction = validation_fraction
        self.refit = refit
        self.replay_prefix = replay_prefix
        self.checkpoint_dir = checkpoint_dir
        self.on_interrupt = on_interrupt
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y, sample_weight=None, *, groups=None, X_val=None, y_val=None) -> Self:
        """Fit the probe, train from it, keep the better of the two.

        Parameters
        ----------
        X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
            Raw samples.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Numbers.
        sample_weight, groups, X_val, y_val
            See `FineTuneClassifier.fit`.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If y holds what is no finite number or is not as long as X, nothing can be held out, a parameter is out of
            range, or the backbone has no place for what the strategy would train.
        DecodeError
            If a sample cannot be read; names its index.
        """
        return self._fit(X, y, sample_weight, groups, X_val, y_val)

    def score(self, X, y, sample_weight=None) -> float:
        """Return the coefficient of determination of the predictions, R².

        Parameters
        ----------
        X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
            Raw samples.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Their numbers, in any form that `fit` takes.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        float
            R², 1 at most; of several targets their mean.
        """
        check_is_fitted(self)
        return super().score(X, self._check_targets(y, warn_column=False), sample_weight)

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
