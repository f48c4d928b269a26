"""Distance of a fit from the pre-trained network: weights, outputs, and use of its features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from skembed.assessment.findings import Finding
from skembed.assessment.remedies import RATE_DIVISOR, Means, enumerated
from skembed.backbones.spec import BackboneSpec
from skembed.embedders.base import BaseEmbedder
from skembed.embedders.encoder import Encoder
from skembed.embedders.layers import layer_rows
from skembed.measures import linear_cka, weight_drift
from skembed.probes.leave_one_out import LinearProbe

__all__ = ["block_drift", "compare_features", "compare_outputs", "find_forgetting"]

#: A block with a lower CKA or a larger drift differs much from the pre-trained one.
_LOW_CKA = 0.5
_LARGE_DRIFT = 0.2


def compare_outputs(start: BaseEmbedder, tuned: BaseEmbedder, samples: Sequence[Any]) -> dict[str, float]:
    """Return the linear CKA of the outputs of each block before and after training.

    Parameters
    ----------
    start, tuned : BaseEmbedder
        Fitted embedders before and after training.
    samples : sequence
        Raw samples that can be read.
    """
    encoder = Encoder(start)
    depth = encoder.depth
    before, after = (layer_rows(embedder, samples, range(depth)) for embedder in (start, tuned))
    names = [block.name for block in encoder.backbone("float32").blocks[:depth]]
    return {name: linear_cka(a, b) for name, a, b in zip(names, before, after, strict=True)}


def compare_features(old: np.ndarray, new: np.ndarray, columns: np.ndarray, codes: np.ndarray | None) -> dict:
    """Compare leave-one-out scores of a linear probe on the features before and after.

    Returns
    -------
    dict of str to float
        "old_probe" and "new_probe", accuracies or shares of explained variance, and "probe_error", the standard error
        of their difference.
    """
    quality = [LinearProbe(rows).left_out(columns).quality(columns, codes) for rows in (old, new)]
    change = quality[1] - quality[0]
    error = change.std(ddof=1) / len(change) ** 0.5
    return {"old_probe": float(quality[0].mean()), "new_probe": float(quality[1].mean()), "probe_error": float(error)}


def find_forgetting(
    blocks: Mapping[str, Mapping[str, float]],
    means: Means,
    probes: Mapping[str, float] | None = None,
    *,
    judged: bool = False,
    slower_by: float = RATE_DIVISOR,
) -> Iterator[Finding]:
    """Find changes of the network so large that pre-trained knowledge may be lost.

    Parameters
    ----------
    blocks : dict
        See `Diagnosis.blocks`.
    means : Means
        Parameters of the fit.
    probes : dict, optional
        Result of `compare_features`.
    judged : bool, default=False
        True if the kept model beat the probe on held-out samples, so that the change was useful.
    slower_by : float, default=3
        Divisor of learning rates in the remedy.
    """
    moved = {name: row["drift"] for name, row in blocks.items() if row.get("drift", 0) > _LARGE_DRIFT}
    unlike = {name: row["cka"] for name, row in blocks.items() if row.get("cka", 1) < _LOW_CKA}
    lost = probes is not None and probes["old_probe"] - probes["new_probe"] > max(0.01, 2 * probes["probe_error"])
    if not moved and not unlike and not lost:
        return
    signs = []
    if unlike:
        worst = min(unlike, key=unlike.__getitem__)
        alike = f"CKA {unlike[worst]:.2f} in {worst}, where 1 is the same"
        signs.append(f"outputs of {_blocks(unlike)} unlike the pre-trained outputs ({alike})")
    if moved:
        worst = max(moved, key=moved.__getitem__)
        signs.append(
            f"weights of {_blocks(moved)} far from the pre-trained ones ({moved[worst]:.0%} of their norm in {worst})"
        )
    if probes is not None:
        signs.append(
            f"a linear probe reaches {probes['old_probe']:.3f} on the pre-trained features and "
            f"{probes['new_probe']:.3f} on the new ones (standard error of the difference {probes['probe_error']:.3f})"
        )
    if judged:
        signs.append("held-out samples are predicted better with the change")
    evidence = "; ".join(signs) + "."
    severity = "serious" if lost else "note" if judged or probes is not None else "warning"
    milder = enumerated([*means.slower(slower_by), *means.nearer(), *means.shallower()])
    if lost:
        remedy = f"{milder}."
    elif severity == "note":
        remedy = f"None needed: the new features are no worse. To stay nearer to the pre-trained network: {milder}."
    else:
        remedy = f"Check with diagnose(fitted, X, y) whether the new features are worse. If so: {milder}."
    yield Finding("forgetting", severity, evidence[0].upper() + evidence[1:], remedy)


def _blocks(found: Mapping[str, float]) -> str:
    return "1 block are" if len(found) == 1 else f"{len(found)} blocks are"


def block_drift(before: BackboneSpec, after: BackboneSpec) -> dict[str, float]:
    """Return for each block the norm of the change of its weights, divided by their norm before.

    Low-rank updates are merged before the comparison. Tensors that an adapter adds are left out, since they have no
    counterpart.

    Parameters
    ----------
    before, after : BackboneSpec
        Specs of a network before and after training.

    Returns
    -------
    dict of str to float
        Drift by block, the lowest first.
    """
    import torch

    from skembed.backbones.loading.load import load

    # In float32 whatever the embedder's precision is: rounding would look like drift.
    networks = [load(spec, torch.device("cpu"), "float32") for spec in (before, after)]
    old, new = (dict(each.module.named_parameters()) for each in networks)
    # What did not change is one tensor in both.
    changed = {name: value.numpy() for name, value in new.items() if name in old and value is not old[name]}
    drift = weight_drift({name: value.numpy() for name, value in old.items()}, changed, networks[0].blocks)
    return dict(zip((block.name for block in networks[0].blocks), drift.tolist(), strict=True))
