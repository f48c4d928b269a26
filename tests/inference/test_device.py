"""Devices that this machine lacks are refused at once, and a device that fails is not taken for something else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from skembed import FineTuneClassifier, TextEmbedder
from skembed.backbones.accelerate import inference_copies
from skembed.testing import ArrayEmbedder
from skembed.testing.double import ArrayBackbone
from skembed.utils.device import resolve_device
from tests.backbones.tiny_images import ALL, opened

FAULTS = [
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
]


def _pretend(monkeypatch, kind, n_devices):
    place = torch.backends.mps if kind == "mps" else getattr(torch, kind)
    monkeypatch.setattr(place, "is_available", lambda: n_devices > 0)
    if kind != "mps":
        monkeypatch.setattr(place, "device_count", lambda: n_devices)


@pytest.mark.parametrize(
    ("device", "n_devices", "answer"),
    [
        ("cuda:7", 1, 'which has 1 cuda device. Use "cuda:0".'),
        ("cuda:2", 2, 'which has 2 cuda devices. Use "cuda:0" to "cuda:1".'),
        ("xpu:1", 1, 'which has 1 xpu device. Use "xpu:0".'),
        ("mps:1", 1, 'which has 1 mps device. Use "mps:0".'),
        ("cuda:0", 0, 'Use device="auto" or "cpu".'),
        ("meta", 0, 'Use device="auto" or "cpu".'),
        ("vulkan", 0, 'Use device="auto" or "cpu".'),
    ],
)
def test_a_device_that_this_machine_lacks_is_refused_by_fit(monkeypatch, device, n_devices, answer):
    kind = device.partition(":")[0]
    if kind in ("cuda", "xpu", "mps"):
        _pretend(monkeypatch, kind, n_devices)
    with pytest.raises(ValueError, match="is not available on this machine") as caught:
        TextEmbedder(device=device).fit(["a cat"])
    assert str(caught.value).startswith(f"device={device!r}")
    assert str(caught.value).endswith(answer)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:1", "xpu:1", "mps", "mps:0", "cpu", "cpu:0"])
def test_a_device_that_this_machine_has_is_taken(monkeypatch, device):
    for kind in ("cuda", "xpu", "mps"):
        _pretend(monkeypatch, kind, 2)
    assert str(resolve_device(device)) == device


@pytest.mark.parametrize("error", FAULTS)
def test_a_device_fault_is_not_taken_for_a_network_that_cannot_be_entered(monkeypatch, error):
    def advance(self, items, batch, blocks):
        raise error

    monkeypatch.setattr(ArrayBackbone, "advance", advance)
    X = np.random.default_rng(0).normal(size=(24, 4))
    classifier = FineTuneClassifier(ArrayEmbedder(device="cpu"), strategy="partial", max_epochs=1, random_state=0)
    with pytest.raises(RuntimeError) as caught:
        classifier.fit(X, np.arange(24) % 2)
    assert caught.value is error


@pytest.mark.parametrize("error", FAULTS)
def test_a_device_fault_is_not_taken_for_a_network_that_cannot_be_folded(monkeypatch, tmp_path, error):
    def find_pairs(*arguments):
        raise error

    ALL["timm_resnet"](tmp_path)
    monkeypatch.setattr(inference_copies, "find_pairs", find_pairs)
    with pytest.raises(RuntimeError) as caught:
        opened(tmp_path)
    assert caught.value is error
