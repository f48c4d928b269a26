"""What the fine-tuning estimators share: checked input, and one fit."""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from dataclasses import replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skembed.embedders.base import BaseEmbedder
from skembed.embedders.encoder import Encoder
from skembed.exceptions import FitWarning, TruncationWarning
from skembed.finetune import checks
from skembed.finetune.advised import build_advised
from skembed.finetune.predicting import PredictingMixin
from skembed.finetune.report import describe_epoch, describe_fit
from skembed.finetune.schedules import SCHEDULES
from skembed.finetune.validation import hold_out
from skembed.inputs import check_present
from skembed.inputs.target_kinds import describe_one_hot, know_targets
from skembed.strategies import STRATEGIES, Method, check_target_modules, hint_at_strategy, resolve_factor
from skembed.utils.parameters import HintingParametersMixin, check_path
from skembed.utils.progress import showing
from skembed.utils.sklearn_private import CallbackSupportMixin, Interval, StrOptions
from skembed.utils.warnings import silenced, warn

if TYPE_CHECKING:
    from skembed.assessment.advice import Advice
    from skembed.finetune.callbacks import FitCallbacks
    from skembed.finetune.request import Request
    from skembed.finetune.warm_start import EarlierFit

__all__ = ["BaseFineTuner", "check_targets_of", "score_name_of"]


def score_name_of(fitted: BaseFineTuner) -> str:
    """Return the name of the score that a fine-tuner is judged by, such as "accuracy"."""
    return fitted._score_name()


def check_targets_of(fitted: BaseFineTuner, y: Any) -> np.ndarray:
    """Return y as a fine-tuner's `fit` checks and converts it."""
    return fitted._check_targets(y)


