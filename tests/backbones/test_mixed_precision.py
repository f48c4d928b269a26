"""Activations between layers that round: the same numbers as where each layer rounds for itself."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from skembed.backbones.accelerate import linear
from skembed.backbones.accelerate.linear import OneDnnLinear, multiply_by_onednn, multiply_plainly
from skembed.backbones.accelerate.mixed_precision import round_factors

pytestmark = pytest.mark.skipif(
    torch.bfloat16 not in linear.faster_types(), reason="this processor does not multiply in bfloat16"
)

ROWS = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(0))


class InSteps(nn.Module):
    """The activation of CLIP, which rounds twice."""

    def forward(self, values):
        return values * torch.sigmoid(1.702 * values)


class Product(nn.Module):
    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(24))

    def forward(self, values):
        return values @ self.matrix


class Beside(nn.Module):
    """What the first layer returns is used a second time."""

    def __init__(self, use):
        super().__init__()
        self.first, self.act, self.second, self.use = nn.Linear(24, 24), nn.GELU(), nn.Linear(24, 24), use

    def forward(self, rows):
        between = self.first(rows)
        return self.second(self.act(between)) + self.use(between)


def _pair(*between):
    """A network whose layers each round for themselves, and one that was run to see what is between them."""
    torch.manual_seed(0)
    apart = nn.Sequential(nn.Linear(24, 64), *between, nn.Linear(64, 5)).eval()
    multiply_by_onednn(apart)
    together = copy.deepcopy(apart)
    assert round_factors(apart)
    assert round_factors(together, lambda: together(ROWS))
    assert not apart[0].stays_rounded
    return apart, together


def _stay(network):
    return [name for name, sub in network.named_modules() if type(sub) is OneDnnLinear and sub.stays_rounded]


@pytest.mark.parametrize("between", [(nn.GELU(),), (nn.ReLU(),), (nn.SiLU(), nn.Dropout(0.5), nn.Identity())], ids=str)
@pytest.mark.parametrize("trains", ["nothing", "all", "top"])
def test_the_numbers_are_the_same(between, trains):
    networks = _pair(*between)
    assert _stay(networks[1]) == ["0"]
    found = []
    for network in networks:
        network.requires_grad_(trains == "all")
        network[-1].requires_grad_(trains != "nothing")
        rows = ROWS.clone().requires_grad_(trains == "all")
        result = network(rows)
        assert result.dtype == torch.float32
        if trains != "nothing":
            result.square().sum().backward()
        found.append([result.detach(), rows.grad, *(p.grad for p in network.parameters())])
    assert torch.equal(found[0][0], found[1][0])
    for apart, together in zip(*(each[1:] for each in found), strict=True):
        assert (apart is None) == (together is None)
        if apart is not None:
            assert together.dtype == torch.float32
            # What the activation hands back is rounded before the bias sums it up, and the activation's slope is of
            # rounded numbers in both.
            assert (together - apart).norm() < 4e-3 * apart.norm()


def test_what_is_between_them_is_half_as_wide():
    _, network = _pair(nn.GELU())
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append((t.shape, t.dtype)) or t, lambda t: t):
        network(ROWS)
    assert {dtype for shape, dtype in kept if shape[-1] == 64} == {torch.bfloat16}


def test_dropout_between_them_drops():
    _, network = _pair(nn.GELU(), nn.Dropout(0.5))
    network.train()
    torch.manual_seed(0)
    assert not torch.equal(network(ROWS), network(ROWS))


@pytest.mark.parametrize(
    "between", [(InSteps(),), (nn.GELU(), nn.LayerNorm(64)), (nn.LayerNorm(64), nn.GELU()), (nn.PReLU(),), ()], ids=str
)
def test_whatever_else_is_between_them_is_computed_in_float32(between):
    apart, together = _pair(*between)
    assert not _stay(together)
    assert torch.equal(apart(ROWS), together(ROWS))


@pytest.mark.parametrize(("use", "stays"), [
    (nn.Identity(), ["first"]),
    (nn.LayerNorm(24), []),
    (Product(), []),
], ids=["added", "normalised", "multiplied"])  # fmt: skip
def test_a_result_that_is_used_twice(use, stays):
    """What is added is float32 again; a norm would round what it returns, and a product fails with two types."""
    torch.manual_seed(0)
    apart = Beside(use)
    multiply_by_onednn(apart)
    together = copy.deepcopy(apart)
    round_factors(apart)
    round_factors(together, lambda: together(ROWS))
    assert _stay(together) == stays
    assert torch.equal(apart(ROWS), together(ROWS))


def test_nothing_of_it_is_left_for_compilers_and_copies():
    _, network = _pair(nn.GELU())
    copied = copy.deepcopy(network)
    assert torch.equal(copied(ROWS), network(ROWS))
    multiply_plainly(network)
    assert "stays_rounded" not in vars(network[0])
    assert network(ROWS).dtype == torch.float32
    assert not network[0]._forward_hooks
    assert not network[1]._forward_hooks
    assert not network[2]._forward_pre_hooks
