"""Options of training as one parameter object: rates, schedule and regularization."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

from skembed.schedules import SCHEDULES
from skembed.utils.parameters import ParameterObject
from skembed.utils.sklearn_private import Interval, StrOptions

__all__ = ["Optimization"]


class Optimization(ParameterObject):
    """Learning rates of the blocks, schedule and regularization of a fit.

    The defaults suit most data.

    Parameters
    ----------
    backbone_factor : float or "auto", default="auto"
        Learning rate of the top block relative to that of the head. "auto" is 0.1 for the method "weights", because
        large steps would erase pre-trained weights, and 1 for all other methods.
    layer_decay : float, default=0.8
        Learning rate of a block relative to the block above it [1]_. Values near 1 let the lower blocks change too,
        which helps where the data are unlike those of the pre-training.
    schedule : {"slanted_triangular", "cosine", "one_cycle", "constant"}, default="slanted_triangular"
        Course of the learning rates over a stage. All but "constant" warm up; "cosine" suits long fits on many samples.
    weight_decay : float, default=0.01
        Decoupled weight decay (AdamW) of matrices; biases and normalizations have none. Raise it against overfitting.
    dropout : float, default=0.1
        Share of the features that are dropped before the head. Raise it against overfitting.
    l2_sp : float, default=0
        Strength of the pull of trained blocks towards their pre-trained weights [2]_. With LoRA, it acts on the merged
        weights; with other additions, on the distance from their initial values. Raise it against forgetting.
    label_smoothing : float, default=0
        Part of each target that is spread over all classes, for classifiers only. Raise it if labels may be wrong.
    clip_norm : float or None, default=1
        Largest norm of the gradient of a step; None for no bound. Lower it if training is unstable.
    ema : float, default=None
        Decay of an exponential moving average of the weights, such as 0.99. The average is then judged and kept. None
        keeps the weights themselves.

    See Also
    --------
    FineTuneClassifier : Use this object as its `optimization`.

    References
    ----------
    .. [1] Clark et al. (2020), ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators.
    .. [2] Li, Grandvalet & Davoine (2018), Explicit Inductive Bias for Transfer Learning with Convolutional Networks.

    Examples
    --------
    >>> from skembed import FineTuneClassifier, Optimization
    >>> FineTuneClassifier(optimization=Optimization(layer_decay=0.95, dropout=0.3))
    FineTuneClassifier(optimization=Optimization(dropout=0.3, layer_decay=0.95))
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "backbone_factor": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "layer_decay": [Interval(Real, 0, 1, closed="right")],
        "schedule": [StrOptions(set(SCHEDULES))],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "l2_sp": [Interval(Real, 0, None, closed="left")],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
        "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
        "ema": [Interval(Real, 0, 1, closed="neither"), None],
    }

    def __init__(
        self,
        backbone_factor="auto",
        layer_decay=0.8,
        schedule="slanted_triangular",
        weight_decay=0.01,
        dropout=0.1,
        l2_sp=0.0,
        label_smoothing=0.0,
        clip_norm=1.0,
        ema=None,
    ):
        self.backbone_factor = backbone_factor
        self.layer_decay = layer_decay
        self.schedule = schedule
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.l2_sp = l2_sp
        self.label_smoothing = label_smoothing
        self.clip_norm = clip_norm
        self.ema = ema
