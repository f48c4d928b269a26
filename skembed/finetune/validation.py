"""Split into training and held-out samples."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold

__all__ = ["hold_out"]


def hold_out(
    y: np.ndarray, fraction: float | None, rng: np.random.Generator, *, groups: Any = None, stratify: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of training and held-out samples.

    Parameters
    ----------
    y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        Targets.
    fraction : float, optional
        Share of the samples that is held out; None holds out none.
    rng : numpy Generator
        Generator that draws the samples.
    groups : array-like of shape (n_samples,), optional
        Group of each sample. Samples of one group stay on one side.
    stratify : bool, default=True
        If True, classes are held out in proportion. A class keeps at least one training sample.

    Returns
    -------
    train, held_out : ndarray of int64
        Positions, sorted.

    Raises
    ------
    ValueError
        If nothing can be held out.
    """
    everything = np.arange(len(y))
    if fraction is None:
        return everything, everything[:0]
    if groups is not None:
        held_out = _whole_groups(y, np.asarray(groups), fraction, rng, stratify)
    elif stratify:
        held_out = _in_proportion(y, fraction, rng)
    else:
        held_out = rng.permutation(everything)[: min(max(1, round(fraction * len(y))), len(y) - 1)]
    if not len(held_out):
        raise ValueError(
            f"validation_fraction={fraction} of {len(y)} samples holds out none: "
            + ("every class has one sample" if stratify else "n_samples=1 is too few")
            + ". Give X_val and y_val, more samples, or validation_fraction=None, which trains without judging."
        )
    return np.setdiff1d(everything, held_out), np.sort(held_out)


def _in_proportion(y: np.ndarray, fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Return held-out samples with classes in proportion, rounded by the largest remainders."""
    _, classes, counts = np.unique(y, return_inverse=True, return_counts=True)
    quotas = np.minimum(fraction * counts, counts - 1)
    taken = np.floor(quotas).astype(int)
    wanted = max(1, round(fraction * len(y)))
    # Ties are broken by chance, or the first classes would always give the most.
    order = np.lexsort((rng.random(len(counts)), taken - quotas))
    for index in order[: max(0, wanted - taken.sum())]:
        taken[index] = min(taken[index] + 1, counts[index] - 1)
    shuffled = rng.permutation(len(y))
    chosen = [shuffled[classes[shuffled] == index][:n] for index, n in enumerate(taken)]
    return np.concatenate(chosen)


def _whole_groups(y, groups: np.ndarray, fraction: float, rng: np.random.Generator, stratify: bool) -> np.ndarray:
    if groups.shape != (len(y),):
        raise ValueError(f"groups has shape {groups.shape}; {(len(y),)} was expected, one group per sample.")
    n_groups = len(np.unique(groups))
    if n_groups < 2:
        raise ValueError("groups has one group, which cannot be on both sides. Give X_val and y_val instead.")
    seed = int(rng.integers(2**31))
    if not stratify:
        n_held_out = min(max(1, round(fraction * n_groups)), n_groups - 1)
        splits = GroupShuffleSplit(n_splits=1, test_size=n_held_out, random_state=seed).split(y, y, groups)
        return next(splits)[1]
    classes, counts = np.unique(y, return_counts=True)
    n_splits = min(n_groups, max(2, round(1 / min(fraction, 1 - fraction))), int(counts.max()))
    if n_splits < 2:
        return np.arange(0)
    with warnings.catch_warnings():
        # Whether a class that is smaller than the number of folds is trained on is seen below.
        warnings.filterwarnings("ignore", message="The least populated class")
        splitter = StratifiedGroupKFold(n_splits=n_splits, shuffle=True, random_state=seed)
        splits = list(splitter.split(np.zeros(len(y)), y, groups))
    whole = set(classes.tolist())
    # More than half is what one fold leaves over.
    sides = [(test, train) if fraction > 0.5 else (train, test) for train, test in splits]
    parts = [(train, test) for train, test in sides if len(train) and len(test)]
    # A fold whose rest has every class, if there is one: a class that is never trained on cannot be learned.
    complete = [test for train, test in parts if set(y[train].tolist()) == whole]
    return complete[0] if complete else parts[0][1]
