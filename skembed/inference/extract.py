"""The inference loop: samples in, float32 rows out."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from contextvars import copy_context
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from skembed.backbones.base import Backbone, Item
from skembed.exceptions import DecodeError, DeviceWarning
from skembed.inference.batching import halve, plan_batches
from skembed.inference.bounded_map import bounded_map, count_bytes
from skembed.inference.nonfinite import find_nonfinite
from skembed.inference.pooling import combine_layers, pool
from skembed.inference.reading import Reading
from skembed.inputs import decode_all
from skembed.utils.device import is_out_of_memory, move
from skembed.utils.sample_watch import SampleWatch, current_watch
from skembed.utils.torch_modes import standard_modes
from skembed.utils.warnings import warn

__all__ = [
    "CHUNK_BYTES",
    "Batch",
    "computing",
    "each_batch",
    "embed_items",
    "extract",
    "prepare",
    "probe_width",
    "undisturbed",
    "workers",
]

#: So many times larger are the batches that "auto" plans for an accelerator: a CPU's caches like them small.
#: Halving on out-of-memory is the safety net.
_ACCELERATOR_ROOM = 8
#: Threads that decode, at most; more only wait for the disk or for each other.
_MOST_WORKERS = 16

#: Bytes of prepared samples after which a chunk ends: 64 recordings of half an hour would take 7 GB.
CHUNK_BYTES = 512 * 2**20

#: One batch at a time on a CPU, whichever thread asks: torch uses all cores for each, and two would fight for them.
_computing = threading.Lock()


def _new_lock() -> None:
    global _computing
    _computing = threading.Lock()


if hasattr(os, "register_at_fork"):
    # Held by another thread of the parent at the fork, it would never be released in the child.
    os.register_at_fork(after_in_child=_new_lock)


class Batch(NamedTuple):
    """Finished samples, successful or not.

    Parameters
    ----------
    positions : list of int
        Positions in X of the samples that have a row.
    rows : ndarray of shape (n_done, n_features), float32
        Their finite rows.
    truncated : ndarray of shape (n_done,), bool
        True for samples that were cut.
    errors : list of DecodeError
        Errors of samples that could not be read, or whose rows are not finite.
    """

    positions: list[int]
    rows: np.ndarray
    truncated: np.ndarray
    errors: Sequence[DecodeError]


#: Takes prepared samples and their positions; returns samples that enter the network further on.
Advance = Callable[[Sequence[Sequence[Item]], Sequence[int]], Sequence[Sequence[Item]]]


def extract(
    backbone: Backbone,
    samples: Sequence[Any],
    reading: Reading,
    *,
    read: Callable[[Any], tuple[Any, bool]],
    positions: Sequence[int] | None = None,
    batch_size: int | None = None,
    chunk_size: int = 1024,
    on_error: str = "raise",
    advance: Advance | None = None,
) -> Iterator[Batch]:
    """Decode, prepare, run and pool every sample, batch by batch.

    Parameters
    ----------
    backbone : Backbone
        Loaded network.
    samples : sequence
        Raw samples.
    reading : Reading
        Layers, pooling and options to read the network with.
    read : callable
        Function that decodes one raw sample and returns it with True if it was cut, or raises DecodeError.
    positions : sequence of int, optional
        Positions of `samples` in X; None counts from 0.
    batch_size : int, optional
        Number of items per batch; None plans by the backbone's token budget.
    chunk_size : int
        Number of decoded samples in memory at a time, fewer if they are large. Batches are planned within a chunk.
    on_error : {"raise", "warn", "nan"}
        Treatment of samples that cannot be read, or whose rows are not finite.
    advance : callable, optional
        Function of prepared samples and their positions that returns samples behind a block of the network.

    Yields
    ------
    Batch
        Batches in the order in which they are finished.

    Raises
    ------
    DecodeError
        With ``on_error="raise"``, for the first sample that fails.
    """
    places = range(len(samples)) if positions is None else positions
    start, watch = 0, current_watch()
    with workers() as pool:

        def begin(start: int):
            part = slice(start, start + chunk_size)
            return prepare(backbone, samples[part], reading, read, pool, places[part], on_error)

        ahead = None
        while start < len(samples):
            prepared, errors = ahead.result() if ahead is not None else begin(start)
            stop = start + len(prepared)
            # On an accelerator the next chunk is decoded while this one is computed. On a CPU they would only
            # take turns at the same cores.
            ahead = _ahead(begin, stop) if stop < len(samples) and _device(backbone).type != "cpu" else None
            readable = [i for i, items in enumerate(prepared) if items is not None]
            where = [places[start + i] for i in readable]
            items: Sequence[Sequence[Item]] = [prepared[i][0] for i in readable]
            truncated = np.array([prepared[i][1] for i in readable], dtype=bool)
            if watch is not None:
                watch.prepared(where, [sum(item.length for item in own) for own in items])
            if errors:
                yield Batch([], np.empty((0, 0), dtype=np.float32), truncated[:0], errors)
            if advance is not None:
                items = advance(items, where)
            tell = _told(watch, where, [samples[start + i] for i in readable])
            for done, rows in embed_items(backbone, items, reading, batch_size, tell):
                yield _finite(rows, [where[i] for i in done], truncated[done], backbone, on_error)
            # Before the next chunk is decoded, which may be as large.
            del prepared, items
            start = stop


def _told(watch: SampleWatch | None, where: Sequence[int], samples: Sequence[Any]):
    """Return a function that names the sample computed alone to a watch; None without one."""
    if watch is None:
        return None

    def tell(sample: int | None) -> None:
        if sample is None:
            watch.computing(None)
        else:
            watch.computing(where[sample], samples[sample])

    return tell


def _finite(rows: np.ndarray, positions: list[int], truncated: np.ndarray, backbone: Backbone, on_error: str) -> Batch:
    """Return the batch of the rows that are finite, with an error for each other one."""
    errors = find_nonfinite(rows, positions, next(backbone.module.parameters()).dtype)
    if not errors:
        return Batch(positions, rows, truncated, [])
    if on_error == "raise":
        raise errors[0]
    finite = np.isfinite(rows).all(axis=1)
    kept = [position for position, is_finite in zip(positions, finite, strict=True) if is_finite]
    return Batch(kept, rows[finite], truncated[finite], errors)


def probe_width(backbone: Backbone, sample: Any, reading: Reading) -> int:
    """Return the number of features of a row, measured on one decoded sample."""
    ((item, *_),) = backbone.preprocess([sample], reading.options)
    return _run_batch(backbone, [item], reading).shape[1]


@contextmanager
def workers() -> Iterator[ThreadPoolExecutor | None]:
    """Provide as many decoding threads as torch may use; None for a single one.

    joblib limits torch's threads in its workers, and so these.
    """
    n_threads = min(torch.get_num_threads(), _MOST_WORKERS)
    if n_threads == 1:
        yield None
        return
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="skembed-decode")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _ahead(begin: Callable, start: int) -> Future:
    """Start the next chunk in a separate thread, since one of the pool would wait for others."""
    future: Future = Future()

    def run():
        try:
            future.set_result(begin(start))
        except BaseException as error:
            future.set_exception(error)

    # With the context of this thread, which knows who watches the samples.
    threading.Thread(target=copy_context().run, args=(run,), name="skembed-ahead", daemon=True).start()
    return future


def prepare(backbone, samples, reading: Reading, read, pool, positions, on_error: str):
    """Return (items, truncated) per sample, None for unreadable ones, and the errors.

    Samples beyond `CHUNK_BYTES` are left out, unless the backbone prepares samples together. See `extract` for the
    parameters; `pool` comes from `workers`.
    """
    if backbone.prepares_together:
        decoded, errors = decode_all(samples, read, on_error=on_error, positions=positions)
        good = [i for i, found in enumerate(decoded) if found is not None]
        prepared: list[Any] = [None] * len(samples)
        for i, items in zip(good, backbone.preprocess([decoded[i][0] for i in good], reading.options), strict=True):
            prepared[i] = items, decoded[i][1] or any(item.truncated for item in items)
        return prepared, errors

    def prepare(sample):
        value, cut = read(sample)
        (items,) = backbone.preprocess([value], reading.options)
        return items, cut or any(item.truncated for item in items)

    def size(result):
        return 0 if result[0] is None else count_bytes(result[0][0])

    run = partial(bounded_map, pool, n_bytes=size, limit=CHUNK_BYTES)
    return decode_all(samples, prepare, on_error=on_error, positions=positions, run=run)


def embed_items(
    backbone: Backbone,
    items: Sequence[Sequence[Item]],
    reading: Reading,
    batch_size: int | None,
    tell: Callable[[int | None], None] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Run prepared samples; average the windows of a long sample, weighted by length.

    Parameters
    ----------
    backbone, reading, batch_size
        See `extract`.
    items : sequence of sequences of Item
        Windows of each sample.
    tell : callable, optional
        Function that is called before each batch with the sample that all of it belongs to, or None.

    Yields
    ------
    done : ndarray of shape (n_done,), int64
        Positions of finished samples.
    rows : ndarray of shape (n_done, n_features), float32
        Rows of these samples, finite or not.
    """
    if not items:
        return
    flat = [item for windows in items for item in windows]
    owner = np.repeat(np.arange(len(items)), [len(windows) for windows in items])
    weights = np.array([max(item.length, 1) for item in flat], dtype=np.float64)
    weights /= np.bincount(owner, weights=weights)[owner]
    sums: dict[int, np.ndarray] = {}
    left = np.bincount(owner, minlength=len(items))
    run: Callable = partial(_run_batch, backbone, reading=reading)
    if tell is not None:
        run = _telling(run, tell, flat, owner)
    for batch, vectors in each_batch(backbone, flat, run, batch_size):
        done = []
        for i, vector in zip(batch, vectors, strict=True):
            sample = owner[i]
            # The sum of windows that overflowed may be inf - inf, which is NaN: the caller looks for it.
            with np.errstate(invalid="ignore"):
                sums[sample] = sums[sample] + vector * weights[i] if sample in sums else vector * weights[i]
            left[sample] -= 1
            if left[sample] == 0:
                done.append(sample)
        if done:
            yield np.array(done), np.stack([sums.pop(sample) for sample in done]).astype(np.float32)
    if tell is not None:
        tell(None)


