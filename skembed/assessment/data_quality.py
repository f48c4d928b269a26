"""Findings about the data of a fit: wrong labels, leaks, rare classes, targets without signal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from skembed.assessment.findings import Finding
from skembed.assessment.remedies import Means
from skembed.measures import find_twins, noise_rate, suspect_labels
from skembed.measures.label_noise import MIN_PROBE_R2, NOISY_RATE
from skembed.probes.leave_one_out import MIN_LEFT_OUT_SAMPLES, N_SHUFFLES, LeftOut, LinearProbe

__all__ = ["MAX_DIAGNOSED_SAMPLES", "find_few", "find_imbalance", "find_leaks", "find_noise"]

#: Largest number of samples, so that a diagnosis is cheap compared with a fit.
MAX_DIAGNOSED_SAMPLES = 3000
_MIN_SUSPECT_SHARE = 0.02
#: Smallest number of samples with which the noise rate of clean labels was measured.
_MIN_SAMPLES_FOR_NOISE = 240
#: Shares of held-out samples with a copy in training that make a warning and a serious finding.
_LEAKED_SHARE = 0.02
_SERIOUS_LEAKED_SHARE = 0.1
#: A class is rare if the largest class has this many times its samples.
_RARE_RATIO = 5
#: A class is hurt if its mean probability is below this part of that of the other classes.
_HURT_RATIO = 0.5
_MIN_JUDGED_SAMPLES = 2
#: Classes with fewer samples than this may have to be merged with others.
_TINY_CLASS = 5
#: With fewer samples per class, less than four are held out to judge by; the rules of advice use the same number.
_FEW_PER_CLASS = 20
_MAX_NAMED_CLASSES = 5


def find_noise(
    rows: np.ndarray,
    columns: np.ndarray,
    codes: np.ndarray | None,
    names: Sequence[Any],
    rng: np.random.Generator,
    means: Means,
) -> list[Finding]:
    """Find targets without signal ("no signal"), or labels that others contradict ("label noise").

    Parameters
    ----------
    rows : ndarray of shape (n_samples, n_features)
        Frozen embeddings.
    columns : ndarray of shape (n_samples, n_targets)
        Indicators of classes, labels or numbers.
    codes : ndarray of shape (n_samples,), int, or None
        Codes of the classes.
    names : sequence
        Names of the classes.
    rng : numpy Generator
        Shuffles targets.
    means : Means
        Parameters of the fit.
    """
    # One sample of each group of twins: a probe that was fitted on a copy predicts nothing.
    single = np.unique(find_twins(rows).groups, return_index=True)[1]
    if len(single) < MIN_LEFT_OUT_SAMPLES or not np.ptp(columns[single], axis=0).any():
        return []
    probe, targets = LinearProbe(rows[single]), columns[single]
    left_out = probe.left_out(targets)
    if probe.is_chance(targets, rng):
        chance = _of_chance(probe, left_out, targets, None if codes is None else codes[single], rng)
        if chance is not None:
            return [chance]
    if codes is None or left_out.r2 < MIN_PROBE_R2:
        return []
    chances = left_out.probabilities(codes[single])
    suspects, (rate, error) = suspect_labels(chances, codes[single]), noise_rate(chances, codes[single])
    share = len(suspects.positions) / len(single)
    sure = rate - 2 * error >= NOISY_RATE
    # Overlapping classes have suspects too, but wrong labels also occur among easy samples. For a probe on few samples
    # no sample is easy.
    likely_wrong = sure or (rate - error >= NOISY_RATE and len(single) >= _MIN_SAMPLES_FOR_NOISE)
    if share < _MIN_SUSPECT_SHARE or len(suspects.positions) < 2 or not likely_wrong:
        return []
    where = single[suspects.positions]
    given, likely = names[codes[where[0]]], names[suspects.suggested[0]]
    evidence = (
        f"A linear probe on frozen features predicted the class of each of {len(single)} samples without having been "
        f"fitted on it. In the quarter with the most certain predictions, {rate:.1%} (standard error {error:.1%}) of "
        "the labels differ from them; correct labels give about 1%, and 10% wrong labels give 5% or more. "
        f"{len(where)} labels in all are suspect; the most suspect one is {given!r} and should probably be {likely!r}."
    ) + ("" if sure else " This may be chance.")
    severity = "warning" if sure else "note"
    remedy = "Check the labels of these samples (the finding's .samples, the most suspect first)"
    softer = [] if means.kept == "probe" else means.at_least(optimization__label_smoothing=0.1)
    remedy += f"; {softer[0]} lessens the harm of wrong labels that remain." if softer else "."
    return [
        Finding(
            "label noise",
            severity,
            evidence,
            remedy,
            tuple(where.tolist()),
            {"suspect_share": share, "noise_rate": rate},
        )
    ]


def _of_chance(
    probe: LinearProbe, left_out: LeftOut, targets: np.ndarray, codes: np.ndarray | None, rng: np.random.Generator
) -> Finding | None:
    """Return "no signal", or None if classes are predicted better than shuffled ones."""
    numbers = {"probe_r2": left_out.r2}
    if codes is None:
        evidence = (
            f"A linear probe on frozen features explains {left_out.r2:.1%} of the targets' variance in samples that it "
            "was not fitted on, no more than it explains of shuffled targets."
        )
    else:
        right = float(left_out.quality(targets, codes).mean())
        by_chance = [
            float(each.quality(targets[order], codes[order]).mean())
            for order, each in probe.shuffled(targets, rng, N_SHUFFLES)
        ]
        if right > max(by_chance):
            return None
        evidence = (
            f"A linear probe on frozen features is right on {right:.1%} of the samples, each predicted from all "
            f"others. With shuffled labels, which is chance, it reaches between {min(by_chance):.1%} and "
            f"{max(by_chance):.1%}."
        )
        numbers |= {"probe_accuracy": right, "shuffled_low": min(by_chance), "shuffled_high": max(by_chance)}
    # Deeper training would only memorize targets without signal.
    remedy = "Check that X and y are in the same order; if they are, try another backbone or layer (rank_backbones)."
    return Finding("no signal", "serious", evidence, remedy, numbers=numbers)


def find_leaks(rows: np.ndarray, train: np.ndarray, held_out: np.ndarray, means: Means) -> Iterator[Finding]:
    """Find held-out samples with a copy or near copy among the training samples.

    Parameters
    ----------
    rows : ndarray of shape (n_samples, n_features)
        Frozen embeddings.
    train, held_out : ndarray of int64
        Positions in `rows`.
    means : Means
        Parameters of the fit.
    """
    twins = find_twins(rows)
    leaked = held_out[np.isin(twins.groups[held_out], twins.groups[train])]
    share = len(leaked) / len(held_out) if len(held_out) else 0.0
    if share < _LEAKED_SHARE or len(leaked) < 2:
        return
    evidence = (
        f"{len(leaked)} of {len(held_out)} held-out samples ({share:.1%}) have a copy or near copy among the training "
        f"samples (similarity of at least {twins.threshold:.3f})."
    )
    if means.own_validation:
        remedy = "Remove these samples (the finding's .samples) from X_val, or their copies from X."
    elif means.grouped:
        remedy = (
            "Copies are in different groups. Join these groups: fit(X, y, groups=advice.groups) with "
            "advice = advise(X, y, embedder, groups=groups)."
        )
    else:
        remedy = "Keep copies together: fit(X, y, groups=advise(X, y, embedder).groups), or pass groups of your own."
    severity = "serious" if share >= _SERIOUS_LEAKED_SHARE else "warning"
    yield Finding("leaked duplicates", severity, evidence, remedy, tuple(leaked.tolist()), {"leaked_share": share})


def find_imbalance(
    quality: np.ndarray, codes: np.ndarray, counts: np.ndarray, names: Sequence[Any], means: Means
) -> Iterator[Finding]:
    """Find rare classes that are predicted much worse than others, or that cannot be judged.

    Parameters
    ----------
    quality : ndarray of shape (n_judged,), float64
        Probability of each held-out sample's class.
    codes : ndarray of shape (n_judged,), int
        Class of each held-out sample.
    counts : ndarray of shape (n_classes,), int
        Number of samples of each class.
    names : sequence
        Names of the classes.
    means : Means
        Parameters of the fit.
    """
    rare = (counts > 0) & ((counts.max() >= _RARE_RATIO * counts) | (counts == 1))
    judged = np.bincount(codes, minlength=len(counts))
    shares = np.bincount(codes, weights=quality, minlength=len(counts)) / np.maximum(judged, 1)
    usual = ~rare[codes]
    expected = float(quality[usual].mean()) if usual.any() else float("nan")
    hurt = rare & (judged >= _MIN_JUDGED_SAMPLES) & (shares < _HURT_RATIO * expected)
    unknown = rare & (judged < _MIN_JUDGED_SAMPLES)
    if not hurt.any() and not unknown.any():
        return
    troubled = counts[hurt | unknown]
    largest, rarest = int(counts.argmax()), int(troubled.min())
    evidence = []
    if hurt.any():
        worse = _listed(f"{names[i]!r} ({_samples(counts[i])}: {shares[i]:.2f})" for i in np.flatnonzero(hurt).tolist())
        evidence.append(f"Mean held-out probability of rare classes, against {expected:.2f} for the others: {worse}.")
    if unknown.any():
        rest = np.flatnonzero(unknown).tolist()
        dark = _listed(f"{names[i]!r} ({_samples(counts[i])}, {judged[i]} held out)" for i in rest)
        evidence.append(f"Too few held-out samples to judge these classes: {dark}.")
    evidence.append(
        f"The largest class, {names[largest]!r}, has {counts[largest]} samples, {counts[largest] / rarest:.0f} times "
        "as many as the smallest of these classes."
    )
    parts = ["more samples of these classes", *means.unset(class_weight="balanced")]
    parts += means.unset(scoring="balanced_accuracy") if hurt.any() else []
    remedy = f"Use {', '.join(parts)}" + ("; or merge them with other classes." if rarest < _TINY_CLASS else ".")
    numbers = {"imbalance": float(counts[largest] / rarest), "rarest": float(rarest), "others": expected}
    yield Finding("class imbalance", "warning", " ".join(evidence), remedy, numbers=numbers)


def _samples(count: int) -> str:
    return f"{count} sample{'s' if count > 1 else ''}"


def _listed(parts: Iterable[str]) -> str:
    found = list(parts)
    more = f" and {len(found) - _MAX_NAMED_CLASSES} more" if len(found) > _MAX_NAMED_CLASSES else ""
    return ", ".join(found[:_MAX_NAMED_CLASSES]) + more


def find_few(counts: np.ndarray, n_held_out: int, means: Means) -> Iterator[Finding]:
    """Find classes with so few samples that training and scores are uncertain.

    Parameters
    ----------
    counts : ndarray of shape (n_classes,), int
        Number of samples of each class.
    n_held_out : int
        Number of held-out samples.
    means : Means
        Parameters of the fit.
    """
    usual = float(np.median(counts))
    if usual >= _FEW_PER_CLASS:
        return
    evidence = f"Half of the {len(counts)} classes have {usual:.0f} samples or fewer."
    if n_held_out:
        held_out, them = ("is held out", "it") if n_held_out == 1 else ("are held out", "them")
        evidence += (
            f" {_samples(n_held_out)} {held_out}: an accuracy measured on {them} has a standard error of up to "
            f"{0.5 / n_held_out**0.5:.2f}, and smaller differences between fits may be chance."
        )
    # Whatever trains blocks was compared with the probe, and kept where it was better.
    gentle = "" if not means.trains_blocks or means.kept == "fine-tuned" else " strategy='head' takes less time."
    remedy = f"More labeled samples are worth more than any setting. Compare fits by cross_val_score.{gentle}"
    yield Finding("few samples", "note", evidence, remedy, numbers={"per_class": usual, "held_out": float(n_held_out)})
