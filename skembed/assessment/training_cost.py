"""Cost of a fit on this machine, by the timing of a few samples."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from skembed.embedders.base import BaseEmbedder
from skembed.embedders.encoder import Encoder
from skembed.selection.candidates import megabytes_of

__all__ = ["count_parameters", "measure_training_cost"]

_MAX_TIMING_SECONDS = 2.0
_MAX_TIMED_SAMPLES = 32
#: Backward takes about twice as long as forward: one product for the inputs' gradient, one for the weights'.
_TRAINING_FACTOR = 3.0
#: Weights, gradients and AdamW's two moments, float32.
_BYTES_PER_PARAMETER = 16


def count_parameters(embedder: BaseEmbedder) -> float:
    """Return the number of parameters of the backbone, by the size of its weights in float32."""
    return megabytes_of(embedder) * 1e6 / 4


def measure_training_cost(embedder: BaseEmbedder, samples: Sequence[Any], n_samples: int) -> dict[str, float]:
    """Estimate the time and memory of training on this machine from a few timed samples.

    Parameters
    ----------
    embedder : BaseEmbedder
        Fitted embedder.
    samples : sequence
        Raw samples that can be read; the first few are timed, for two seconds at most and one sample at least.
    n_samples : int
        Number of samples of an epoch.

    Returns
    -------
    dict
        "cores" and "accelerator" (0 or 1) at hand, "sample_seconds" of a forward pass, "epoch_seconds" of training
        all blocks, estimated as three forward passes, and "top_epoch_seconds" of training the highest of them;
        "training_bytes" of weights, gradients and moments of all, and "free_bytes" of memory (NaN where unknown).
    """
    import torch

    encoder = Encoder(embedder)
    device = encoder.device
    _run(encoder, samples[:1])  # the first run is slow
    done, size, start = 0, 1, time.perf_counter()
    while done < min(_MAX_TIMED_SAMPLES, len(samples)) and time.perf_counter() - start < _MAX_TIMING_SECONDS / 2:
        part = samples[done : done + size]
        _run(encoder, part)
        done, size = done + len(part), 2 * size
    seconds = (time.perf_counter() - start) / done
    epoch = _TRAINING_FACTOR * seconds * n_samples
    return {
        "cores": float(torch.get_num_threads()),
        "accelerator": float(device.type != "cpu"),
        "sample_seconds": seconds,
        "epoch_seconds": epoch,
        "top_epoch_seconds": epoch / encoder.depth,
        "training_bytes": _BYTES_PER_PARAMETER * count_parameters(embedder),
        "free_bytes": _free_bytes(device),
    }


def _run(encoder: Encoder, samples: Sequence[Any]) -> None:
    for _ in encoder.compute(samples):
        pass


def _free_bytes(device: Any) -> float:
    import torch

    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # no such count on this system
        return float("nan")