def _telling(run: Callable, tell: Callable[[int | None], None], flat: list[Item], owner: np.ndarray) -> Callable:
    """Return `run`, telling before each batch which sample all its items belong to."""
    owners = {id(item): int(sample) for item, sample in zip(flat, owner, strict=True)}

    def run_and_tell(items: list[Item]) -> np.ndarray:
        samples = {owners[id(item)] for item in items}
        tell(samples.pop() if len(samples) == 1 else None)
        return run(items)

    return run_and_tell


def each_batch(backbone, flat: list[Item], run: Callable[[list[Item]], Any], batch_size: int | None):
    """Yield the positions and results of each batch; split it if memory runs out."""
    room = 1 if _device(backbone).type == "cpu" else _ACCELERATOR_ROOM
    pending = plan_batches(
        [item.length for item in flat],
        batch_size=batch_size,
        token_budget=room * backbone.token_budget,
        batch_limit=room * backbone.batch_limit,
        pads=backbone.pads,
    )
    # What was too much for memory once will be again: the next call does not try.
    fits = backbone.observed.largest_batch or len(flat)
    pending = [part for batch in pending for part in _at_most(batch, fits)]
    while pending:
        batch = pending.pop(0)
        found = _try_batch(backbone, [flat[i] for i in batch], run)
        if found is not None:
            yield batch, found
            continue
        first, second = halve(batch)
        backbone.observed.largest_batch = len(first)
        # Every later batch is no smaller than this one was: cut those as well.
        pending = [part for big in (first, second, *pending) for part in _at_most(big, len(first))]


