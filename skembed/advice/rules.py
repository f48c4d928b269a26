"""The rules of advice: what has to hold, which strategy and settings follow, and who says so.

All that advice knows is in this table. Of the rules that hold, the first one that names a strategy decides; it and
those that name none add their reasons and their settings, which later ones do not take back. Findings are told whoever
decides. Thresholds without a source are rules of thumb, set where constructed cases and the real data that the project
is tried on fall on the right side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from skembed.advice.evidence import Evidence
from skembed.measures.label_noise import LEAST_R2, NOISY

__all__ = ["RULES", "Rule"]


@dataclass(frozen=True)
class Rule:
    """One line of the table.

    Parameters
    ----------
    name : str
        What the case is called; the name of the finding, where it is one.
    when : callable
        Takes an `Evidence` and says whether the rule holds. Comparisons with NaN do not.
    reason : str
        A sentence; the evidence's numbers are put into its braces.
    source : str
        Who says so, and what they say.
    strategy : tuple of str
        The first of these that the estimators know is advised; empty leaves it to others.
    settings : dict
        First settings to try. A string in braces stands for a whole number of the evidence.
    finding : str, optional
        Severity, where the user should hear of it whatever is done.
    remedy : str
        What to do about it.
    samples : str, optional
        Which of the evidence's positions it is about.
    """

    name: str
    when: Callable[[Evidence], bool]
    reason: str
    source: str
    strategy: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    finding: str | None = None
    remedy: str = ""
    samples: str | None = None


def _is_far(e: Evidence) -> bool:
    """A lower layer is better by three points and by twice the standard error."""
    return e.lower_gain >= 0.03 and e.lower_gain >= 2 * e.lower_error


_LEAKAGE: dict[str, Callable[[Evidence], bool]] = {
    "serious": lambda e: e.torn_share >= 0.05,
    "warning": lambda e: 0.01 <= e.torn_share < 0.05,
}

RULES: tuple[Rule, ...] = (
    # -- what is wrong with the data, whatever is trained ------------------------------------------------
    Rule(
        "no signal",
        lambda e: e.is_chance == 1,
        "a linear probe does no better than with shuffled targets (R² {probe_r2:.2f}, left out one by one): targets "
        "may not belong to their samples, or the domain is foreign to the network.",
        "Ojala & Garriga (2010): a permutation test tells whether a classifier found structure.",
        finding="serious",
        remedy="Check that X and y are in the same order. If they are, try another backbone (rank_backbones).",
    ),
    Rule(
        "conflicting labels",
        lambda e: e.conflict_share > 0,
        "{conflict_share:.1%} of the samples have an exact copy with another target, so that no more than "
        "{ceiling:.1%} can be right.",
        "Northcutt, Athalye & Mueller (2021): errors in labels are common, and mislead the choice of models.",
        finding="warning",
        remedy="Look at these samples, and keep one target for each.",
        samples="conflicts",
    ),
    *(
        Rule(
            "leakage",
            when,
            "{torn_share:.1%} of the samples have a copy or near copy that a random split would put on the other side, "
            "and scores would be too good.",
            "Kapoor & Narayanan (2023): duplicates across the split are a form of leakage.",
            finding=severity,
            remedy="Split by groups: fit(X, y, groups=advice.groups), and GroupKFold with the same groups.",
            samples="duplicates",
        )
        for severity, when in _LEAKAGE.items()
    ),
    Rule(
        "label noise",
        lambda e: e.noise_rate - 2 * e.noise_error >= NOISY and e.probe_r2 >= LEAST_R2,
        "a linear probe on frozen features predicted each sample's class without having been fitted on it. Of the "
        "quarter that it was surest of, {noise_rate:.1%} have another label than it says; with right labels that is "
        "about 1%. {n_suspects:.0f} labels in all are suspect.",
        "Northcutt, Jiang & Chuang (2021): confident learning; Lukasik et al. (2020): label smoothing helps.",
        settings={"label_smoothing": 0.1},
        finding="warning",
        remedy="Look at the samples of this finding (its .samples, the surest first). label_smoothing=0.1 lessens the "
        "harm of those that stay.",
        samples="suspects",
    ),
    Rule(
        "imbalance",
        lambda e: e.imbalance >= 5,
        "the largest class is {imbalance:.0f} times as large as the smallest, of {rarest:.0f} samples.",
        "Buda et al. (2018): imbalance harms a network, and samples of rare classes should come more often.",
        settings={"class_weight": "balanced"},
        finding="warning",
        remedy="class_weight='balanced', and a score such as scoring='balanced_accuracy'.",
    ),
    Rule(
        "unknown words",
        lambda e: e.broken_share >= 0.2,
        "the tokenizer spells {broken_share:.0%} of the words in four pieces or more, or does not know them.",
        "Gururangan et al. (2020): the fewer words two domains share, the more adaptation gains; Rust et al. (2021): a "
        "tokenizer made for the language does better.",
        finding="warning",
        remedy="Try a backbone of this language or field (rank_backbones tells which).",
    ),
    # -- strategies, the first that holds decides ---------------------------------------------------------
    Rule(
        "few samples",
        lambda e: e.per_target < 20,
        "{per_target:.0f} samples a class (of numbers, a tenth of the samples) are few: of fewer than 20 less than "
        "four are held out to judge by, and the frozen features with a linear head are hard to beat.",
        "Tian et al. (2020): a linear classifier on a good frozen embedding beats more complex few-shot methods.",
        strategy=("head",),
        settings={"batch_size": 16},
        finding="note",
        remedy="strategy='head'; more labels are worth more than any setting.",
    ),
    Rule(
        "memory",
        lambda e: e.training_bytes > 0.8 * e.free_bytes,
        "weights, gradients and moments of all blocks take {training_bytes:.2g} bytes, of which {free_bytes:.2g} are "
        "free.",
        "Hu et al. (2021): low-rank updates match full fine-tuning, and need moments for few parameters.",
        strategy=("lora", "partial"),
        finding="note",
        remedy="Few parameters train: strategy='lora', or 'partial' with n_unfrozen=1.",
    ),
    Rule(
        "solved",
        lambda e: e.probe >= 0.98 * e.ceiling and not e.imbalance >= 5,
        "the linear probe reaches {probe:.3f} (accuracy, or R²) as it is: training has next to nothing to gain.",
        "Kumar et al. (2022): fine-tuning can distort good features.",
        strategy=("head",),
    ),
    Rule(
        "slow",
        lambda e: 20 * e.epoch_seconds > e.budget and not _is_far(e),
        "an epoch of all blocks takes about {epoch_seconds:.0f} s here, twenty of them more than the budget of "
        "{budget:.0f} s; of the top block {top_epoch_seconds:.0f} s, for what lies below is computed once.",
        "Howard & Ruder (2018): the last layers hold the least general knowledge, and are the ones to begin with.",
        strategy=("partial",),
        settings={"n_unfrozen": 1},
        finding="note",
        remedy="strategy='partial' with n_unfrozen=1, a smaller backbone, or an accelerator.",
    ),
    Rule(
        "far domain, many samples",
        lambda e: _is_far(e) and e.per_target >= 100,
        "a linear probe does better on a lower layer (layers={best_layer:.0f}) than on the one that is read, by "
        "{lower_gain:.3f} of accuracy or R², as where a network was trained on other data; and {per_target:.0f} "
        "samples a class are enough to train all blocks for the new domain.",
        "Lee et al. (2022): which blocks to tune depends on the shift; where inputs have changed, the first ones.",
        strategy=("full",),
        settings={"layer_decay": 0.95},
    ),
    Rule(
        "far domain",
        _is_far,
        "a linear probe on frozen features reaches {lower_probe:.3f} (accuracy or R², on samples that it was not "
        "fitted on) with a lower layer, layers={best_layer:.0f}, and {own_probe:.3f} with the one that is read: "
        "{lower_gain:.3f} more, with a standard error of {lower_error:.3f}. Where a network was trained on data like "
        "these, its upper layers do as well or better; less than 0.03 would say nothing.",
        "Yosinski et al. (2014): features of higher layers are more specific to the source task.",
        strategy=("progressive",),
        settings={"layer_decay": 0.95},
        finding="warning",
        remedy="With frozen features layers={best_layer:.0f}; else strategy='full' or 'progressive' with "
        "layer_decay=0.95, so that lower blocks train nearly as fast; or a backbone of this domain.",
    ),
    Rule(
        "many samples",
        lambda e: e.n_samples >= 10_000 and e.per_target >= 500,
        "{n_samples:.0f} samples, {per_target:.0f} a class, are enough to train all blocks from the start; training "
        "begins at the probe.",
        "Kumar et al. (2022): full fine-tuning that starts from the linear probe distorts features less.",
        strategy=("full",),
    ),
    Rule(
        "many images",
        lambda e: e.modality == "image" and e.n_samples >= 10_000 and e.per_target >= 500 and e.task != "regression",
        "of so many images the usual refinements pay.",
        "He et al. (2019), Bag of Tricks: a cosine schedule, label smoothing and mixup each improve image networks.",
        settings={"schedule": "cosine", "label_smoothing": 0.1, "mixup": 0.2},
    ),
    Rule(
        "ordinary",
        lambda e: True,
        "from the head downwards, keeping each stage only if it gains on held-out samples, is the safe way for "
        "{n_samples:.0f} samples, {per_target:.0f} a class.",
        "Howard & Ruder (2018): gradual unfreezing avoids forgetting; Kumar et al. (2022): first the probe, then the "
        "rest.",
        strategy=("progressive",),
    ),
    # -- settings that depend on what was said before ----------------------------------------------------
    Rule(
        "small data, more epochs",
        lambda e: e.per_target >= 20 and e.n_samples < 1000,
        "an epoch of {n_samples:.0f} samples has few steps: stages of twice as many epochs.",
        "Mosbach et al. (2021) and Zhang et al. (2021): fine-tuning on small data is unstable for want of "
        "optimisation; small rates, bias correction and more epochs mend it.",
        settings={"stage_epochs": 10, "max_epochs": 60},
    ),
    Rule(
        "lower layer for the head",
        lambda e: _is_far(e) and e.per_target < 20,
        "with a frozen backbone the better layer can be read: layers={best_layer:.0f}.",
        "Yosinski et al. (2014).",
        settings={"embedder__layers": "{best_layer}"},
    ),
)
