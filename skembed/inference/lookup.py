"""Deduplication of samples and lookup of cached rows, before anything is computed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from skembed.cache import EmbeddingCache
from skembed.exceptions import DecodeError
from skembed.inputs.describing import describe
from skembed.utils.progress import loading, sample_progress
from skembed.utils.sample_watch import current_watch, watching

if TYPE_CHECKING:
    from skembed.inference.extract import Batch

__all__ = ["Embedded", "embed"]

_LOGGER = logging.getLogger(__name__)


class Compute(Protocol):
    """Function that embeds samples: `extract` with all other arguments bound."""

    def __call__(self, samples: Sequence[Any], *, positions: Sequence[int]) -> Iterator[Batch]: ...


@dataclass
class Embedded:
    """Rows of all samples, errors and number of truncated samples.

    Parameters
    ----------
    embeddings : ndarray of shape (n_samples, n_features), float32
        Rows, with NaN for samples that could not be read or whose rows are not finite.
    n_truncated : int
        Number of samples that were cut.
    errors : list of DecodeError
        One error for each row of NaN, in order.
    """

    embeddings: np.ndarray
    n_truncated: int
    errors: list[DecodeError]


def embed(
    samples: Sequence[Any],
    compute: Compute,
    *,
    key: Callable[[Any], bytes | None],
    n_features: int,
    cache: EmbeddingCache | None = None,
    namespace: str = "",
    chunk_size: int = 8192,
    progress: str | None = None,
    load: tuple[str, Callable[[], Any]] | None = None,
) -> Embedded:
    """Return rows of samples; embed equal samples once, and cached ones not at all.

    Parameters
    ----------
    samples : sequence
        Raw samples.
    compute : callable
        Function that embeds samples that are neither cached nor copies.
    key : callable
        Function that returns the digest of a sample, or None for one to embed each time.
    n_features : int
        Number of features of a row.
    cache : EmbeddingCache, optional
        Cache to look rows up in and to store them in.
    namespace : str
        Digest of everything that decides a row except its sample.
    chunk_size : int
        Number of samples that are looked up at a time.
    progress : str, optional
        Description of a progress bar over samples; None shows no bar.
    load : (str, callable), optional
        Name of the network, and a function that loads it before the first sample is computed.

    Returns
    -------
    Embedded
        Rows in the order of `samples`.
    """
    n_samples = len(samples)
    # A row and, behind it, whether its sample was cut: the warning must be the same from a warm cache.
    rows = np.full((n_samples, n_features + 1), np.nan, dtype=np.float32)
    errors: dict[int, DecodeError] = {}
    first: dict[bytes, int] = {}
    same = np.arange(n_samples)
    loader = None if load is None else _Loader(*load)
    with sample_progress(n_samples, progress) as bar, watching(bar, describe):
        for start in range(0, n_samples, chunk_size):
            part = range(start, min(start + chunk_size, n_samples))
            keys = {i: key(samples[i]) for i in part}
            for i, found in keys.items():
                if found is not None:
                    same[i] = first.setdefault(found, i)
            new = [i for i in part if same[i] == i]
            bar.update(len(part) - len(new))
            _embed_new(samples, _after(loader, bar, compute), rows, errors, keys, new, cache, namespace, bar)
    for i in np.flatnonzero(same != np.arange(n_samples)).tolist():
        if same[i] in errors:
            errors[i] = errors[same[i]].at(i)
    rows = rows[same] if len(first) < n_samples else rows
    return Embedded(
        np.ascontiguousarray(rows[:, :-1]), int(np.nansum(rows[:, -1])), [errors[i] for i in sorted(errors)]
    )


class _Loader:
    """Function that loads a network before the first sample, and shows it on the bar."""

    def __init__(self, name: str, load: Callable[[], Any]):
        self.name, self.load, self.done = name, load, False

    def __call__(self, bar) -> None:
        if not self.done:
            with loading(bar, self.name):
                self.load()
            if (watch := current_watch()) is not None:
                watch.begin()
            self.done = True


def _after(loader: _Loader | None, bar, compute: Compute) -> Compute:
    """Return `compute` with the network loaded before its first call."""

    def load_and_compute(samples, *, positions):
        if loader is not None:
            loader(bar)
        return compute(samples, positions=positions)

    return load_and_compute


def _embed_new(samples, compute, rows, errors, keys, new: list[int], cache, namespace: str, bar) -> None:
    """Fill in the rows of samples that are not equal to an earlier one."""
    if cache is None:
        _compute(samples, compute, rows, errors, keys, new, None, namespace, bar)
        return
    # In turns, so that what two threads both lack is embedded by the first and found by the second.
    with cache.turn:
        known = [i for i in new if keys[i] is not None]
        found = set()
        for i, row in zip(known, cache.get_many(namespace, [keys[i] for i in known]), strict=True):
            # Any other width was not written by us.
            if row is not None and row.shape == rows[i].shape:
                rows[i] = row
                found.add(i)
        bar.update(len(found))
        _LOGGER.debug("cache %r: %d of %d rows found, %d to embed", cache, len(found), len(new), len(new) - len(found))
        _compute(samples, compute, rows, errors, keys, [i for i in new if i not in found], cache, namespace, bar)


def _compute(samples, compute, rows, errors, keys, left: list[int], cache, namespace: str, bar) -> None:
    if not left:
        return
    watch = current_watch()
    try:
        # Closed here if a row cannot be stored: its threads are not to wait for the garbage collector.
        with closing(compute([samples[i] for i in left], positions=left)) as batches:
            for batch in batches:
                if batch.positions:
                    _store(batch, rows, keys, cache, namespace)
                    if watch is not None:
                        watch.computed(batch.positions)
                errors.update((error.index, error) for error in batch.errors)
                bar.update(len(batch.positions) + len(batch.errors))
    finally:
        if cache is not None:
            cache.flush()


def _store(batch: Batch, rows: np.ndarray, keys, cache, namespace: str) -> None:
    """Write the rows of a batch, and store them in the cache."""
    where, n_features = batch.positions, rows.shape[1] - 1
    if batch.rows.shape[1] != n_features:
        raise RuntimeError(f"Internal error: rows of {batch.rows.shape[1]} features where {n_features} were expected.")
    rows[where, :-1], rows[where, -1] = batch.rows, batch.truncated
    if cache is not None:
        # What overflowed is not stored: it may come out right on another device or in another precision.
        kept = [i for i in where if keys[i] is not None and np.isfinite(rows[i]).all()]
        cache.put_many(namespace, [keys[i] for i in kept], rows[kept])
