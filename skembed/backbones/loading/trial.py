"""First run of a network, which shows damage that reading its files does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from skembed.backbones.base import AudioOptions, Backbone, TextOptions

__all__ = ["run_trial"]

#: Seconds of silence: longer than the shortest input of every family.
_SECONDS = 0.5


def run_trial(backbone: Backbone) -> None:
    """Prepare a small sample, and run the network on it.

    Images are only prepared: their adapters have tried the network already, in shapes alone.

    Parameters
    ----------
    backbone : Backbone
        As it was read, in float32 on the CPU. It stays as it is.

    Raises
    ------
    Exception
        Whatever the libraries raise where the files do not fit together.
    """
    sample, options = _sample(backbone)
    ((item, *_),) = backbone.preprocess([sample], options)
    batch = backbone.collate([item])
    if not all(values.isfinite().all() for values in batch.values()):
        raise ValueError("a sample becomes NaN or infinite numbers, by the mean and standard deviation that are stored")
    if backbone.spec.source != "image":
        # Not in inference mode: what a network keeps of its first run would never have gradients.
        with torch.no_grad():
            backbone.forward_blocks(batch, [len(backbone.blocks) - 1])


def _sample(backbone: Backbone) -> tuple[Any, Any]:
    """Return a small valid sample, and how it is prepared."""
    if backbone.spec.source == "text":
        return "a text", TextOptions()
    if backbone.spec.source == "audio":
        n_samples = int(_SECONDS * (backbone.sampling_rate or 16_000))
        return np.zeros(n_samples, dtype=np.float32), AudioOptions(pad_to_window=False)
    from PIL import Image

    return Image.new("RGB", (32, 32), "gray"), None
