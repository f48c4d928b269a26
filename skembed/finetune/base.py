"""Base of the fine-tuning estimators: parameters, checked input, and one fit."""

from __future__ import annotations

import time
from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skembed.augment import Augmentation, AugmentationPipeline, resolve_augmentation
from skembed.augment.mixing import mixed_level, resolve_mix
from skembed.backbones.tuning.method import Method, resolve_method
from skembed.embedders.base import BaseEmbedder
from skembed.embedders.encoder import Encoder
from skembed.exceptions import FitWarning, TruncationWarning
from skembed.finetune import checks
from skembed.finetune.advised import build_advised
from skembed.finetune.checks import CheckedData
from skembed.finetune.parameters import FineTuneParametersMixin
from skembed.finetune.predicting import PredictingMixin
from skembed.finetune.report import describe_epoch, describe_fit
from skembed.finetune.validation import hold_out
from skembed.inputs import check_present
from skembed.inputs.target_kinds import describe_one_hot, know_targets
from skembed.optimization import Optimization
from skembed.strategies import STRATEGIES, Progressive, Strategy
from skembed.utils.progress import showing
from skembed.utils.sklearn_private import CallbackSupportMixin
from skembed.utils.warnings import silenced, warn

if TYPE_CHECKING:
    from skembed.assessment.advice import Advice
    from skembed.finetune.callbacks import FitCallbacks
    from skembed.finetune.data import Views
    from skembed.finetune.loop import Settings
    from skembed.finetune.plan import FitPlan
    from skembed.finetune.record import FitRecord
    from skembed.finetune.warm_start import EarlierFit

__all__ = ["BaseFineTuner", "check_targets_of", "score_name_of"]


def score_name_of(fitted: BaseFineTuner) -> str:
    """Return the name of the score that a fine-tuner is judged by, such as "accuracy"."""
    return fitted._score_name()


def check_targets_of(fitted: BaseFineTuner, y: Any) -> np.ndarray:
    """Return y as a fine-tuner's `fit` checks and converts it."""
    return fitted._check_targets(y)