class BaseFineTuner(PredictingMixin, HintingParametersMixin, TransformerMixin, CallbackSupportMixin, BaseEstimator):
    """A head, and as much of the backbone as the strategy says, trained on raw samples.

    See `skembed.FineTuneClassifier`, where every parameter is explained.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "embedder": [BaseEmbedder, None],
        "strategy": [StrOptions({*STRATEGIES, "auto"})],
        "n_unfrozen": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "lora_rank": [Interval(Integral, 1, None, closed="left")],
        "lora_alpha": [Interval(Real, 0, None, closed="neither")],
        "lora_dropout": [Interval(Real, 0, 1, closed="left")],
        "target_modules": ["array-like", None],
        "adapter_width": [Interval(Integral, 1, None, closed="left")],
        "n_virtual_tokens": [Interval(Integral, 1, None, closed="left")],
        "backbone_factor": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "layer_decay": [Interval(Real, 0, 1, closed="right")],
        "schedule": [StrOptions(set(SCHEDULES))],
        "max_epochs": [Interval(Integral, 0, None, closed="left")],
        "stage_epochs": [Interval(Integral, 1, None, closed="left")],
        "unfreeze_step": [Interval(Integral, 1, None, closed="left"), StrOptions({"double"})],
        "patience": [Interval(Integral, 1, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "l2_sp": [Interval(Real, 0, None, closed="left")],
        "mixup": [Interval(Real, 0, None, closed="left")],
        "mixup_on": [StrOptions({"auto", "inputs", "features"})],
        "cutmix": [Interval(Real, 0, None, closed="left")],
        "augment": "no_validation",
        "augment_views": [Interval(Integral, 1, None, closed="left"), None],
        "n_views": [Interval(Integral, 1, None, closed="left")],
        "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
        "ema": [Interval(Real, 0, 1, closed="neither"), None],
        "scoring": [str, callable, None],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither"), None],
        "refit": ["boolean"],
        "replay_prefix": ["boolean"],
        "checkpoint_dir": [str, os.PathLike, None],
        "on_interrupt": [StrOptions({"raise", "keep"})],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    # -- what a subclass says ---------------------------------------------------------------------------

    @abstractmethod
    def _check_targets(self, y: Any, name: str = "y", *, warn_column: bool = True) -> np.ndarray: ...

    @abstractmethod
    def _task(self, y: np.ndarray) -> Any: ...

    def _class_weights(self, y: np.ndarray) -> np.ndarray:
        return np.ones(len(y))

    _stratified: ClassVar[bool] = False
    #: What one column of targets is.
    _kind: ClassVar[str]

    # -- parameters -------------------------------------------------------------------------------------

    def _validate_params(self) -> None:
        super()._validate_params()
        check_path(self.checkpoint_dir, "checkpoint_dir")
        check_target_modules(self.target_modules)

    def _hint(self, name: str, value: Any) -> str:
        if name == "strategy" and isinstance(value, str):
            return hint_at_strategy(value)
        if name == "target_modules" and isinstance(value, str):
            return f" Give a list: target_modules=[{value!r}]."
        if name == "embedder" and isinstance(value, type):
            return f" Give an object, not its class: {value.__name__}()."
        if name == "embedder" and isinstance(value, str):
            return f" Give an embedder of it, such as TextEmbedder({value!r})."
        return super()._hint(name, value)

    # -- fit --------------------------------------------------------------------------------------------

    def _fit(self, X, y, sample_weight, groups, X_val, y_val):
        # A shown bar tells what runs before the first epoch, and how long an epoch or a diagnosis takes.
        with showing(bool(self.verbose)):
            return self._fit_and_diagnose(X, y, sample_weight, groups, X_val, y_val)

    def _fit_and_diagnose(self, X, y, sample_weight, groups, X_val, y_val):
        from skembed.assessment.diagnosis import Diagnosis
        from skembed.finetune.callbacks import FitCallbacks
        from skembed.finetune.examine import diagnose_fit
        from skembed.finetune.fitting import run_fit
        from skembed.finetune.recipe import INTERRUPTED

        request = self._request(X, y, sample_weight, groups, X_val, y_val)
        callbacks = FitCallbacks(self, request, X, y, sample_weight)
        request = replace(
            request, report=self._begin_report(callbacks), follow=callbacks.follow, announce=self._announce
        )
        outcome = run_fit(request)
        self.strategy_, self.advice_ = request.strategy, request.advice
        self._finish(outcome, request.task, len(request.train), len(request.held_out))
        interrupted = outcome.progress.ended == INTERRUPTED
        # Replaces the diagnosis of an earlier fit, in case the new one is interrupted.
        self.diagnosis_ = Diagnosis(findings=(), checked=())
        try:
            self.diagnosis_ = diagnose_fit(request, outcome, self, grouped=groups is not None)
        except KeyboardInterrupt:
            interrupted = True
        callbacks.end()
        if interrupted:
            self._end_interrupted()
        return self

    def _end_interrupted(self) -> None:
        """Warn of an interrupt or raise it again, now that the estimator is fitted."""
        if self.on_interrupt == "keep":
            warn("The fit was interrupted; the best weights so far were kept.", FitWarning)
            return
        raise KeyboardInterrupt(
            f"The fit was interrupted after {self.n_epochs_} epochs; this estimator is fitted with the best "
            "weights so far. To go on without this exception, use on_interrupt='keep'."
        )

    def _request(self, X, y, sample_weight=None, groups=None, X_val=None, y_val=None) -> Request:
        """What is to be fitted, all of it checked."""
        from skembed.finetune.request import Request

        earlier = self._earlier_fit()
        embedder = self._starting_embedder(X, earlier)
        encoder = Encoder(embedder)
        samples = encoder.samples(X)
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None.")
        checks.check_lengths(len(samples), {"y": y, "sample_weight": sample_weight, "groups": groups})
        if groups is not None:
            check_present(groups, "groups")
        y = self._check_targets(y)
        weights = checks.check_weights(sample_weight, len(y))
        n_rows, weighing = len(samples), np.flatnonzero(weights)
        positions = weighing[checks.readable(embedder, [samples[i] for i in weighing])]
        notes = checks.describe_left_out(n_rows, weighing, positions) + describe_one_hot(y)
        samples, y, weights, groups = checks.taken(positions, samples, y, weights, groups)
        n_given = len(y)
        if X_val is not None or y_val is not None:
            X_val, y_val, lost = self._check_validation(embedder, X_val, y_val)
            notes += lost
        task = self._task(y)
        start = None if earlier is None else earlier.start(embedder, task)
        seed, rng = self._seed()
        if X_val is None:
            stratify = self._stratified and y.ndim == 1
            train, held_out = hold_out(y, self.validation_fraction, rng, groups=groups, stratify=stratify)
            self._check_split(y, train)
        else:
            if y.shape[1:] != y_val.shape[1:]:
                raise ValueError(f"y has shape {y.shape} and y_val {y_val.shape}: give both in one form.")
            self._check_known(y_val)
            samples, y = [*samples, *X_val], np.concatenate([y, y_val])
            positions = np.concatenate([positions, n_rows + np.arange(len(y_val))])
            weights = np.concatenate([weights, np.ones(len(y_val))])
            train, held_out = np.arange(n_given), np.arange(n_given, len(y))
        checks.warn_of_idle_views(self.augment, self.n_views, self.augment_views)
        checks.warn_of_single(n_given, len(held_out), self.validation_fraction, given=X_val is not None)
        advice = self._advice(embedder, samples, y, train, groups, positions, seed)
        strategy = self.strategy if advice is None else advice.strategy
        method = Method.of({**self.get_params(deep=False), "strategy": strategy})
        return Request(
            encoder=encoder,
            samples=samples,
            y=y,
            weights=weights * self._class_weights(y),
            task=task,
            train=train,
            held_out=held_out,
            settings=self._settings(embedder, method),
            strategy=strategy,
            n_unfrozen=int(self.n_unfrozen if advice is None else advice.settings.get("n_unfrozen", self.n_unfrozen)),
            max_epochs=int(self.max_epochs),
            stage_epochs=int(self.stage_epochs),
            unfreeze_step=self.unfreeze_step,
            patience=int(self.patience),
            replay=bool(self.replay_prefix),
            refit=bool(self.refit) and X_val is None,
            seed=seed,
            augmentation=self._augmentation(embedder),
            augment_views=None if self.augment_views is None else int(self.augment_views),
            method=method,
            checkpoint_dir=self.checkpoint_dir,
            positions=positions,
            own_validation=X_val is not None,
            advice=advice,
            start=start,
            notes=tuple(notes),
        )

    def _advice(self, embedder: BaseEmbedder, samples, y, train, groups, positions, seed: int) -> Advice | None:
        """With ``strategy="auto"``, what is advised for the samples to train on; what is held out has no say."""
        if self.strategy != "auto":
            return None
        from skembed.assessment.advice import advise_samples
        from skembed.assessment.findings import of_positions

        known = know_targets(y[train], self._kind if y.ndim == 1 or self._kind == "regression" else "multilabel")
        own = None if groups is None else np.asarray(groups)[train]
        with silenced(TruncationWarning):  # the fit itself warns
            advice = advise_samples(
                embedder, [samples[i] for i in train], known, groups=own, seed=seed, build=build_advised
            )
        # Groups of a part of the samples are of no use to anyone.
        return replace(advice, findings=of_positions(advice.findings, positions[train]), groups=None)

    def _earlier_fit(self) -> EarlierFit | None:
        """Return what a warm start begins with; None for a cold one."""
        if not (self.warm_start and hasattr(self, "embedder_")):
            return None
        from skembed.finetune.warm_start import EarlierFit

        return EarlierFit(self._origin, self.embedder_, self._head, self._predicting)

    def _given_embedder(self) -> BaseEmbedder:
        from skembed.embedders.text import TextEmbedder

        return TextEmbedder() if self.embedder is None else self.embedder

    def _starting_embedder(self, X, earlier: EarlierFit | None) -> BaseEmbedder:
        unfitted = self._given_embedder()
        embedder = clone(unfitted) if earlier is None else earlier.starting_embedder(unfitted)
        embedder.fit(X)
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(embedder, name):
                setattr(self, name, getattr(embedder, name))
            else:
                self.__dict__.pop(name, None)
        return embedder

    def _check_validation(self, embedder: BaseEmbedder, X_val, y_val):
        if X_val is None or y_val is None:
            missing = "X_val" if X_val is None else "y_val"
            raise ValueError(f"{missing} is None: give both X_val and y_val, or neither.")
        samples = Encoder(embedder).samples(X_val)
        checks.check_lengths(len(samples), {"y_val": y_val}, name="X_val")
        y_val, everything = self._check_targets(y_val, "y_val"), np.arange(len(samples))
        kept = checks.readable(embedder, samples, "X_val")
        samples, y_val, *_ = checks.taken(kept, samples, y_val, np.ones(len(y_val)), None)
        return samples, y_val, checks.describe_left_out(len(everything), everything, kept, "X_val")

    def _check_known(self, y_val: np.ndarray) -> None:
        """Whether what is held out can have been learned."""

    def _check_split(self, y: np.ndarray, train: np.ndarray) -> None:
        """Whether the training side can teach what the estimator has to know."""

    def _seed(self) -> tuple[int, np.random.Generator]:
        state = self.random_state
        if state is None and self.checkpoint_dir is not None:
            # A fit that goes on must draw what it drew before.
            state = 0
        seed = int(check_random_state(state).randint(2**31 - 1))
        return seed, np.random.default_rng(seed)

    def _augmentation(self, embedder: BaseEmbedder):
        from skembed.augment import resolve_augmentation

        return None if self.augment is None else resolve_augmentation(self.augment, Encoder(embedder).modality)

    def _settings(self, embedder: BaseEmbedder, method: Method):
        from skembed.augment.mixing import resolve_mixup_on
        from skembed.finetune.loop import Settings

        return Settings(
            learning_rate=float(self.learning_rate),
            backbone_factor=resolve_factor(self.backbone_factor, method.name),
            layer_decay=float(self.layer_decay),
            schedule=self.schedule,
            batch_size=int(self.batch_size),
            dropout=float(self.dropout),
            weight_decay=float(self.weight_decay),
            l2_sp=float(self.l2_sp),
            label_smoothing=float(getattr(self, "label_smoothing", 0.0)),
            mixup=float(self.mixup),
            mixup_on=resolve_mixup_on(self.mixup_on, Encoder(embedder).modality, cutmix=self.cutmix),
            cutmix=float(self.cutmix),
            clip_norm=None if self.clip_norm is None else float(self.clip_norm),
            ema=None if self.ema is None else float(self.ema),
        )

    def _announce(self, sentence: str) -> None:
        """Print a sentence about the running fit if `verbose` asks for it."""
        if self.verbose:
            print(f"[{type(self).__name__}] {sentence}", flush=True)

    def _begin_report(self, callbacks: FitCallbacks):
        """Return a function that prints each epoch and asks scikit-learn's callbacks whether to stop."""

        started = time.monotonic()

        def report(record: dict[str, Any]) -> bool:
            self._announce(describe_epoch(record, time.monotonic() - started))
            return callbacks.end_epoch()

        return report

    def _finish(self, outcome, task, n_train: int, n_held_out: int) -> None:
        from skembed.finetune.warm_start import origin_of

        self.embedder_ = outcome.embedder
        self._origin = origin_of(self._given_embedder())
        self.kept_ = outcome.kept
        self.history_ = outcome.progress.history
        self.n_epochs_ = len(outcome.progress.history)
        self.validation_score_ = outcome.scores.score if n_held_out else None
        self.probe_score_ = outcome.probe_scores.score if n_held_out else None
        self.head_coef_ = outcome.head.weight
        self.head_intercept_ = outcome.head.bias
        self.temperature_ = outcome.head.temperature
        self._predicting = task
        self.report_ = describe_fit(
            outcome.progress,
            outcome.stages,
            kept=outcome.kept,
            n_train=n_train,
            n_held_out=n_held_out,
            score_name=self._score_name(),
            notes=outcome.notes,
        )
        if outcome.progress.ended.startswith("diverged"):
            warn(
                f"Training stopped: {outcome.progress.ended.partition(': ')[2]} The best weights so far were kept. "
                f"learning_rate={self.learning_rate} is too high for this data: try {self.learning_rate / 10:.2g}, "
                "or see find_learning_rate.",
                FitWarning,
            )

    def _score_name(self) -> str:
        return "score" if self.scoring is None else str(getattr(self.scoring, "__name__", self.scoring))

    # Here and not beside `predict`: scikit-learn's set_output heeds what is defined below its mixin.
    def transform(self, X) -> np.ndarray:
        """Embed raw samples with what was kept: the fine-tuned backbone, or the frozen one.

        Parameters
        ----------
        X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
            Raw samples.

        Returns
        -------
        ndarray of shape (n_samples, n_features), float32
        """
        check_is_fitted(self)
        return self.embedder_.embed(X)

    if TYPE_CHECKING:  # scikit-learn's own have no types

        def fit_transform(self, X: Any, y: Any = None, **fit_params: Any) -> np.ndarray: ...

        def score(self, X: Any, y: Any, sample_weight: Any = None) -> float: ...

    def get_feature_names_out(self, input_features=None) -> np.ndarray:
        """Names of the columns that `transform` returns."""
        check_is_fitted(self)
        return self.embedder_.get_feature_names_out(input_features)

    def __sklearn_tags__(self):
        from skembed.embedders.text import TextEmbedder

        tags = super().__sklearn_tags__()
        embedder = TextEmbedder() if self.embedder is None else self.embedder
        if isinstance(embedder, BaseEmbedder):
            tags.input_tags = embedder.__sklearn_tags__().input_tags
        tags.target_tags.required = True
        # Rows are float32 whatever comes in.
        tags.transformer_tags.preserves_dtype = []
        return tags
