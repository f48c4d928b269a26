"""Dropout by sixteen bits a value, against what dropout is."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from skembed.backbones.dropout import draw_fast, dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(400_001,), (100, 80, 51)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_share_becomes_zero_and_the_rest_is_scaled(p, shape, dtype):
    torch.manual_seed(0)
    values = torch.rand(shape, dtype=dtype) + 1
    found = dropout(values, p)
    assert found.dtype == dtype
    assert found.shape == shape
    kept = found != 0
    n = values.numel()
    # Five standard errors of a share of n draws.
    assert abs(kept.double().mean().item() - (1 - p)) < 5 * (p * (1 - p) / n) ** 0.5
    # The share is one of 65,536ths.
    torch.testing.assert_close(
        found[kept], values[kept] / (1 - p), rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=0
    )


def test_values_are_dropped_independently():
    """Four of them share one number of 64 bits: their neighbours must not go with them."""
    torch.manual_seed(0)
    dropped = (dropout(torch.ones(400_000), 0.3) == 0).double()
    for lag in (1, 2, 3, 4, 5, 1_000):
        both = (dropped[lag:] * dropped[:-lag]).mean().item()
        assert abs(both - 0.09) < 0.003, lag
    each = dropped.view(-1, 4).mean(0)
    assert (each - 0.3).abs().max() < 0.01
    assert not torch.equal(dropped, (dropout(torch.ones(400_000), 0.3) == 0).double())


def test_the_gradient_goes_where_the_values_went():
    torch.manual_seed(0)
    values = torch.randn(50, 37, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(1)
    found = dropout(values, 0.25)
    target = torch.randn_like(found)
    (found * target).sum().backward()
    expected = torch.where(found == 0, 0.0, target / 0.75)
    torch.testing.assert_close(values.grad, expected, rtol=1e-12, atol=0)


def test_torch_s_seed_repeats_it():
    values = torch.ones(1_000)
    torch.manual_seed(3)
    first, second = dropout(values, 0.5), dropout(values, 0.5)
    torch.manual_seed(3)
    assert torch.equal(dropout(values, 0.5), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("p", "mean"), [(0.0, 1.0), (1.0, 0.0), (1e-7, 1.0)])
def test_shares_that_sixteen_bits_do_not_have_are_torch_s(p, mean):
    values = torch.ones(100)
    torch.testing.assert_close(dropout(values, p), torch.full((100,), mean))
    assert dropout(values, 0.5, training=False) is values
    assert dropout(torch.ones(0, 3), 0.5).shape == (0, 3)


def test_layers_of_a_network():
    class Own(nn.Dropout):
        pass

    network = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5, inplace=True), Own(0.5), nn.Linear(2, 2))
    draw_fast(network)
    assert isinstance(network[0], nn.Dropout)
    assert type(network[2]) is Own
    values = torch.ones(3, 1_000)
    for layer in (network[0], copy.deepcopy(network[0])):
        torch.manual_seed(0)
        expected = dropout(values, 0.5)
        torch.manual_seed(0)
        assert torch.equal(layer(values), expected)
        assert layer.eval()(values) is values
        layer.train()
    changed = values.clone()
    assert network[1](changed) is changed
    assert (changed == 0).any()
