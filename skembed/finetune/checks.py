"""Checks of the input of a fit besides targets: lengths, weights, readable and distinct samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skembed.embedders.base import BaseEmbedder
from skembed.embedders.encoder import Encoder
from skembed.exceptions import FitWarning
from skembed.utils.blas import one_blas_thread
from skembed.utils.warnings import warn

__all__ = [
    "CheckedData",
    "check_lengths",
    "check_weights",
    "describe_alike",
    "describe_copies",
    "describe_left_out",
    "readable",
    "taken",
    "warn_of_idle_views",
    "warn_of_single",
]

#: Number of samples that a report names if some are left out.
_MOST_NAMED = 5
#: Samples whose embeddings are compared in pairs, how near (as a part of their usual length) two are alike, and the
#: share of pairs from which on a network is said to tell samples apart no more.
_COMPARED, _ALIKE, _COLLAPSED = 200, 1e-3, 0.25
#: Smallest share of copies among held-out samples that a fit warns of.
_LEAKED = 0.1


def check_lengths(n_samples: int, beside: dict[str, Any], *, name: str = "X") -> None:
    """Refuse arguments that do not have one value per sample; a single weight is allowed.

    Parameters
    ----------
    n_samples : int
        Number of samples of X.
    beside : dict of str to array-like or None
        Arguments that need one value per sample, by name.
    name : str
        Name of X in messages.
    """
    for other, values in beside.items():
        if values is None:
            continue
        n = _length(values)
        if n is None and other != "sample_weight":
            raise TypeError(
                f"{other} is a {type(values).__name__}, not a collection with one value for each of the {n_samples} "
                f"samples of {name}. Give a list, an array or a Series."
            )
        if n is not None and n != n_samples:
            raise ValueError(
                f"{name} has {n_samples} samples and {other} has {n}: give one value of {other} for each "
                f"sample, in the order of {name}."
            )


def _length(values: Any) -> int | None:
    """Return the number of values; None for a scalar, such as one weight for all samples."""
    shape = getattr(values, "shape", None)
    if shape is None:
        # Not np.shape, which some array-likes refuse.
        plain = isinstance(values, Sequence) and not isinstance(values, (str, bytes))
        shape = (len(values),) if plain else np.asarray(values).shape
    return shape[0] if len(shape) else None


def check_weights(sample_weight: Any, n_samples: int) -> np.ndarray:
    """Return the weights of all samples, float64.

    Parameters
    ----------
    sample_weight : array-like of shape (n_samples,), float or None
        Argument of `fit`.
    n_samples : int
        Number of samples.

    Raises
    ------
    ValueError
        If a weight is negative, missing or infinite, or all weights are zero.
    """
    if sample_weight is None:
        return np.ones(n_samples)
    try:
        weights = np.asarray(sample_weight, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"sample_weight is not numeric: {error}. Give one number per sample.") from error
    if weights.ndim > 1:
        raise ValueError(
            f"sample_weight has shape {weights.shape}: give one number per sample, of shape ({n_samples},)."
        )
    weights = np.array(np.broadcast_to(weights, n_samples))
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(bad):
        raise ValueError(
            f"sample_weight[{bad[0]}] is {weights[bad[0]]}, the first of {len(bad)} invalid weights. Give numbers "
            "from 0; 0 leaves a sample out."
        )
    if not weights.any():
        raise ValueError("sample_weight is zero for every sample, so there is nothing to learn from.")
    return weights


def readable(embedder: BaseEmbedder, samples: Sequence[Any], name: str = "X") -> np.ndarray:
    """Return the positions of samples that could be embedded; all of them with ``on_error="raise"``."""
    if embedder.on_error == "raise":
        return np.arange(len(samples))
    chosen = np.flatnonzero(np.isfinite(embedder.embed(samples)).all(1))
    if not len(chosen):
        raise ValueError(
            f"None of the {len(samples)} samples of {name} could be embedded. With on_error='raise' the embedder "
            "says why."
        )
    return chosen


def describe_left_out(n_samples: int, tried: np.ndarray, kept: np.ndarray, name: str = "X") -> list[str]:
    """Describe the samples that could not be embedded in a sentence, if there are any.

    Parameters
    ----------
    n_samples : int
        Number of given samples.
    tried, kept : ndarray of int64
        Positions of the samples that were tried, and of those that could be embedded.
    name : str
        Name of the samples.

    Examples
    --------
    >>> describe_left_out(4, np.arange(4), np.array([0, 3]))
    ['2 of 4 samples of X could not be embedded and were left out: 1, 2.']
    """
    lost = np.setdiff1d(tried, kept).tolist()
    if not lost:
        return []
    named = ", ".join(map(str, lost[:_MOST_NAMED])) + (", ..." if len(lost) > _MOST_NAMED else "")
    were = "were" if len(lost) > 1 else "was"
    return [f"{len(lost)} of {n_samples} samples of {name} could not be embedded and {were} left out: {named}."]


@dataclass(frozen=True)
class CheckedData:
    """Samples that a fit uses, with what belongs to them.

    Parameters
    ----------
    samples : sequence
        Raw samples.
    y : ndarray
        Targets of the samples.
    weights : ndarray of shape (n_samples,), float64
        Weights, all positive.
    groups : array-like or None
        Groups of the samples of X.
    positions : ndarray of shape (n_samples,), int64
        Positions in X; those of X_val continue them.
    notes : tuple of str
        Sentences for the report.
    n_rows : int
        Number of samples in X, those that were left out included.
    train, held_out : ndarray of int64
        Positions in `samples` of the two sides of the split.
    """

    samples: Sequence[Any]
    y: np.ndarray
    weights: np.ndarray
    groups: Any
    positions: np.ndarray
    notes: tuple[str, ...]
    n_rows: int
    train: np.ndarray = field(default_factory=lambda: np.arange(0))
    held_out: np.ndarray = field(default_factory=lambda: np.arange(0))


def taken(chosen: np.ndarray, samples, y, weights, groups):
    """Return some of the samples, with their targets, weights and groups."""
    if len(chosen) == len(y):
        return samples, y, weights, groups
    return (
        [samples[i] for i in chosen],
        y[chosen],
        weights[chosen],
        None if groups is None else np.asarray(groups)[chosen],
    )


def describe_alike(embedder: BaseEmbedder, samples: Sequence[Any], rows: np.ndarray) -> list[str]:
    """Describe that different samples have nearly equal embeddings; empty if they differ.

    Parameters
    ----------
    embedder : BaseEmbedder
        Fitted.
    samples : sequence
        Raw samples, of which copies count once.
    rows : ndarray of shape (n_samples, n_features)
        Embeddings of the samples.
    """
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _COMPARED)).astype(int))
    near = _near(rows[chosen].astype(np.float64))
    if near.mean() < _COLLAPSED:
        return []
    key = Encoder(embedder).key()
    single: dict[Any, int] = {}
    for place, i in enumerate(chosen.tolist()):
        # What has no key is taken for unlike all others.
        single.setdefault(key(samples[i]) or i, place)
    first = list(single.values())
    n, near = len(first), near[np.ix_(first, first)]
    if n < 2 or (near.sum() - n) / (n * (n - 1)) < _COLLAPSED:
        return []
    n_alike = int((near.sum(1) > 1).sum())
    return [
        f"The embeddings of {n_alike} of {n} different samples are alike, all but equal: nothing that is learned from "
        f"them can tell these samples apart. {_cause(embedder)}"
    ]


def describe_copies(rows: np.ndarray, train: np.ndarray, held_out: np.ndarray) -> list[str]:
    """Describe that many held-out samples are copies of training samples; empty if few are.

    Parameters
    ----------
    rows : ndarray of shape (n_samples, n_features)
        Embeddings, which copies of a sample share.
    train, held_out : ndarray of int64
        Positions of the training and of the held-out samples.

    Examples
    --------
    >>> rows = np.array([[1.0], [2.0], [3.0], [2.0], [1.0]], dtype=np.float32)
    >>> (sentence,) = describe_copies(rows, np.array([0, 1, 2]), np.array([3, 4]))
    >>> sentence.partition(":")[0]
    '2 of 2 held-out samples are copies of training samples'
    >>> describe_copies(rows, np.array([0, 1]), np.array([2]))
    []
    """
    known = {row.tobytes() for row in rows[train]}
    n_known = sum(row.tobytes() in known for row in rows[held_out])
    if n_known < max(2, _LEAKED * len(held_out)):
        return []
    return [
        f"{n_known} of {len(held_out)} held-out samples are copies of training samples: what is measured on them tells "
        "nothing of new samples. Give X_val of others, or groups= that keep copies together."
    ]


def _cause(embedder: BaseEmbedder) -> str:
    size, length = getattr(embedder, "image_size", None), getattr(embedder, "max_length", None)
    if size is not None:
        return f"image_size={size} may be too small for the network; None takes its own size."
    if length is not None:
        return f"max_length={length} may cut texts before they differ; None reads as much as the network can."
    return "Look at the samples: they may have hardly any content."


def _near(rows: np.ndarray) -> np.ndarray:
    """Return for each pair of rows whether they are alike."""
    squares = np.square(rows).sum(1)
    with one_blas_thread():
        products = rows @ rows.T
    apart = np.maximum(squares[:, None] + squares - 2 * products, 0)
    return apart <= _ALIKE**2 * squares.mean()


def warn_of_idle_views(augment: Any, n_views: int) -> None:
    """Warn if all views of a sample are the same."""
    if augment is None and n_views != 1:
        warn(
            f"n_views={n_views} has no effect: augment is None, so that all views of a sample are the same. Give "
            "augment='light', say; or leave n_views out.",
            FitWarning,
        )


def warn_of_single(n_samples: int, n_held_out: int, fraction: float | None, *, given: bool) -> None:
    """Warn if a single sample is held out.

    Parameters
    ----------
    n_samples, n_held_out : int
        Numbers of samples of X and of held-out samples, without those that were left out.
    fraction : float or None
        `validation_fraction`.
    given : bool
        True if X_val was given.
    """
    if n_held_out != 1:
        return
    which = "X_val has one sample" if given else f"validation_fraction={fraction} of {n_samples} samples holds out one"
    warn(
        f"{which}, and one sample cannot tell which of two fits is better. Give more samples, or an X_val and y_val of "
        "more; or validation_fraction=None, which trains without judging.",
        FitWarning,
    )
