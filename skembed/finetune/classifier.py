"""FineTuneClassifier: from a frozen head to the whole network."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import check_is_fitted

from skembed.exceptions import FitWarning
from skembed.finetune.base import BaseFineTuner
from skembed.inputs import check_comparable
from skembed.inputs.target_kinds import as_classes_or_labels, check_class_weight, looks_like_numbers
from skembed.utils.sklearn_private import Interval, StrOptions, fit_context, with_callbacks
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
        that multiply in it do so in the backbone's linear layers [15]_; all that is stored is float32.
    strategy : str, default="progressive"
        How deep training goes: "head" trains the head alone, "partial" the top `n_unfrozen` blocks as well, "full" all
        of them. "progressive" begins with the head and unfreezes more and more blocks from the top [1]_. After each
        stage the best weights so far are restored. A stage that did harm, its held-out loss higher by more than its
        standard error, is tried once more with stronger regularisation before the fit ends, and so is the deepest where
        it gained nothing. With all blocks unfrozen further rounds follow while they gain.

        Or what trains in all blocks, in place of their weights: "lora", low-rank changes of linear maps and
        convolutions [6]_ (needs ``pip install skembed[peft]``); "adapter", a bottleneck behind each block [7]_, [8]_;
        "prefix", gated keys and values in each attention [9]_, [10]_; "prompt", virtual tokens behind the text [11]_;
        "bitfit", the biases [12]_; "norm", scales and shifts of normalisations. Both together, as "partial+lora" or
        "progressive+adapter", train it in some blocks; a prompt is read below all blocks and stands alone. "prefix"
        and "prompt" are for text backbones of BERT's kind, the others for all. All but "prompt" begin as the frozen
        network.

        "auto" looks at the samples to train on, not at those held out, and takes the strategy that `skembed.advise`
        names for them; see `strategy_` and `advice_`. Of its settings it takes `n_unfrozen` alone: all other parameters
        are yours. The machine is not timed for it, so that `random_state` repeats the choice everywhere.
    n_unfrozen : int, default=1
        Blocks of "partial", counted from the top.
    lora_rank : int, default=8
        Of each change; no more than the smaller side of the widest layer.
    lora_alpha : float, default=16
        A change is multiplied by ``lora_alpha / lora_rank``.
    lora_dropout : float, default=0
        Share of a layer's inputs that are dropped before the change.
    target_modules : list of str, default=None
        Endings of the names of layers that LoRA changes, such as ["query", "value"]; None takes every linear map and
        every convolution that is neither grouped nor dilated in the blocks that train.
    adapter_width : int, default=32
        Features of an adapter's bottleneck.
    n_virtual_tokens : int, default=10
        Of a prefix or a prompt. Those of a prompt take their places of the embedder's `max_length`.
    learning_rate : float, default=1e-3
        Of the head, at the height of the schedule. See `find_learning_rate`.
    backbone_factor : float or "auto", default="auto"
        What it is multiplied by for the top block: 0.1 for the blocks' weights, 1 for all other methods.
    layer_decay : float, default=0.8
        What a block's rate is multiplied by for the block below [1]_, [2]_.
    schedule : {"slanted_triangular", "cosine", "one_cycle", "constant"}, default="slanted_triangular"
        How the rates go over a stage.
    max_epochs : int, default=30
        Epochs of the whole fit, at most; 0 fits the probe alone.
    stage_epochs : int, default=5
        Epochs of one stage of "progressive", over which its schedule goes. Of few `max_epochs` the head has half.
    unfreeze_step : int or "double", default="double"
        Blocks that each stage of "progressive" adds; "double" trains the top 1, 2, 4, ... blocks.
    patience : int, default=10
        Epochs without a gain that end a stage.
    batch_size : int, default=32
        Samples a step. Where memory does not hold them they are trained in parts, to the same effect.
    dropout : float, default=0.1
        Share of the features that are dropped before the head.
    weight_decay : float, default=0.01
        Decoupled (AdamW), of matrices only: not of biases and normalisations.
    l2_sp : float, default=0
        Strength of the pull of trained blocks towards their pre-trained weights [3]_: with LoRA, of the changed
        weights towards those before; of what else was added, towards where it began.
    label_smoothing : float, default=0
        Part of each target that is spread over all classes.
    mixup : float, default=0
        Parameter of the Beta distribution, such as 0.2, by which the samples of a batch are averaged in pairs, and
        their targets with them [13]_; 0 for none. With weights, each target counts by that of its own sample.
    mixup_on : {"auto", "inputs", "features"}, default="auto"
        What mixup averages: pixels, or embeddings. "auto" is "inputs" for images, as mixup is meant, and "features"
        for texts and recordings, whose inputs have no average. No frozen block can be replayed for mixed inputs: all
        of them are run in every epoch, also by "head". "features" costs nothing.
    cutmix : float, default=0
        Parameter of the Beta distribution, such as 1, from which the area of a rectangle is drawn that is pasted from
        one image of a batch into another, targets mixed by the areas [14]_; 0 for none. Of inputs, as above. With
        `mixup` too, each batch is mixed by one of them, drawn with equal chances.
    augment : None, str, callable or sequence, default=None
        How samples are changed for training: "light", "standard" or "strong"; operations by name, as ("name",
        {parameters}) or as objects of `skembed.augment`; a function of a decoded sample; or several of them in order.
        What is held out is never changed.
    augment_views : int, default=None
        So many views of each sample are kept, the unchanged one among them, and gone through from epoch to epoch; what
        frozen blocks return for them is computed once. None changes samples anew in every epoch.
    n_views : int, default=1
        Views of each sample whose outputs are averaged in prediction, the unchanged one among them.
    clip_norm : float, default=1
        Largest norm of a step's gradient; None for any.
    ema : float, default=None
        Decay of an exponential moving average of the weights, which is then what is judged and kept, such as 0.99.
    class_weight : dict or "balanced", default=None
        See `sklearn.utils.class_weight.compute_class_weight`.
    scoring : str or callable, default=None
        The scorer by which epochs are compared. None compares the held-out loss after temperature scaling, and lets
        no epoch win whose accuracy is below the probe's.
    validation_fraction : float, default=0.2
        Part of the samples that is held out, in proportion to the classes. None holds out none: nothing is judged, all
        of `max_epochs` is run (of "progressive" `stage_epochs` for each stage) and the last weights are kept.
    refit : bool, default=True
        Whether what was found is fitted once more, in the same way, on all samples.
    replay_prefix : bool, default=True
        Whether what frozen blocks return is computed once and kept, instead of in every epoch. Same losses.
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
    strategy_ : str
        The strategy that was followed.
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
        What the outputs are divided by, so that probabilities are right on average [4]_. Its logarithm has a prior,
        normal about zero, so that it stays near 1 where few samples are held out.

    References
    ----------
    .. [1] Howard & Ruder (2018), Universal Language Model Fine-tuning for Text Classification.
    .. [2] Clark et al. (2020), ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators.
    .. [3] Li, Grandvalet & Davoine (2018), Explicit Inductive Bias for Transfer Learning with Convolutional Networks.
    .. [4] Guo et al. (2017), On Calibration of Modern Neural Networks.
    .. [5] Kumar et al. (2022), Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution: why
       training starts from the probe.
    .. [6] Hu et al. (2021), LoRA: Low-Rank Adaptation of Large Language Models.
    .. [7] Houlsby et al. (2019), Parameter-Efficient Transfer Learning for NLP.
    .. [8] Pfeiffer et al. (2020), AdapterFusion: Non-Destructive Task Composition for Transfer Learning.
    .. [9] Li & Liang (2021), Prefix-Tuning: Optimizing Continuous Prompts for Generation.
    .. [10] Zhang et al. (2023), LLaMA-Adapter: Efficient Fine-tuning of Language Models with Zero-init Attention.
    .. [11] Lester, Al-Rfou & Constant (2021), The Power of Scale for Parameter-Efficient Prompt Tuning.
    .. [12] Ben Zaken, Goldberg & Ravfogel (2022), BitFit: Simple Parameter-efficient Fine-tuning for Transformers.
    .. [13] Zhang et al. (2018), mixup: Beyond Empirical Risk Minimization. On features: Verma et al. (2019), Manifold
       Mixup.
    .. [14] Yun et al. (2019), CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features.
    .. [15] Micikevicius et al. (2018), Mixed Precision Training.

    Examples
    --------
    >>> from skembed import FineTuneClassifier
    >>> texts = ["the invoice is overdue", "your parcel has arrived", "payment was refused", "delivery is delayed"] * 5
    >>> labels = ["money", "parcel", "money", "parcel"] * 5
    >>> classifier = FineTuneClassifier(strategy="head", max_epochs=3, random_state=0).fit(texts, labels)
    >>> classifier.predict(["where is my package?"])
    array(['parcel'], dtype='<U6')
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseFineTuner._parameter_constraints,
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "class_weight": [dict, StrOptions({"balanced"}), None],
    }
    _stratified = True
    _kind = "classification"

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
        label_smoothing=0.0,
        mixup=0.0,
        mixup_on="auto",
        cutmix=0.0,
        augment=None,
        augment_views=None,
        n_views=1,
        clip_norm=1.0,
        ema=None,
        class_weight=None,
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
        self.label_smoothing = label_smoothing
        self.mixup = mixup
        self.mixup_on = mixup_on
        self.cutmix = cutmix
        self.augment = augment
        self.augment_views = augment_views
        self.n_views = n_views
        self.clip_norm = clip_norm
        self.ema = ema
        self.class_weight = class_weight
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
                f"y_val has the class {unknown.tolist()[0]!r}, which y has not: it cannot be learned. "
                "Leave its samples out, or put some of them into X and y."
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
