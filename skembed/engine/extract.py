"""The one inference loop: samples in, float32 rows out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from skembed.backbones.base import Backbone, Item
from skembed.engine.batching import halve, plan_batches
from skembed.engine.device import is_out_of_memory, move
from skembed.engine.pooling import combine_layers, pool
from skembed.exceptions import DecodeError, DeviceWarning
from skembed.inputs import decode_all

__all__ = ["Extraction", "Reading", "extract"]

#: So many times larger are the batches that "auto" plans for an accelerator: a CPU's caches like them small.
#: Halving on out-of-memory is the safety net.
_ACCELERATOR_ROOM = 8


@dataclass(frozen=True)
class Reading:
    """What to read from a backbone.

    Parameters
    ----------
    layers : tuple of int
        Blocks to read, from 0 to n - 1.
    pooling : str
        One of `skembed.engine.pooling.POOLINGS`.
    options : object
        The backbone's preprocessing options.
    """

    layers: tuple[int, ...]
    pooling: str
    options: Any = None


@dataclass
class Extraction:
    """Embeddings, and what is to be told about them.

    Parameters
    ----------
    embeddings : ndarray of shape (n_samples, n_features), float32
        NaN in the rows of samples that could not be read.
    errors : list of DecodeError
        One for each of those rows.
    n_truncated : int
        Samples of which a part was cut off.
    """

    embeddings: np.ndarray
    errors: list[DecodeError] = field(default_factory=list)
    n_truncated: int = 0


def extract(
    backbone: Backbone,
    samples: Sequence[Any],
    reading: Reading,
    *,
    read: Callable[[Any], Any],
    n_features: int | None = None,
    batch_size: int | None = None,
    chunk_size: int = 1024,
    on_error: str = "raise",
    progress: str | None = None,
) -> Extraction:
    """Decode, prepare, run and pool every sample.

    Parameters
    ----------
    backbone : Backbone
        A loaded network.
    samples : sequence
        Raw samples.
    reading : Reading
        Layers, pooling, options.
    read : callable
        Turns one raw sample into what the backbone prepares, or raises DecodeError.
    n_features : int, optional
        Width of a row; needed only where not a single sample can be read.
    batch_size : int, optional
        Items a batch; None plans by the backbone's token budget.
    chunk_size : int
        Decoded samples held in memory at a time; batches are planned inside a chunk.
    on_error : {"raise", "warn", "nan"}
        What happens to a sample that cannot be read.
    progress : str, optional
        Description of a progress bar over samples; None shows none.

    Returns
    -------
    Extraction
        Rows in the order of `samples`.
    """
    out = None if n_features is None else np.full((len(samples), n_features), np.nan, dtype=np.float32)
    result = Extraction(np.empty((0, 0), dtype=np.float32))
    with tqdm(total=len(samples), desc=progress, unit="sample", disable=progress is None) as bar:
        for start in range(0, len(samples), chunk_size):
            chunk = samples[start : start + chunk_size]
            decoded, errors = decode_all(chunk, read, on_error=on_error, start=start)
            bar.update(len(errors))
            result.errors += errors
            good = [i for i, sample in enumerate(decoded) if sample is not None]
            if not good:
                continue
            items = backbone.preprocess([decoded[i] for i in good], reading.options)
            result.n_truncated += sum(any(item.truncated for item in windows) for windows in items)
            rows = _embed_items(backbone, items, reading, batch_size, bar)
            if out is None:
                out = np.full((len(samples), rows.shape[1]), np.nan, dtype=np.float32)
            out[[start + i for i in good]] = rows
    if out is None:
        raise ValueError(f"Not one of {len(samples)} samples can be read; the first: {result.errors[0]}")
    result.embeddings = out
    return result


def _embed_items(backbone, items: list[list[Item]], reading: Reading, batch_size, bar) -> np.ndarray:
    """One row a sample; the windows of a long sample are averaged, weighted by their real length."""
    flat = [item for windows in items for item in windows]
    owner = np.repeat(np.arange(len(items)), [len(windows) for windows in items])
    weights = np.array([max(item.length, 1) for item in flat], dtype=np.float64)
    weights /= np.bincount(owner, weights=weights)[owner]
    rows: np.ndarray | None = None
    done = np.zeros(len(items), dtype=np.int64)
    room = 1 if _device(backbone).type == "cpu" else _ACCELERATOR_ROOM
    pending = plan_batches(
        [item.length for item in flat],
        batch_size=batch_size,
        token_budget=room * backbone.token_budget,
        batch_limit=room * backbone.batch_limit,
        pads=backbone.pads,
    )
    while pending:
        batch = pending.pop(0)
        vectors = _try_batch(backbone, [flat[i] for i in batch], reading)
        if vectors is None:
            first, second = halve(batch)
            # Every later batch is no smaller than this one was: cut those as well.
            pending = [part for big in (first, second, *pending) for part in _at_most(big, len(first))]
            continue
        if rows is None:
            rows = np.zeros((len(items), vectors.shape[1]))
        np.add.at(rows, owner[batch], vectors * weights[batch, None])
        np.add.at(done, owner[batch], 1)
        bar.update(sum(int(done[i] == len(items[i])) for i in np.unique(owner[batch])))
    assert rows is not None
    return rows.astype(np.float32)


def _device(backbone: Backbone) -> torch.device:
    return next(backbone.module.parameters()).device


def _at_most(batch: list[int], size: int) -> list[list[int]]:
    return [batch[i : i + size] for i in range(0, len(batch), size)]


def _try_batch(backbone, items: list[Item], reading: Reading) -> np.ndarray | None:
    """The vectors of a batch, or None where it was too large for memory."""
    try:
        return _run_batch(backbone, items, reading)
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
    warnings.warn(
        f"Out of memory with {len(items)} items in a batch; going on with {(len(items) + 1) // 2}. "
        "Set batch_size to it to silence this.",
        DeviceWarning,
        stacklevel=2,
    )
    return None


def _run_batch(backbone, items: list[Item], reading: Reading) -> np.ndarray:
    weight = next(backbone.module.parameters())
    with torch.inference_mode():
        batch = move(backbone.collate(items), weight.device, weight.dtype)
        attention = reading.pooling == "layer_attention"
        pooling = backbone.default_pooling if attention else reading.pooling
        pooled = [pool(tokens, pooling) for tokens in backbone.forward_blocks(batch, reading.layers)]
        return combine_layers(pooled, attention=attention).cpu().numpy()
