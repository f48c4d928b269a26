"""Rules of advice: conditions, the strategies and settings that follow, and sources.

The first rule that holds and names a strategy decides. That rule, and rules that hold and name none, add their reasons
and settings; later rules do not override settings of earlier ones. Findings of all rules that hold are reported. A
finding states a fact and a reason states what follows, so nothing is said twice. Thresholds without a source are rules
of thumb, set so that constructed cases and the project's real data sets fall on the right side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from skembed.assessment.evidence import Evidence
from skembed.augment.mixing import Mixup
from skembed.measures.label_noise import MIN_PROBE_R2, NOISY_RATE
from skembed.strategies import Full, Head, Partial, Progressive, Strategy

__all__ = ["RULES", "Rule"]


@dataclass(frozen=True)
class Rule:
    """Row of the table.

    Parameters
    ----------
    name : str
        Name of the case and of its finding.
    when : callable
        Function of an `Evidence` that returns True if the rule holds. Comparisons with NaN do not hold.
    source : str
        Publication, and its statement.
    reason : str
        Reason for the strategy or the settings, as a template whose fields are numbers of the evidence and words of the
        task. Empty if the rule has neither.
    strategy : Strategy, optional
        Advised strategy; None leaves it to other rules.
    method : str
        Name of the advised method, if it can be used here.
    without : Strategy, optional
        Strategy with method "weights", if the advised method cannot be used.
    settings : dict
        First settings to try, by the names of `set_params`. A string in braces is replaced by a whole number of the
        evidence.
    only_for : tuple of str
        Names of strategies, or of methods besides "weights", that have the settings; empty for all.
    finding : str, optional
        Severity of the finding; None if there is none.
    evidence : str
        Sentence of the finding, a template like `reason`.
    remedy : str
        Remedy of the finding.
    samples : str, optional
        Name of the evidence's positions that the finding is about.
    """

    name: str
    when: Callable[[Evidence], bool]
    source: str
    reason: str = ""
    strategy: Strategy | None = None
    method: str = "weights"
    without: Strategy | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    only_for: tuple[str, ...] = ()
    finding: str | None = None
    evidence: str = ""
    remedy: str = ""
    samples: str | None = None


def _is_far(e: Evidence) -> bool:
    """Return True if a lower layer is better by three points, and by more than chance."""
    return e.lower_gain >= 0.03 and e.lower_gain >= e.lower_margin


def _is_slow(e: Evidence) -> bool:
    return 20 * e.epoch_seconds > e.budget


def _is_solved(e: Evidence) -> bool:
    """Return True if a linear probe is right on nearly all samples that can be predicted."""
    return e.probe >= 0.98 * e.probe_ceiling and not e.imbalance >= 5


def _conflicts_limit(e: Evidence) -> bool:
    """Return True if copies with different targets limit the score."""
    return e.conflict_share >= 0.1


_CONFLICTS: dict[str, Callable[[Evidence], bool]] = {
    "serious": _conflicts_limit,
    "warning": lambda e: e.conflict_share > 0 and not _conflicts_limit(e),
}

_LEAKAGE: dict[str, Callable[[Evidence], bool]] = {
    "serious": lambda e: e.torn_share >= 0.05,
    "warning": lambda e: 0.01 <= e.torn_share < 0.05,
}

#: Twice the defaults, by the strategies that have them.
_EPOCHS: dict[tuple[str, ...], dict[str, Any]] = {
    ("progressive",): {"strategy__stage_epochs": 10, "max_epochs": 60},
    ("partial", "full", "lora"): {"max_epochs": 60},
}

RULES: tuple[Rule, ...] = (
    # -- what is wrong with the data, whatever is trained ------------------------------------------------
    Rule(
        "no signal",
        lambda e: e.is_chance == 1 and not _is_far(e),
        "Ojala & Garriga (2010): a permutation test tells whether a classifier found structure.",
        reason="the head is the cheapest that can be fitted; more of the network would learn the noise by heart.",
        strategy=Head(),
        finding="serious",
        evidence="predicting each of {n_probed:.0f} samples from all others, a linear probe on the embeddings "
        "{probe_score}; with shuffled {target}s, which is chance, it reaches {shuffled_range}.",
        remedy="Do not train yet. Check that X and y are in the same order, and that the {target}s are about what the "
        "embedder reads. If so, try other backbones and layers (rank_backbones), and more samples: a weak signal may "
        "not show in {n_probed:.0f}.",
    ),
    *(
        Rule(
            "conflicting labels",
            when,
            "Northcutt, Athalye & Mueller (2021): errors in labels are common, and mislead the choice of models.",
            finding=severity,
            evidence="{conflict_share:.1%} of the samples have an exact copy with another {target}{bound}.",
            remedy="Check these samples (the finding's .samples are their positions in X), and keep one {target} for "
            "all copies of a sample{one_target}.",
            samples="conflicts",
        )
        for severity, when in _CONFLICTS.items()
    ),
    *(
        Rule(
            "leakage",
            when,
            "Kapoor & Narayanan (2023): duplicates across the split are a form of leakage.",
            finding=severity,
            evidence="{torn_share:.1%} of the samples have a copy or near copy in X. A random split puts copies of "
            "training samples into the test set, and the score will be too good.",
            remedy="groups = advise(X, y, embedder).groups gives copies the same number. Keep them together with "
            "fit(X, y, groups=groups) and GroupKFold, or keep one of each, np.unique(groups, return_index=True)[1].",
            samples="duplicates",
        )
        for severity, when in _LEAKAGE.items()
    ),
    Rule(
        "classes of one sample",
        lambda e: e.n_single >= 1,
        "Pedregosa et al. (2011), scikit-learn: a stratified split needs two samples of each class.",
        finding="warning",
        evidence="{single} (copies count as one), which can be learned or tested, but not both.",
        remedy="Collect more samples of them, merge them with other {classes}, or leave them out: no split has them on "
        "both sides, and stratified splits fail or warn.{identifiers}",
    ),
    Rule(
        "label noise",
        lambda e: e.noise_rate - 2 * e.noise_error >= NOISY_RATE and e.probe_r2 >= MIN_PROBE_R2,
        "Northcutt, Jiang & Chuang (2021): confident learning; Lukasik et al. (2020): label smoothing helps.",
        reason="label smoothing lessens the harm of wrong labels.",
        settings={"optimization__label_smoothing": 0.1},
        finding="warning",
        evidence="in the quarter of the samples that a linear probe predicts with most certainty, without having seen "
        "their labels, {noise_rate:.1%} of the labels differ from the prediction, where 1 % or less is normal; "
        "{n_suspects:.0f} labels are suspect.",
        remedy="Check the suspects (the finding's .samples are their positions in X, the most suspect first), and "
        "correct wrong labels.",
        samples="suspects",
    ),
    Rule(
        "imbalance",
        lambda e: e.imbalance >= 5,
        "Buda et al. (2018): imbalance harms a network, and samples of rare classes should come more often.",
        reason="class_weight='balanced' gives each class the same total weight, however few samples it has.",
        settings={"class_weight": "balanced"},
        finding="warning",
        evidence="the largest class has {largest:.0f} samples, the smallest {rarest:.0f}: {accuracy_misleads}.",
        remedy="Compare models by scoring='balanced_accuracy', the mean recall of the classes (chance is "
        "{balanced_chance}).",
    ),
    Rule(
        "unknown words",
        lambda e: e.broken_share >= 0.2,
        "Gururangan et al. (2020): the fewer words two domains share, the more adaptation gains; Rust et al. (2021): a "
        "tokenizer made for the language does better.",
        finding="warning",
        evidence="the tokenizer splits {broken_share:.0%} of the words into four pieces or more, or does not know "
        "them. In the language and field that it was made for, this is a few percent.",
        remedy="Try backbones of this language or field, and compare them with rank_backbones.",
    ),
    # -- strategies, the first that holds decides ---------------------------------------------------------
    Rule(
        "few samples",
        lambda e: e.per_target < 20,
        "Tian et al. (2020): a linear classifier on a good frozen embedding beats more complex few-shot methods.",
        reason="a linear head on frozen features is hard to beat with so few; batches of 16 give it more steps.",
        strategy=Head(),
        settings={"batch_size": 16},
        finding="note",
        evidence="{size}, which is too few to train a network and to hold some out.{unmeasured}",
        remedy="More samples are worth more than any setting. Judge by cross-validation, not by one split.",
    ),
    Rule(
        "memory",
        lambda e: e.training_bytes > 0.8 * e.free_bytes,
        "Hu et al. (2021): low-rank updates match full fine-tuning, and need moments for few parameters.",
        reason="few parameters train, so the gradients and moments of all others need no memory.",
        strategy=Full(),
        method="lora",
        without=Partial(),
        finding="note",
        evidence="training all blocks takes about {memory_needed} for weights, gradients and the optimizer's moments; "
        "{memory_free} are free.",
        remedy="Use method='lora', a Partial strategy with few blocks, or a smaller backbone.",
    ),
    Rule(
        "limited by conflicts",
        lambda e: _is_solved(e) and _conflicts_limit(e),
        "Northcutt, Athalye & Mueller (2021): errors in labels are common, and mislead the choice of models.",
        reason="copies with conflicting {target}s limit the score, and training cannot change that. The head is the "
        "cheapest to fit; ask for advice again once the copies agree.",
        strategy=Head(),
    ),
    Rule(
        "solved",
        lambda e: _is_solved(e) and not _conflicts_limit(e),
        "Kumar et al. (2022): fine-tuning can distort good features.",
        reason="a linear probe on the embeddings already {probe_score} (each predicted from all others): training more "
        "than a head can gain very little.",
        strategy=Head(),
    ),
    Rule(
        "slow",
        lambda e: _is_slow(e) and not _is_far(e),
        "Howard & Ruder (2018): the last layers hold the least general knowledge, and are the ones to begin with.",
        reason="an epoch of the top block alone takes {top_epoch}, since the blocks below are computed once.",
        strategy=Partial(n_blocks=1),
        finding="note",
        evidence="an epoch of all blocks takes {epoch} here, and twenty epochs exceed the budget of {budget_given}.",
        remedy="Use a smaller backbone or an accelerator, or pass a larger budget= to advise.",
    ),
    Rule(
        "far domain, many samples",
        lambda e: _is_far(e) and e.per_target >= 100,
        "Lee et al. (2022): which blocks to tune depends on the shift; where inputs have changed, the first ones.",
        reason="the lower blocks should change too, and there are enough samples to train all blocks ({size}); with "
        "layer_decay=0.95 the lower blocks learn nearly as fast as the top.",
        strategy=Full(),
        settings={"optimization__layer_decay": 0.95},
    ),
    Rule(
        "far domain",
        _is_far,
        "Yosinski et al. (2014): features of higher layers are more specific to the source task.",
        reason="the lower blocks should change too. They are unfrozen step by step as long as that gains; with "
        "layer_decay=0.95 they learn nearly as fast as the top.",
        strategy=Progressive(),
        settings={"optimization__layer_decay": 0.95},
        finding="warning",
        evidence="{layers_compared}. Normally the last layers do at least as well. Where they do worse, they have "
        "dropped information that these {target}s depend on, probably because the network was trained on other data or "
        "for another task.",
        remedy="With frozen features use layers={best_layer:.0f}. A backbone that was trained on data like these may "
        "do better still (rank_backbones).",
    ),
    Rule(
        "many samples",
        lambda e: e.n_distinct >= 10_000 and e.per_target >= 500,
        "Kumar et al. (2022): full fine-tuning that starts from the linear probe distorts features less.",
        reason="there are enough samples to train all blocks from the start ({size}); training begins at the probe.",
        strategy=Full(),
    ),
    Rule(
        "many images",
        lambda e: e.modality == "image" and e.n_distinct >= 10_000 and e.per_target >= 500 and e.task != "regression",
        "He et al. (2019), Bag of Tricks: a cosine schedule, label smoothing and mixup each improve image networks.",
        reason="with so many images the usual refinements of training help.",
        settings={"optimization__schedule": "cosine", "optimization__label_smoothing": 0.1, "mix": Mixup(0.2)},
        only_for=("full",),
    ),
    Rule(
        "ordinary",
        lambda e: True,
        "Howard & Ruder (2018): gradual unfreezing avoids forgetting; Kumar et al. (2022): first the probe, then the "
        "rest.",
        reason="the safe way for {size}: train the head first, then more and more blocks from the top, and keep each "
        "stage only if it gains on held-out samples.",
        strategy=Progressive(),
    ),
    # -- settings that depend on what was said before ----------------------------------------------------
    *(
        Rule(
            "small data, more epochs",
            lambda e: e.n_samples < 1000 and not _is_slow(e),
            "Mosbach et al. (2021) and Zhang et al. (2021): fine-tuning on small data is unstable for want of "
            "optimization; small rates, bias correction and more epochs fix it.",
            reason="an epoch of {n_samples:.0f} samples has few steps, so twice as many epochs are allowed as by "
            "default.",
            settings=settings,
            only_for=only_for,
        )
        for only_for, settings in _EPOCHS.items()
    ),
    Rule(
        "lower layer for the head",
        _is_far,
        "Yosinski et al. (2014): features of higher layers are more specific to the source task.",
        reason="with a frozen backbone, the better layer can replace the last one.",
        settings={"embedder__layers": "{best_layer}"},
        only_for=("head",),
    ),
)
