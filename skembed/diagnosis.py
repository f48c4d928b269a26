"""Diagnosis after training: problems of a fit, their numbers, and remedies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import check_is_fitted

from skembed.assessment import forgetting
from skembed.assessment.data_quality import MAX_DIAGNOSED_SAMPLES, find_noise
from skembed.assessment.diagnosis import Diagnosis
from skembed.assessment.findings import Finding, of_positions, worst_first
from skembed.assessment.remedies import Means
from skembed.embedders.encoder import Encoder
from skembed.finetune.base import BaseFineTuner, check_targets_of
from skembed.finetune.examine import slower_by
from skembed.inputs import check_comparable
from skembed.inputs.target_kinds import KnownTargets, know_targets

__all__ = ["Diagnosis", "diagnose"]

#: Number of samples whose outputs are compared block by block.
_MAX_COMPARED_SAMPLES = 500


def diagnose(fitted: BaseFineTuner, X=None, y=None, *, random_state: int | None = 0) -> Diagnosis:
    """Inspect a fitted estimator for problems, with their numbers and remedies.

    Without samples, the result is ``fitted.diagnosis_``. With samples, it also has the similarity of each block's
    outputs to those of the pre-trained network (linear CKA [1]_), a comparison of the new features with the pre-trained
    ones, and the labels of these samples that are suspect [2]_.

    Parameters
    ----------
    fitted : FineTuneClassifier or FineTuneRegressor
        Fitted estimator.
    X : list, ndarray, Series or one-column dataframe of shape (n_samples,), default=None
        Raw samples, preferably none of the training samples: the new features already depend on their targets.
    y : array-like of shape (n_samples,) or (n_samples, n_targets), default=None
        Targets of the samples. Without targets, only outputs are compared.
    random_state : int or None, default=0
        Seed of the draws: at most 3,000 samples are used, and 500 for the comparison of blocks.

    Returns
    -------
    Diagnosis
        Findings and measurements; print it. It repeats the findings of ``fitted.diagnosis_``, except that "label noise"
        and "no signal" refer to the given samples if they are found there. Their positions are then positions in X.

    Raises
    ------
    TypeError
        If `fitted` is not a fine-tuning estimator.
    NotFittedError
        If `fitted` is not fitted.
    ValueError
        If y is given without X, or X and y differ in length.

    References
    ----------
    .. [1] Kornblith et al. (2019), Similarity of Neural Network Representations Revisited.
    .. [2] Northcutt, Jiang & Chuang (2021), Confident Learning: Estimating Uncertainty in Dataset Labels.

    Examples
    --------
    >>> from skembed import FineTuneClassifier, diagnose
    >>> texts = ["the invoice is overdue", "your parcel has arrived", "payment was refused", "delivery is delayed"] * 5
    >>> labels = ["money", "parcel", "money", "parcel"] * 5
    >>> classifier = FineTuneClassifier(strategy="head", max_epochs=3, random_state=0).fit(texts, labels)
    >>> diagnose(classifier).names
    ('leaked duplicates', 'few samples', 'not judged')
    """
    _check_fitted(fitted)
    if X is None:
        if y is not None:
            raise ValueError("y is given without X: give both, or neither for what the fit itself knows.")
        return fitted.diagnosis_
    known = None
    if y is not None:
        known = _targets_of(fitted, y)
        check_consistent_length(X, known.columns)
    rng = np.random.default_rng(random_state)
    from skembed.embedders.text import TextEmbedder

    start = clone(TextEmbedder() if fitted.embedder is None else fitted.embedder).fit(X)
    samples = Encoder(start).samples(X)
    chosen = np.sort(rng.permutation(len(samples))[:MAX_DIAGNOSED_SAMPLES])
    samples = [samples[i] for i in chosen]
    old, new = start.embed(samples), fitted.embedder_.embed(samples)
    known = None if known is None else known.take(chosen)
    readable = np.isfinite(old).all(1) & np.isfinite(new).all(1)
    where = np.flatnonzero(readable)
    found = _Samples([samples[i] for i in where], old[where], new[where], None if known is None else known.take(where))
    return _with_samples(fitted, start, found, chosen[where], rng)


def _check_fitted(fitted: Any) -> None:
    if not isinstance(fitted, BaseFineTuner):
        hint = " Pass its last step, pipeline[-1]." if isinstance(fitted, Pipeline) else ""
        hint = " Pass its best_estimator_." if hasattr(fitted, "best_estimator_") else hint
        given = repr(fitted) if isinstance(fitted, str | int | float | None) else f"a {type(fitted).__name__}"
        raise TypeError(f"fitted is {given}. diagnose needs a fitted FineTuneClassifier or FineTuneRegressor.{hint}")
    message = (
        "This %(name)s is not fitted: call fit(X, y) first, and diagnose it then. Before training, "
        "skembed.advise(X, y, embedder) looks at the data."
    )
    check_is_fitted(fitted, msg=message)


class _Samples:
    """Samples that a fitted estimator is looked at with, what was made of them before and after, and their targets."""

    def __init__(self, raw: list[Any], old: np.ndarray, new: np.ndarray, known: KnownTargets | None):
        self.raw, self.old, self.new, self.known = raw, old, new, known


def _targets_of(fitted: BaseFineTuner, y: Any) -> KnownTargets:
    classes = getattr(fitted, "classes_", None)
    if classes is None:
        return know_targets(y, "regression")
    values = check_targets_of(fitted, y)
    if values.ndim == 2:
        return know_targets(values, "multilabel")
    check_comparable(values, classes, ("y", "classes_"))
    codes = np.searchsorted(classes, values)
    if not np.array_equal(classes[np.minimum(codes, len(classes) - 1)], values):
        unknown = np.setdiff1d(values, classes).tolist()[0]
        raise ValueError(f"y has the class {unknown!r}, which the estimator does not know. Leave its samples out.")
    return KnownTargets("classification", np.eye(len(classes))[codes], codes, tuple(classes.tolist()))


def _with_samples(fitted: BaseFineTuner, start, found: _Samples, positions: np.ndarray, rng) -> Diagnosis:
    before = fitted.diagnosis_
    means = Means.of(fitted.get_params(deep=False), fitted.strategy_, fitted.method_.name, kept=fitted.kept_)
    blocks: dict[str, dict[str, float]] = {name: dict(row) for name, row in before.blocks.items()}
    numbers = dict(before.numbers)
    if fitted.embedder_.fingerprint_ != start.fingerprint_:
        compared = np.sort(rng.permutation(len(found.raw))[:_MAX_COMPARED_SAMPLES])
        alike = forgetting.compare_outputs(start, fitted.embedder_, [found.raw[i] for i in compared])
        for name, value in alike.items():
            blocks.setdefault(name, {})["cka"] = value
    about: tuple[Finding, ...] = ()
    probes = None
    known = found.known
    if known is not None and len(found.raw) > 1:
        probes = forgetting.compare_features(found.old, found.new, known.columns, known.codes)
        numbers |= probes
        # What acts on training does nothing for labels that are not trained on, as with a probe.
        untrained = replace(means, kept="probe")
        noise = find_noise(found.old, known.columns, known.codes, known.names, rng, untrained)
        about = tuple(replace(each, evidence=f"In the given samples: {each.evidence}") for each in noise)
    forgotten = forgetting.find_forgetting(blocks, means, probes, slower_by=slower_by(before.findings))
    about = (*of_positions(about, positions), *forgotten)
    # What is known better now; all else is as true of the fit as it was.
    again = {"forgetting", *(each.name for each in about)}
    findings = [*about, *(each for each in before.findings if each.name not in again)]
    checked = tuple(dict.fromkeys([*before.checked, "forgetting"]))
    return Diagnosis(worst_first(findings), checked, blocks, numbers, before.judging)
