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
    """Classify raw samples with a pre-trained backbone, trained as deep as it helps and no deeper.

    A regularised linear probe is fitted on frozen embeddings first. Training starts from it, and has to beat it on
    samples that were held out: otherwise the probe is what is kept, and `report_` says so.

    Parameters
    ----------
    embedder : ImageEmbedder, TextEmbedder or AudioEmbedder, default=None
        Names the backbone, and how samples are read; None is ``TextEmbedder()``. Search its parameters as
        ``embedder__backbone`` and so on. Its `precision` is that of training too: where it is bfloat16, processors
        that multiply in it do so in the backbone's linear layers [3]_; all that is stored is float32.
    strategy : {"head", "partial", "full", "progressive", "auto"} or Strategy, default="progressive"
        Which blocks of the backbone train, and when; a name stands for the default object.

        - `Head`: the head alone. The cheapest, and enough where the backbone knows data like yours.
        - `Partial`: the top blocks as well, from the start.
        - `Full`: all blocks from the start. For thousands of samples per class.
        - `Progressive`: first the head, then more and more blocks from the top, as long as that gains. The safe choice.
        - "auto": what `skembed.advise` names for the samples to train on, without a look at those held out; see
          `strategy_` and `advice_`. It chooses the method too, unless you give another than "weights". All other
          parameters are yours. The machine is not timed for it, so that `random_state` repeats the choice everywhere.
    method : {"weights", "lora", "adapter", "prefix", "prompt", "bitfit", "norms"} or Method, default="weights"
        What trains in these blocks; a name stands for the default object. `Weights` are all of their tensors. `LoRA`,
        `Adapter`, `BitFit` and `Norms` train far fewer, for all backbones; `Prefix` and `Prompt` are for text
        backbones of BERT's kind. All but `Prompt` begin as the frozen network.
    learning_rate : float, default=1e-3
        Peak learning rate of the head. See `find_learning_rate`.
    max_epochs : int, default=30
        Largest number of epochs of the whole fit; 0 fits the probe alone.
    batch_size : int, default=32
        Samples per step. Where memory does not hold them they are trained in parts, to the same effect.
    patience : int, default=10
        Number of epochs without a gain that end a stage.
    optimization : Optimization, default=None
        Rates of the blocks, schedule and regularization: weight decay, dropout, L2-SP, label smoothing, gradient
        clipping, moving average. None is ``Optimization()``.
    augment : str, callable, sequence or Augmentation, default=None
        How samples are changed for training: "light", "standard" or "strong"; operations by name, as ("name",
        {parameters}) or as objects of `skembed.augment`; a function of a decoded sample; or several of them in order.
        `Augmentation` also says how many changed views of each sample are kept. Held-out samples are never changed.
    mix : {"mixup", "cutmix"}, Mixup, CutMix or list of both, default=None
        How the samples of a batch, and their targets, are mixed with each other. With sample or class weights, each
        target counts by the weight of its own sample. Of a list, each batch is mixed by one, drawn with equal chances.
    n_views : int, default=1
        Number of views of each sample whose outputs are averaged in prediction, the unchanged one among them.
    class_weight : dict or "balanced", default=None
        See `sklearn.utils.class_weight.compute_class_weight`.
    scoring : str or callable, default=None
        The scorer by which epochs are compared. None compares the held-out loss after temperature scaling, and lets
        no epoch win whose accuracy is below the probe's.
    validation_fraction : float, default=0.2
        Part of the samples that is held out, in proportion to the classes. None holds out none: nothing is judged, all
        of `max_epochs` is run (of `Progressive` its `stage_epochs` for each stage) and the last weights are kept.
    refit : bool, default=True
        Whether what was found is fitted once more, in the same way, on all samples.
    checkpoint_dir : str or PathLike, default=None
        Where each epoch is written down: the same fit, killed, goes on from there and ends at the same result. Several
        fits may share a directory. With ``random_state=None`` the seed is 0 then.
    on_interrupt : {"raise", "keep"}, default="raise"
        What Ctrl-C does once training has begun. Either way the estimator is fitted with the best weights so far and
        the checkpoint stays. "raise" then raises KeyboardInterrupt, which ends searches; "keep" only warns.
    warm_start : bool, default=False
        Begin a second `fit` with the backbone and the head of the first. The head's rows are matched by class: new
        and renamed classes begin afresh. Changed parameters of `embedder` apply; a head on features of another
        meaning (`layers`, `pooling`, `normalize`, `truncate_dim`) begins afresh, and another backbone altogether.
    random_state : int, RandomState instance or None, default=None
        Of the split, the order of the samples, dropout and mixup. On a CPU an int repeats a fit exactly.
    verbose : bool or int, default=False
        Print a line per epoch: its stage, losses, and elapsed and expected time. What takes longer than half a second
        has a progress bar: embedding, recording activations, the linear probe, an epoch, the fit on all samples.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels; of multi-label targets the columns' numbers.
    embedder_ : ImageEmbedder, TextEmbedder or AudioEmbedder
        Fitted, with the weights that were kept: clones, pickles and works in other pipelines. Its pickle holds what
        trained and no more, of LoRA the factors; loaded, these are merged into the base's weights, and what did not
        train is the base's own memory, which several tasks share.
    kept_ : {"fine-tuned", "probe"}
        What the estimator is.
    history_ : list of dict
        One an epoch: "epoch", "stage", "attempt" (2 with stronger regularisation), "round" (which attempt of the whole
        fit, from 1), "unfrozen" (names of blocks), "n_trained" (parameters, the head's among them), "rates" (by
        block), "train_loss", "valid_loss", "valid_score", "valid_error" (standard error of the difference between
        this held-out loss and that of the best weights before it), "best" (whether it was the best so far),
        "replayed", "seconds".
    report_ : str
        The path of the fit in words.
    diagnosis_ : Diagnosis
        What went wrong, if anything did, and the remedy; see `skembed.diagnose`. Print it.
    strategy_ : Strategy
        Strategy that was followed.
    method_ : Method
        Method that was used.
    advice_ : Advice or None
        What "auto" was advised, and why.
    n_epochs_ : int
        Epochs run, those of the refit left out.
    validation_score_, probe_score_ : float or None
        Held-out score of what was kept, before the refit, and of the linear probe.
    head_coef_ : ndarray of shape (n_outputs, n_features)
        The head, on rows of `embedder_`; two classes have two outputs.
    head_intercept_ : ndarray of shape (n_outputs,)
        Its bias.
    temperature_ : float
        What the outputs are divided by, so that probabilities are right on average [2]_. Its logarithm has a prior,
        normal about zero, so that it stays near 1 where few samples are held out.

    See Also
    --------
    FineTuneRegressor : The same for numbers.
    advise : Which strategy suits some data, and why.
    diagnose : What went wrong in a fit.
    find_learning_rate : A learning rate for some data.

    Notes
    -----
    Training starts from the probe, since a fresh head distorts pre-trained features [1]_.

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
    >>> from sklearn.model_selection import ParameterGrid
    >>> grid = ParameterGrid([{"strategy": [Partial()], "strategy__n_blocks": [1, 2]}, {"method": [LoRA()]}])
    >>> [classifier.set_params(**params).strategy for params in grid]
    [Partial(), Partial(n_blocks=2), Partial(n_blocks=2)]
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
        """Fit the probe, train from it, keep the better of the two.

        Parameters
        ----------
        X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
            Raw samples.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Strings, whole numbers or booleans, also as a one-column dataframe. Any number of labels per sample are a
            matrix of zeros and ones, as `sklearn.preprocessing.MultiLabelBinarizer` makes it.
        sample_weight : array-like of shape (n_samples,), default=None
            Samples of weight zero are as if they had not come.
        groups : array-like of shape (n_samples,), default=None
            Samples of one group are held out together or not at all: patients, speakers, documents.
        X_val, y_val : as X and y, default=None
            Samples to judge by, in place of `validation_fraction`; nothing of X is held out then.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If y has one class, is missing in places or is not as long as X, nothing can be held out, a parameter is
            out of range, or the backbone has no place for what the strategy would train.
        ImportError
            If the strategy is one with LoRA, and peft is not installed.
        DecodeError
            If a sample cannot be read; names its index.
        """
        return self._fit(X, y, sample_weight, groups, X_val, y_val)

    def score(self, X, y, sample_weight=None) -> float:
        """Return the accuracy of the predictions.

        Parameters
        ----------
        X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
            Raw samples.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Their classes or labels, in any form that `fit` takes.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        float
            Share of samples that are right; of several labels, of those with every label right.
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
        """Probabilities of the classes, calibrated on the held-out samples.

        Parameters
        ----------
        X : list, ndarray, Series or one-column dataframe of shape (n_samples,)
            Raw samples.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float64
            Rows sum to one; of multi-label targets each column is the probability of its label.
        """
        return self._predictions(X)["predict_proba"]

    def decision_function(self, X) -> np.ndarray:
        """Logits, divided by the temperature.

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