class BaseFineTuner(PredictingMixin, FineTuneParametersMixin, TransformerMixin, CallbackSupportMixin, BaseEstimator):
    """Base of the fine-tuning estimators; see `skembed.FineTuneClassifier` for the parameters."""

    #: True to store activations of frozen blocks; tests compare with a fit that computes them in every epoch.
    _replay: ClassVar[bool] = True

    # -- for subclasses ----------------------------------------------------------------------------------

    @abstractmethod
    def _check_targets(self, y: Any, name: str = "y", *, warn_column: bool = True) -> np.ndarray: ...

    @abstractmethod
    def _task(self, y: np.ndarray) -> Any: ...

    def _class_weights(self, y: np.ndarray) -> np.ndarray:
        return np.ones(len(y))

    _stratified: ClassVar[bool] = False
    #: Name of the kind of target.
    _kind: ClassVar[str]

    # -- fit --------------------------------------------------------------------------------------------

    def _fit(self, X, y, sample_weight, groups, X_val, y_val):
        # Progress bars show what runs before the first epoch, and how long an epoch or a diagnosis takes.
        with showing(bool(self.verbose)):
            return self._fit_and_diagnose(X, y, sample_weight, groups, X_val, y_val)

    def _fit_and_diagnose(self, X, y, sample_weight, groups, X_val, y_val):
        from skembed.assessment.diagnosis import Diagnosis
        from skembed.finetune.callbacks import FitCallbacks
        from skembed.finetune.examine import diagnose_fit
        from skembed.finetune.fitting import run_fit
        from skembed.finetune.plan import FitHooks
        from skembed.finetune.recipe import INTERRUPTED

        plan = self._plan(X, y, sample_weight, groups, X_val, y_val)
        callbacks = FitCallbacks(self, plan, X, y, sample_weight)
        record = run_fit(plan, FitHooks(self._begin_report(callbacks), callbacks.follow, self._announce))
        self._finish(plan, record)
        interrupted = record.progress.ended == INTERRUPTED
        # Replaces the diagnosis of an earlier fit, in case the new one is interrupted.
        self.diagnosis_ = Diagnosis(findings=(), checked=())
        try:
            self.diagnosis_ = diagnose_fit(plan, record, self)
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
            "weights so far. To continue without this exception, use on_interrupt='keep'."
        )

    def _plan(self, X, y, sample_weight=None, groups=None, X_val=None, y_val=None) -> FitPlan:
        """Return the plan of a fit, from checked input."""
        from skembed.finetune.plan import FitPlan, plan_stages

        earlier = self._earlier_fit()
        embedder = self._starting_embedder(X, earlier)
        encoder = Encoder(embedder)
        given = self._checked_samples(encoder, X, y, sample_weight, groups)
        task = self._task(given.y)
        start = None if earlier is None else earlier.start(embedder, task)
        seed, rng = self._seed()
        data = self._split(given, embedder, X_val, y_val, rng)
        n_held_out, own_validation = len(data.held_out), X_val is not None
        views = self._views(encoder, seed)
        checks.warn_of_idle_views(self.augment, self.n_views)
        checks.warn_of_single(len(given.y), n_held_out, self.validation_fraction, given=own_validation)
        advice = self._advice(embedder, data, seed)
        strategy, method = self._followed(advice)
        max_epochs = int(self.max_epochs)
        return FitPlan(
            encoder=encoder,
            samples=data.samples,
            y=data.y,
            targets=task.encode(data.y),
            weights=data.weights * self._class_weights(data.y),
            task=task,
            train=data.train,
            held_out=data.held_out,
            positions=data.positions,
            strategy=strategy,
            method=method,
            stages=plan_stages(strategy, method, encoder, max_epochs),
            settings=self._settings(encoder.modality, method),
            max_epochs=max_epochs,
            patience=int(self.patience),
            seed=seed,
            refit=bool(self.refit) and not own_validation,
            views=views,
            replay=self._replay,
            own_validation=own_validation,
            grouped=groups is not None,
            checkpoint_dir=self.checkpoint_dir,
            advice=advice,
            start=start,
            notes=data.notes,
        )

    def _checked_samples(self, encoder: Encoder, X, y, sample_weight, groups) -> CheckedData:
        """Return the samples of X that can be embedded and have weight, with what belongs to them."""
        samples = encoder.samples(X)
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None.")
        checks.check_lengths(len(samples), {"y": y, "sample_weight": sample_weight, "groups": groups})
        if groups is not None:
            check_present(groups, "groups")
        y = self._check_targets(y)
        weights = checks.check_weights(sample_weight, len(y))
        n_rows, weighing = len(samples), np.flatnonzero(weights)
        positions = weighing[checks.readable(encoder.embedder, [samples[i] for i in weighing])]
        notes = checks.describe_left_out(n_rows, weighing, positions) + describe_one_hot(y)
        samples, y, weights, groups = checks.taken(positions, samples, y, weights, groups)
        return CheckedData(samples, y, weights, groups, positions, tuple(notes), n_rows)

    def _split(self, given: CheckedData, embedder: BaseEmbedder, X_val, y_val, rng) -> CheckedData:
        """Return the samples of X and X_val, and the positions of the training and the held-out samples."""
        n_given = len(given.y)
        if X_val is None and y_val is None:
            stratify = self._stratified and given.y.ndim == 1
            train, held_out = hold_out(given.y, self.validation_fraction, rng, groups=given.groups, stratify=stratify)
            self._check_split(given.y, train)
            return replace(given, train=train, held_out=held_out)
        X_val, y_val, lost = self._check_validation(embedder, X_val, y_val)
        if given.y.shape[1:] != y_val.shape[1:]:
            raise ValueError(f"y has shape {given.y.shape} and y_val {y_val.shape}: give both in one form.")
        self._check_known(y_val)
        return replace(
            given,
            samples=[*given.samples, *X_val],
            y=np.concatenate([given.y, y_val]),
            weights=np.concatenate([given.weights, np.ones(len(y_val))]),
            positions=np.concatenate([given.positions, given.n_rows + np.arange(len(y_val))]),
            notes=(*given.notes, *lost),
            train=np.arange(n_given),
            held_out=np.arange(n_given, n_given + len(y_val)),
        )

    def _followed(self, advice: Advice | None) -> tuple[Strategy, Method]:
        """Return the strategy and the method of this fit as new objects."""
        method = clone(resolve_method(self.method))
        if advice is None:
            return clone(STRATEGIES[self.strategy]() if isinstance(self.strategy, str) else self.strategy), method
        # Longer stages are advised together with more epochs, and `max_epochs` is the user's.
        strategy = Progressive() if isinstance(advice.strategy, Progressive) else clone(advice.strategy)
        return strategy, method if method.name != "weights" else clone(advice.method)

    def _advice(self, embedder: BaseEmbedder, data: CheckedData, seed: int) -> Advice | None:
        """Return advice for the training samples if ``strategy="auto"``; held-out samples have no influence."""
        if self.strategy != "auto":
            return None
        from skembed.assessment.advice import advise_samples
        from skembed.assessment.findings import of_positions

        y, train = data.y, data.train
        known = know_targets(y[train], self._kind if y.ndim == 1 or self._kind == "regression" else "multilabel")
        groups = None if data.groups is None else np.asarray(data.groups)[train]
        with silenced(TruncationWarning):  # the fit itself warns
            advice = advise_samples(
                embedder, [data.samples[i] for i in train], known, groups=groups, seed=seed, build=build_advised
            )
        # Groups of a part of the samples would not fit X.
        return replace(advice, findings=of_positions(advice.findings, data.positions[train]), groups=None)

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
        """Refuse held-out targets that cannot have been learned."""

    def _check_split(self, y: np.ndarray, train: np.ndarray) -> None:
        """Refuse a split whose training side lacks a class."""

    def _seed(self) -> tuple[int, np.random.Generator]:
        state = self.random_state
        if state is None and self.checkpoint_dir is not None:
            # A resumed fit must draw the same random numbers as before.
            state = 0
        seed = int(check_random_state(state).randint(2**31 - 1))
        return seed, np.random.default_rng(seed)

    def _augmentation(self, embedder: BaseEmbedder) -> AugmentationPipeline | None:
        return None if self.augment is None else resolve_augmentation(self.augment, Encoder(embedder).modality)

    def _views(self, encoder: Encoder, seed: int) -> Views | None:
        from skembed.finetune.data import Views

        augmentation = self._augmentation(encoder.embedder)
        if augmentation is None:
            return None
        views = self.augment.views if isinstance(self.augment, Augmentation) else None
        return Views(augmentation, seed, None if views is None else int(views))

    def _settings(self, modality: str, method: Method) -> Settings:
        from skembed.finetune.loop import Settings

        optimization = Optimization() if self.optimization is None else self.optimization
        mixup, cutmix = resolve_mix(self.mix)
        return Settings.of(
            optimization,
            learning_rate=float(self.learning_rate),
            batch_size=int(self.batch_size),
            rate_factor=method.rate_factor,
            mixup=0.0 if mixup is None else float(mixup.alpha),
            mixup_on=mixed_level(mixup, cutmix, modality),
            cutmix=0.0 if cutmix is None else float(cutmix.alpha),
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

    def _finish(self, plan: FitPlan, record: FitRecord) -> None:
        from skembed.finetune.warm_start import origin_of

        n_held_out = len(plan.held_out)
        self.strategy_, self.method_, self.advice_ = plan.strategy, plan.method, plan.advice
        self.embedder_ = record.embedder
        self._origin = origin_of(self._given_embedder())
        self.kept_ = record.kept
        self.history_ = record.progress.history
        self.n_epochs_ = len(record.progress.history)
        self.validation_score_ = record.scores.score if n_held_out else None
        self.probe_score_ = record.probe_scores.score if n_held_out else None
        self.head_coef_ = record.head.weight
        self.head_intercept_ = record.head.bias
        self.temperature_ = record.head.temperature
        self._predicting = plan.task
        self.report_ = describe_fit(
            record.progress,
            plan.stages,
            kept=record.kept,
            n_train=len(plan.train),
            n_held_out=n_held_out,
            score_name=self._score_name(),
            notes=record.notes,
        )
        if record.progress.ended.startswith("diverged"):
            warn(
                f"Training stopped: {record.progress.ended.partition(': ')[2]} The best weights so far were kept. "
                f"learning_rate={self.learning_rate} is too high for these data: try {self.learning_rate / 10:.2g}, "
                "or see find_learning_rate.",
                FitWarning,
            )

    def _score_name(self) -> str:
        return "score" if self.scoring is None else str(getattr(self.scoring, "__name__", self.scoring))

    # Here and not beside `predict`: scikit-learn's set_output wraps what is defined below its mixin.
    def transform(self, X) -> np.ndarray:
        """Embed raw samples with the backbone that was kept, fine-tuned or frozen.

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
        """Return names of the columns that `transform` returns.

        Parameters
        ----------
        input_features : ignored
            Exists for compatibility with scikit-learn.
        """
        check_is_fitted(self)
        return self.embedder_.get_feature_names_out(input_features)

    def __sklearn_tags__(self):
        from skembed.embedders.text import TextEmbedder

        tags = super().__sklearn_tags__()
        embedder = TextEmbedder() if self.embedder is None else self.embedder
        if isinstance(embedder, BaseEmbedder):
            tags.input_tags = embedder.__sklearn_tags__().input_tags
        tags.target_tags.required = True
        # Rows are float32 for any input.
        tags.transformer_tags.preserves_dtype = []
        return tags
