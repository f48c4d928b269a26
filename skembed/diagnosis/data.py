"""What frozen embeddings say of the data of a fit: wrong labels, leaks, rare classes, targets without structure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from skembed.findings import Finding
from skembed.measures import LinearProbe, find_twins, noise_rate, suspect_labels
from skembed.measures.label_noise import LEAST_R2, NOISY

__all__ = ["MOST_SAMPLES", "find_imbalance", "find_leaks", "find_noise"]

#: Samples that are looked at, so that a diagnosis stays cheap beside a fit.
MOST_SAMPLES = 3000
#: Fewer samples say nothing by being left out one by one.
_LEAST_PROBED = 10
_SOME_SUSPECTS = 0.02
#: Shares of the held-out samples that are known from training.
_LEAKED, _BADLY_LEAKED = 0.02, 0.1
#: A class is rare if the largest has so many times its samples, and hurt if it does so much worse than the others.
_RARE, _HURT = 5, 0.5


def find_noise(
    rows: np.ndarray, columns: np.ndarray, codes: np.ndarray | None, names: Sequence[Any], rng: np.random.Generator
) -> list[Finding]:
    """Targets without structure ("no signal"), or labels that the others contradict ("label noise").

    Parameters
    ----------
    rows : ndarray of shape (n_samples, n_features)
        Embeddings that have not seen the targets.
    columns : ndarray of shape (n_samples, n_targets)
        Indicators of classes, labels or numbers.
    codes : ndarray of shape (n_samples,), int, or None
        Of classes.
    names : sequence
        Of the classes.
    rng : numpy Generator
        Shuffles targets.
    """
    # One of each group of twins: a probe that knows the sample's double is not asked anything.
    single = np.unique(find_twins(rows).groups, return_index=True)[1]
    if len(single) < _LEAST_PROBED or not np.ptp(columns[single], axis=0).any():
        return []
    probe, targets = LinearProbe(rows[single]), columns[single]
    left_out = probe.left_out(targets)
    if probe.is_chance(targets, rng):
        evidence = (
            f"A linear probe on frozen features explains {left_out.r2:.1%} of the targets of samples that it has not "
            "seen, no more than with shuffled targets."
        )
        remedy = (
            "Check that X and y are in the same order; if so, another backbone (rank_backbones) or strategy='full'."
        )
        return [Finding("no signal", "serious", evidence, remedy, numbers={"probe_r2": left_out.r2})]
    if codes is None or left_out.r2 < LEAST_R2:
        return []
    chances = left_out.probabilities(codes[single])
    suspects, (rate, error) = suspect_labels(chances, codes[single]), noise_rate(chances, codes[single])
    share = len(suspects.positions) / len(single)
    if share < _SOME_SUSPECTS or len(suspects.positions) < 2:
        return []
    where = single[suspects.positions]
    given, likely = names[codes[where[0]]], names[suspects.suggested[0]]
    evidence = (
        f"{len(where)} of {len(single)} labels ({share:.1%}) are confidently contradicted by a probe that has not seen "
        f"them, the surest labelled {given!r} and likely {likely!r}; of the quarter of the samples that it is surest "
        f"of {rate:.1%} are labelled otherwise."
    )
    severity = "warning" if rate - 2 * error >= NOISY else "note"
    remedy = "Look at the samples of this finding first; label_smoothing=0.1 lessens the harm of those that stay."
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


def find_leaks(rows: np.ndarray, train: np.ndarray, held_out: np.ndarray) -> Iterator[Finding]:
    """Held-out samples that have a copy or near copy among those trained on.

    Parameters
    ----------
    rows : ndarray of shape (n_samples, n_features)
        Frozen embeddings.
    train, held_out : ndarray of int64
        Positions in `rows`.
    """
    twins = find_twins(rows)
    leaked = held_out[np.isin(twins.groups[held_out], twins.groups[train])]
    share = len(leaked) / len(held_out) if len(held_out) else 0.0
    if share < _LEAKED or len(leaked) < 2:
        return
    evidence = (
        f"{len(leaked)} of {len(held_out)} held-out samples ({share:.1%}) have a copy or near copy among those trained "
        f"on (similarity of at least {twins.threshold:.3f}): held-out scores are too good."
    )
    remedy = "Keep copies together: fit(X, y, groups=...), with advise(X, y, embedder).groups or groups of your own."
    severity = "serious" if share >= _BADLY_LEAKED else "warning"
    yield Finding("leaked duplicates", severity, evidence, remedy, tuple(leaked.tolist()), {"leaked_share": share})


def find_imbalance(
    quality: np.ndarray, codes: np.ndarray, counts: np.ndarray, names: Sequence[Any], *, balanced: bool
) -> Iterator[Finding]:
    """Rare classes that do much worse than the others.

    Parameters
    ----------
    quality : ndarray of shape (n_samples,), float64
        What each judged sample got: the probability of its class, or whether it was right.
    codes : ndarray of shape (n_samples,), int
        Class of each of them.
    counts : ndarray of shape (n_classes,), int
        Samples of each class that were trained on.
    names : sequence
        Of the classes.
    balanced : bool
        Whether class_weight was "balanced" already.
    """
    rare = (counts > 0) & (counts.max() >= _RARE * counts)
    usual = ~rare[codes]
    if not rare.any() or not usual.any():
        return
    expected = quality[usual].mean()
    judged = np.bincount(codes, minlength=len(counts))
    means = np.bincount(codes, weights=quality, minlength=len(counts)) / np.maximum(judged, 1)
    hurt = np.flatnonzero(rare & (judged >= 2) & (means < _HURT * expected))
    if not len(hurt):
        return
    classes = ", ".join(f"{names[i]!r} ({counts[i]} samples: {means[i]:.2f})" for i in hurt[:5])
    evidence = (
        f"Rare classes do much worse than the others' {expected:.2f} (probability or share of right answers on judged "
        f"samples): {classes}; the largest class has {counts.max()} samples."
    )
    remedy = "More samples of these classes" + (
        ", or a coarser set of classes." if balanced else "; class_weight='balanced', scoring='balanced_accuracy'."
    )
    yield Finding("class imbalance", "warning", evidence, remedy, numbers={"others": float(expected)})
