"""FineTuneClassifier: from a frozen head to the whole network."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import check_is_fitted

from skembed.exceptions import FitWarning
from skembed.finetune.base import BaseFineTuner
from skembed.inputs import check_comparable
from skembed.inputs.target_kinds import as_classes_or_labels, check_class_weight, looks_like_numbers
from skembed.utils.sklearn_private import StrOptions, fit_context, with_callbacks
from skembed.utils.warnings import warn

__all__ = ["FineTuneClassifier"]


class FineTuneClassifier(ClassifierMixin, BaseFineTuner):
    """Classify raw samples with a pre-trained backbone, trained only as deep as it helps.

    A regularized linear probe is fitted on frozen embeddings first. Training starts from this probe and has to beat it
    on held-out samples. Otherwise the probe is kept, and `report_` says so.

    Parameters
    ----------
    embedder : ImageEmbedder, TextEmbedder or AudioEmbedder, default=None
        Embedder with the backbone to train; it also defines how samples are read. None uses ``TextEmbedder()``. Search
        its parameters as ``embedder__backbone`` and so on. Its `precision` applies to training too: with bfloat16, the
        backbone's linear layers multiply in bfloat16 on processors that support it [3]_, and all weights and
        optimizer states stay float32.
    strategy : {"head", "partial", "full", "progressive", "auto"} or Strategy, default="progressive"
        Blocks of the backbone that train, and when. A name stands for the default object.

        - `Head` trains the head alone. It is the cheapest strategy, and enough if the backbone knows data like yours.
        - `Partial` also trains the top blocks, from the start.
        - `Full` trains all blocks from the start. Use it with thousands of samples per class.
        - `Progressive` trains the head first, then more and more blocks from the top, as long as that improves the
          held-out loss. It is the safe choice.
        - "auto" follows `skembed.advise` on the training samples, without looking at held-out ones; see `strategy_` and
          `advice_`. It also chooses the method, unless you give another one than "weights". It changes no other
          parameter. It does not time the machine, so `random_state` repeats the choice everywhere.
    method : {"weights", "lora", "ia3", "adapter", "prefix", "prompt", "bitfit", "norms"} or Method, default="weights"
        Parameters that train in these blocks. A name stands for the default object. `Weights` trains all tensors of
        the blocks. `LoRA`, `IA3`, `Adapter`, `BitFit` and `Norms` train far fewer parameters and work with all
        backbones. `Prefix` and `Prompt` work with text backbones of BERT's kind. With every method but `Prompt`,
        training starts from the function of the frozen network.
    learning_rate : float, default=1e-3
        Peak learning rate of the head; `optimization` derives the rates of the blocks from it. Lower it if `report_` or
        `diagnosis_` says that training diverged or was unstable; `find_learning_rate` suggests a value.
    max_epochs : int, default=30
        Largest number of epochs of the whole fit. Raise it if `diagnosis_` reports underfitting. With 0,
        only the probe is fitted.
    batch_size : int, default=32
        Samples per step. If they do not fit into memory, they are trained in parts with the same result.
    patience : int, default=10
        Number of epochs without improvement that end a stage.
    optimization : Optimization, default=None
        Learning rates of the blocks, their schedule, and regularization: weight decay, dropout, L2-SP, label smoothing,
        gradient clipping and a moving average of the weights. None uses ``Optimization()``.
    augment : str, callable, sequence or Augmentation, default=None
        Random changes of the training samples: a preset ("light", "standard" or "strong"); an operation by name, as
        ("name", {parameters}) or as an object of `skembed.augment`; a function of a decoded sample; or a sequence of
        these. Augmentation helps most with few samples. `Augmentation` also sets how many changed views of each sample
        are stored. Held-out samples are never changed.
    mix : {"mixup", "cutmix"}, Mixup, CutMix or list of both, default=None
        Mixing of the samples of a batch and of their targets. Each target keeps the weight of its own sample. With a
        list, each batch is mixed in one of the ways, drawn with equal probability.
    n_views : int, default=1
        Number of views of each sample whose outputs are averaged in prediction: the unchanged sample and, with
        `augment`, ``n_views - 1`` changed ones. More views may raise accuracy; predictions take longer in proportion.
    class_weight : dict or "balanced", default=None
        Weights of the classes, see `sklearn.utils.class_weight.compute_class_weight`.
    scoring : str or callable, default=None
        Scorer that compares epochs. None compares held-out losses after temperature scaling, and rejects epochs whose
        accuracy is below that of the probe.
    validation_fraction : float, default=0.2
        Share of the samples that is held out, in proportion to the classes. With None, no samples are held out and no
        epoch is judged: all `max_epochs` run (`stage_epochs` in each stage of `Progressive`), and the last weights
        are kept.
    refit : bool, default=True
        If True, the best model is fitted once more on all samples, with the same stages and numbers of epochs.
    checkpoint_dir : str or PathLike, default=None
        Directory for a checkpoint after each epoch. If the process is killed, the same fit resumes from the checkpoint
        and ends with the same result. Several fits may share a directory. With a directory, ``random_state=None`` uses
        the seed 0.
    on_interrupt : {"raise", "keep"}, default="raise"
        Effect of Ctrl-C once training has begun. In both cases the estimator is fitted with the best weights so far,
        and the checkpoint stays. "raise" then raises KeyboardInterrupt, which ends searches; "keep" only warns.
    warm_start : bool, default=False
        If True, a second `fit` starts from the backbone and the head of the first. The rows of the head are matched by
        class; new and renamed classes start from a new probe. Changed parameters of `embedder` apply: the head starts
        from a new probe if the features changed (`layers`, `pooling`, `normalize`, `truncate_dim`), and everything
        starts anew with another backbone.
    random_state : int, RandomState instance or None, default=None
        Seed of the split, the order of the samples, dropout, augmentation and mixing. On a CPU an int repeats a fit
        exactly.
    verbose : bool or int, default=False
        If True, print a line per epoch with its stage, losses, and elapsed and expected time. Steps of more than half
        a second show a progress bar: embedding, recording activations, the linear probe, each epoch and the refit.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels; for multi-label targets, the numbers of the columns.
    embedder_ : ImageEmbedder, TextEmbedder or AudioEmbedder
        Fitted embedder with the weights that were kept, for use in other pipelines. Its pickle holds only the tensors
        that trained; for LoRA these are the factors, which are merged into the weights when it is loaded. Tensors that
        did not train are shared in memory with other embedders of the same backbone.
    kept_ : {"fine-tuned", "probe"}
        Model that was kept: the trained network, or the linear probe if training did not beat it.
    history_ : list of dict
        One record per epoch, with the keys

        - "epoch", "stage", "attempt" (2 if the stage was repeated with stronger regularization) and "round" (number of
          the attempt in the whole fit, from 1),
        - "unfrozen" (names of the blocks that trained), "n_trained" (number of parameters that trained, including the
          head) and "rates" (learning rate by block),
        - "train_loss", "valid_loss" and "valid_score" (None if no samples were held out),
        - "valid_error" (standard error of the difference between this held-out loss and that of the best weights
          before),
        - "best" (True if the epoch was the best so far), "replayed" (True if stored activations of the frozen blocks
          were used) and "seconds".
    report_ : str
        Summary of the fit in sentences: the stages, their scores, and the model that was kept. Print it.
    diagnosis_ : Diagnosis
        Problems of the fit with their remedies; see `skembed.diagnose`. Print it.
    strategy_ : Strategy
        Strategy that was used.
    method_ : Method
        Method that was used.
    advice_ : Advice or None
        Advice that ``strategy="auto"`` followed, with its reasons; None for other strategies.
    n_epochs_ : int
        Number of epochs, without those of the refit.
    validation_score_, probe_score_ : float or None
        Held-out scores of the kept model before the refit, and of the linear probe; None if no samples were held out.
    head_coef_ : ndarray of shape (n_outputs, n_features)
        Weights of the head, for rows of `embedder_`. Two classes have two outputs.
    head_intercept_ : ndarray of shape (n_outputs,)
        Biases of the head.
    temperature_ : float
        Divisor of the outputs that makes probabilities right on average [2]_. It is fitted to the held-out samples,
        with a prior that keeps it near 1 if they are few.

    See Also
    --------
    FineTuneRegressor : Predict numbers in the same way.
    advise : Recommend a strategy before training, with reasons.
    diagnose : Inspect a fit for problems.
    find_learning_rate : Suggest a learning rate.

    Notes
    -----
    Training starts from the probe because an untrained head would distort the pre-trained features [1]_.

    References
    ----------
    .. [1] Kumar et al. (2022), Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution.
    .. [2] Guo et al. (2017), On Calibration of Modern Neural Networks.
    .. [3] Micikevicius et al. (2018), Mixed Precision Training.

    Examples
    --------
    >>> from skembed import FineTuneClassifier
    >>> texts = ["the invoice is overdue", "your parcel has arrived", "payment was refused", "delivery is delayed"] * 5
    >>> labels = ["money", "parcel", "money", "parcel"] * 5
    >>> classifier = FineTuneClassifier(strategy="head", max_epochs=3, random_state=0).fit(texts, labels)
    >>> classifier.predict(["where is my package?"])
    array(['parcel'], dtype='<U6')

    Parameter objects are searched like any other parameter:

    >>> from skembed import LoRA, Partial
    >>> from sklearn.base import clone
    >>> from sklearn.model_selection import ParameterGrid
    >>> grid = ParameterGrid({"strategy": [Partial()], "strategy__n_blocks": [1, 2], "method": ["weights", LoRA()]})
    >>> [str(clone(classifier).set_params(**params).strategy) for params in grid]
    ['Partial()', 'Partial(n_blocks=2)', 'Partial()', 'Partial(n_blocks=2)']
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseFineTuner._parameter_constraints,
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }
    _stratified = True
    _kind = "classification"

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
        class_weight=None,
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
        self.class_weight = class_weight
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
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Classes as strings, whole numbers or booleans, also as a one-column dataframe. For several labels per
            sample, pass a matrix of zeros and ones, as `sklearn.preprocessing.MultiLabelBinarizer` returns it.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples in training and in held-out scores. Samples of weight zero are left out.
        groups : array-like of shape (n_samples,), default=None
            Group of each sample, such as a patient, speaker or document. The samples of a group are held out together
            or not at all.
        X_val, y_val : as X and y, default=None
            Held-out samples of your own, in place of `validation_fraction`. No sample of X is held out then.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If y has one class, has missing values, or differs in length from X; if no sample can be held out; if a
            parameter is out of range; or if the method finds nothing to train in the backbone.
        ImportError
            If the method is LoRA and peft is not installed.
        DecodeError
            If a sample cannot be read. The error names its index.
        """
        return self._fit(X, y, sample_weight, groups, X_val, y_val)

    def score(self, X, y, sample_weight=None) -> float:
        """Return the accuracy of the predictions.

        Parameters
        ----------
        X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
            Raw samples.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            True classes or labels, in any form that `fit` takes.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        float
            Share of samples with the right class; for several labels per sample, with every label right.
        """
        check_is_fitted(self)
        y = self._check_targets(y, warn_column=False)
        if y.ndim == 1:
            check_comparable(y, self.classes_, ("y", "classes_"))
        return super().score(X, y, sample_weight)

    def _check_targets(self, y, name="y", *, warn_column=True):
        return as_classes_or_labels(y, name, warn_column=warn_column)

    def _task(self, y):
        from skembed.finetune.tasks import Multiclass, Multilabel

        if y.ndim == 2:
            self.classes_ = np.arange(y.shape[1])
            return Multilabel(y.shape[1], self.scoring)
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise ValueError(
                f"y has one class, {self.classes_.tolist()[0]!r}: there is nothing to tell apart. "
                "Give samples of at least two."
            )
        if looks_like_numbers(self.classes_, len(y)):
            warn(
                f"y has {len(self.classes_)} distinct numbers in {len(y)} samples, which look like numbers to be "
                "predicted rather than classes. Use FineTuneRegressor for those; classes may be given as strings.",
                FitWarning,
            )
        return Multiclass(self.classes_, self.scoring)

    def _check_known(self, y_val):
        if y_val.ndim == 1:
            check_comparable(y_val, self.classes_, ("y_val", "y"))
        unknown = np.setdiff1d(y_val, self.classes_)
        if y_val.ndim == 1 and len(unknown):
            raise ValueError(
                f"y_val has the class {unknown.tolist()[0]!r}, which is not in y, so it cannot be learned. "
                "Leave its samples out, or add some of them to X and y."
            )

    def _check_split(self, y, train):
        if y.ndim == 1:
            missing = np.setdiff1d(self.classes_, y[train])
            if len(missing):
                raise ValueError(
                    f"All samples of the class {missing.tolist()[0]!r} are held out with their groups. Give X_val and "
                    "y_val, or another random_state."
                )

    def _class_weights(self, y):
        if self.class_weight is None:
            return np.ones(len(y))
        check_class_weight(self.class_weight, self.classes_ if y.ndim == 1 else None)
        return compute_sample_weight(self.class_weight, y)

    def _score_name(self):
        return "accuracy" if self.scoring is None else super()._score_name()

    def predict_proba(self, X) -> np.ndarray:
        """Return the probabilities of the classes, calibrated on the held-out samples.

        Parameters
        ----------
        X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
            Raw samples.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            Rows sum to one. For multi-label targets, each column is the probability of its label.
        """
        return self._predictions(X)["predict_proba"]

    def decision_function(self, X) -> np.ndarray:
        """Return the outputs before the softmax or sigmoid, divided by `temperature_`.

        Parameters
        ----------
        X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
            Raw samples.

        Returns
        -------
        ndarray of shape (n_samples,) for two classes, else (n_samples, n_classes), float64
        """
        return self._predictions(X)["decision_function"]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
