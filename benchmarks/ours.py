"""Our own ways, alike in all modalities."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.common import Run, Way, Work
from benchmarks.peers import peer

__all__ = ["AUTO", "BFLOAT16", "FLOAT32", "OPENVINO", "OPENVINO_BFLOAT16", "our_way"]

AUTO = "skembed, auto"
BFLOAT16 = "skembed, bfloat16"
FLOAT32 = "skembed, float32"
OPENVINO = "skembed, openvino"
OPENVINO_BFLOAT16 = "skembed, openvino, bfloat16"


def our_way(name: str, embedder: str, **parameters: Any) -> Way:
    """An embedder of ours without its cache, fitted before the clock starts.

    Parameters
    ----------
    name : str
        `AUTO`, `FLOAT32`, `OPENVINO` or another.
    embedder : str
        Name of the class.
    parameters : dict
        What to give it beside the backbone.
    """

    def build(work: Work) -> Run:
        import skembed
        from skembed.backbones.loading.load import loaded

        # All ways take turns in one process: none of them is to load its weights again at every turn.
        loaded.capacity = max(loaded.capacity, 8)
        if parameters.get("engine") == "openvino":
            peer("openvino")
        fitted = getattr(skembed, embedder)(work.backbone, device="cpu", cache=None, **parameters).fit(work.samples)

        def run() -> np.ndarray:
            return fitted.transform(work.samples)

        return run

    return Way(name, build, precision=parameters.get("precision", "auto"))
