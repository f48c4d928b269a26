"""Constructed data with a known answer, and doubles to try them on."""

from __future__ import annotations

import numpy as np
import torch

from skembed.testing import ArrayBackbone, array_backbone


def wide_backbone(n_features: int = 8) -> ArrayBackbone:
    """Random features enough for linear functions of its input."""
    return array_backbone(n_features, width=32)


def narrowing_backbone(n_features: int = 8) -> ArrayBackbone:
    """One whose last block says one number only: the source needed no more."""
    backbone = wide_backbone(n_features)
    with torch.no_grad():
        weight = backbone.module.layers[-1].weight
        weight[1:] = weight[:1]
        weight += 1e-3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    return backbone


def separable(n_samples: int = 240, n_classes: int = 3, n_features: int = 8, spread: float = 0.3, seed: int = 0):
    """Clusters, and their numbers."""
    rng = np.random.default_rng(seed)
    codes = np.arange(n_samples) % n_classes
    centres = 1.2 * np.linalg.qr(rng.normal(size=(n_features, n_features)))[0][:n_classes]
    return (centres[codes] + spread * rng.normal(size=(n_samples, n_features))).astype(np.float32), codes
