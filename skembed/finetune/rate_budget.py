"""Bounds on the work of a learning-rate search, which needs only the magnitude of a rate."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import clone

from skembed.embedders.encoder import Encoder
from skembed.finetune.checks import taken
from skembed.finetune.loop import epoch_rng

if TYPE_CHECKING:
    from skembed.embedders.base import BaseEmbedder
    from skembed.finetune.plan import FitPlan

__all__ = ["bounded", "shortened"]

#: Number of tokens read of each text, besides its prompt and special tokens.
N_TOKENS = 64
#: Samples per step.
BATCH_SIZE = 16
#: Samples that are read, embedded and trained on.
N_SAMPLES = 512


def shortened(embedder: BaseEmbedder, n_positions: int = 0) -> BaseEmbedder:
    """Return an embedder that reads only the beginning of long texts; any other embedder as it is.

    Parameters
    ----------
    embedder : BaseEmbedder
        Unfitted or fitted; it is not changed.
    n_positions : int, default=0
        Positions to reserve for a trained prompt.
    """
    if "max_length" not in embedder.get_params(deep=False):
        return embedder
    fitted = Encoder(embedder).refitted()
    backbone: Any = fitted.backbone()
    options = fitted.readout.options
    if not hasattr(backbone, "length_read"):
        return embedder
    limit = backbone.length_read(options)
    # No token of a prompt is shorter than a byte.
    reserved = limit - backbone.room(options) + len(options.prompt.encode()) + n_positions
    return clone(embedder).set_params(max_length=min(limit, N_TOKENS + reserved), long_text="truncate")


def bounded(plan: FitPlan) -> FitPlan:
    """Return a plan for training on no more than `N_SAMPLES` samples, `BATCH_SIZE` per step.

    Parameters
    ----------
    plan : FitPlan
        Without held-out samples.
    """
    settings = replace(plan.settings, batch_size=min(plan.settings.batch_size, BATCH_SIZE))
    chosen = np.sort(epoch_rng(plan.seed, 1).permutation(len(plan.y))[:N_SAMPLES])
    samples, y, weights, _ = taken(chosen, plan.samples, plan.y, plan.weights, None)
    targets = plan.targets[chosen]
    train, positions = np.arange(len(chosen)), plan.positions[chosen]
    return replace(
        plan,
        samples=samples,
        y=y,
        targets=targets,
        weights=weights,
        train=train,
        positions=positions,
        settings=settings,
    )
