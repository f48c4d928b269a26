"""Embedding and fitting under torch modes that the calling code switched on, and on devices other than the CPU."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from skembed import AudioEmbedder, FineTuneClassifier, FineTuneRegressor, TextEmbedder, find_learning_rate
from skembed.backbones.loading.load import loaded
from skembed.testing import array_backbone
from skembed.utils.torch_modes import standard_modes
from tests.finetune.tuning import SHORT, TEXTS, directory, samples


@contextlib.contextmanager
def _default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


MODES = {
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "float64": lambda: _default_dtype(torch.float64),
    "meta": lambda: torch.device("meta"),
}


def _embedder():
    return TextEmbedder(directory("bert"), device="cpu", precision="float32", cache=None)


def _forget_networks():
    loaded._held.clear()


def _fitted(y):
    return FineTuneClassifier(_embedder(), strategy="partial", **SHORT).fit(TEXTS, y)


@pytest.mark.parametrize("mode", MODES)
def test_rows_and_fits_ignore_torch_modes_of_the_caller(mode):
    y = np.arange(len(TEXTS)) % 2
    expected_rows, expected = _embedder().fit_transform(TEXTS), _fitted(y).predict_proba(TEXTS)
    _forget_networks()  # so that the weights are read under the mode as well
    with MODES[mode]():
        rows, probabilities = _embedder().fit_transform(TEXTS), _fitted(y).predict_proba(TEXTS)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    # What was read under the mode is shared by later fits.
    np.testing.assert_allclose(_fitted(y).predict_proba(TEXTS), expected, atol=1e-6)


def test_learning_rate_is_found_under_no_grad():
    y = np.arange(len(TEXTS)) % 2
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        curve = find_learning_rate(FineTuneClassifier(_embedder(), strategy="full", **SHORT), TEXTS, y, n_steps=10)
    assert np.isfinite(curve.losses).all()


def test_modes_of_the_caller_are_restored():
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), _default_dtype(torch.float64):
        with standard_modes():
            assert torch.zeros(1, requires_grad=True).dtype == torch.float32
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_default_dtype() == torch.float64


@pytest.fixture
def no_float64_on_device(monkeypatch):
    """Refuse float64 copies of tensors that were not fetched by `Tensor.cpu`, as MPS devices do."""
    fetched, cpu, double = [], torch.Tensor.cpu, torch.Tensor.double

    def fetch(tensor, *args, **kwargs):
        fetched.append(cpu(tensor, *args, **kwargs).view_as(tensor))
        return fetched[-1]

    def as_double(tensor, *args, **kwargs):
        if not any(tensor is each for each in fetched):
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            )
        return double(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "cpu", fetch)
    monkeypatch.setattr(torch.Tensor, "double", as_double)


@pytest.mark.parametrize("strategy", ["head", "partial"])
@pytest.mark.parametrize(("family", "embedder"), [("bert", TextEmbedder), ("ast", AudioEmbedder)])
def test_fits_make_no_float64_on_the_device(no_float64_on_device, strategy, family, embedder):
    X, y = samples(family)
    audio = {"sampling_rate": 16000} if embedder is AudioEmbedder else {}
    base = embedder(directory(family), device="cpu", cache=None, **audio)
    regressor = FineTuneRegressor(base, strategy=strategy, **SHORT).fit(X, y.astype(float))
    assert np.isfinite(regressor.predict(X)).all()


@pytest.mark.parametrize("entered", [False, True])
def test_array_backbone_stays_on_its_device(entered):
    backbone = array_backbone()
    backbone.module.to("meta")
    batch = {"values": torch.zeros(3, 4, device="meta")}
    if entered:
        batch = {"hidden": torch.zeros(3, 8, device="meta"), "block": torch.tensor(1)}
    for tokens in backbone.forward_blocks(batch, [2]):
        assert tokens.values.device.type == tokens.mask.device.type == "meta"