def _device(backbone: Backbone) -> torch.device:
    return next(backbone.module.parameters()).device


def _at_most(batch: list[int], size: int) -> list[list[int]]:
    return [batch[i : i + size] for i in range(0, len(batch), size)]


def _try_batch(backbone, items: list[Item], run: Callable[[list[Item]], Any]) -> Any:
    """Run a batch; return None if it was too large for memory."""
    try:
        return run(items)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        if len(items) == 1:
            raise MemoryError(
                f"{backbone.spec.name} ran out of memory on a single sample. Use a smaller backbone, shorter or "
                'smaller inputs (max_length=, window=, image_size=), or device="cpu".'
            ) from error
    # Outside of `except`: the exception held the frames, and with them the tensors that filled the memory.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    warn(
        f"A batch of {len(items)} items does not fit in memory; continuing with {(len(items) + 1) // 2}. "
        "Set batch_size to that number to silence this warning.",
        DeviceWarning,
    )
    return None


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold the lock of `computing`, so that no other thread uses a shared network on the CPU."""
    with _computing:
        yield


@contextmanager
def computing(device: torch.device) -> Iterator[None]:
    """Compute without gradients, and on a CPU in one thread at a time."""
    with _computing if device.type == "cpu" else nullcontext(), standard_modes(), torch.inference_mode():
        yield


def _run_batch(backbone, items: list[Item], reading: Reading) -> np.ndarray:
    weight = next(backbone.module.parameters())
    with computing(weight.device):
        batch = move(backbone.collate(items), weight.device, weight.dtype)
        attention = reading.pooling == "layer_attention"
        pooling = backbone.default_pooling if attention else reading.pooling
        pooled = [pool(tokens, pooling) for tokens in backbone.forward_blocks(batch, reading.layers)]
        return combine_layers(pooled, attention=attention).cpu().numpy()
