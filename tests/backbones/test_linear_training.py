"""Training through oneDNN's linear layers, on every processor that has the operations."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from skembed import FineTuneClassifier, TextEmbedder
from skembed.backbones.accelerate import linear
from skembed.backbones.accelerate.linear import OneDnnLinear, multiply_by_onednn
from skembed.backbones.loading.load import loaded
from tests.finetune.tuning import SHORT, TEXTS, directory


@pytest.fixture(autouse=True)
def onednn(monkeypatch):
    """Choose oneDNN for float32, also where this processor is faster without it."""
    if not linear._is_right(torch.float32):
        pytest.skip("torch lacks oneDNN's operations here")
    monkeypatch.setattr(linear, "faster_types", lambda: (torch.float32,))
    loaded._held.clear()
    yield
    loaded._held.clear()


@pytest.mark.parametrize("shape", [(24,), (7, 24), (2, 3, 24), (2, 3, 4, 24)])
@pytest.mark.parametrize("trains", ["input", "weight"])
def test_result_of_a_training_layer_can_be_written_to(shape, trains):
    plain = nn.Linear(24, 40).requires_grad_(False)
    fast = copy.deepcopy(plain)
    multiply_by_onednn(fast)
    assert type(fast) is OneDnnLinear
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    gradients = []
    for layer in (plain, fast):
        input = rows.clone().requires_grad_(trains == "input")
        layer.weight.requires_grad_(trains == "weight")
        result = layer(input)
        assert result.shape == (*shape[:-1], 40)
        result /= 3
        result.square().sum().backward()
        gradients.append(input.grad if trains == "input" else layer.weight.grad)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["deberta", "deberta_v3"])
def test_deberta_is_fine_tuned(family):
    embedder = TextEmbedder(directory(family), device="cpu", precision="float32", cache=None)
    classifier = FineTuneClassifier(embedder, strategy="partial", **SHORT).fit(TEXTS, ["a", "b"] * 10)
    assert len(classifier.history_) == SHORT["max_epochs"]
