"""Linear layers by oneDNN against torch's own, and what must not change about them."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from skembed.backbones.accelerate import linear
from skembed.backbones.accelerate.inference_copies import InferenceCopies
from skembed.backbones.accelerate.linear import OneDnnLinear, multiply_by_onednn, multiply_plainly
from skembed.backbones.accelerate.mixed_precision import round_factors

pytestmark = pytest.mark.skipif(
    torch.float32 not in linear.faster_types(), reason="this processor multiplies by torch's own library"
)


def _pair(bias=True, dtype=torch.float32):
    """A plain layer, and one with equal tensors that oneDNN computes."""
    torch.manual_seed(0)
    plain = nn.Linear(24, 40, bias=bias).to(dtype).requires_grad_(False)
    fast = copy.deepcopy(plain)
    multiply_by_onednn(fast)
    assert type(fast) is OneDnnLinear
    return plain, fast


@pytest.fixture
def called(monkeypatch):
    """How often oneDNN's product was computed, and with which weights."""
    weights, product = [], linear._product

    def spying(rows, weight, bias):
        weights.append(weight)
        return product(rows, weight, bias)

    monkeypatch.setattr(linear, "_product", spying)
    return weights


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(24,), (1, 24), (7, 24), (2, 3, 24), (2, 3, 4, 24)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_those_of_torch(called, bias, shape, dtype):
    if dtype not in linear.faster_types():
        pytest.skip("no products of this type here")
    plain, fast = _pair(bias, dtype)
    rows = torch.randn(shape).to(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        with mode():
            torch.testing.assert_close(fast(rows), plain(rows), atol=tolerance, rtol=tolerance)
    assert len(called) == 3
    # Frozen weights are laid out once, and then taken as they are.
    assert all(each.is_mkldnn for each in called)
    assert len({id(each) for each in called}) == 1


def test_rows_that_are_strided_and_rows_of_nothing():
    plain, fast = _pair()
    rows = torch.randn(24, 14).t()[::2]
    torch.testing.assert_close(fast(rows), plain(rows))
    assert fast(rows[:0]).shape == (0, 40)
    torch.testing.assert_close(fast(rows.double().float()), plain(rows))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(24,), (7, 24), (2, 3, 24)])
@pytest.mark.parametrize("trains", ["rows", "weight", "both", "bias"])
def test_gradients_are_those_of_torch(called, bias, shape, trains):
    if trains == "bias" and not bias:
        pytest.skip("there is none")
    torch.manual_seed(1)
    start, target = torch.randn(shape), torch.randn((*shape[:-1], 40))
    found = []
    for layer in _pair(bias):
        layer.requires_grad_(trains in ("weight", "both"))
        if trains == "bias":
            # BitFit's lowest block: neither what comes in nor the weight has a gradient.
            layer.bias.requires_grad_(True)
        rows = start.clone().requires_grad_(trains in ("rows", "both"))
        # A gradient that is expanded, as `sum` hands it over, has no strides of its own.
        loss = (layer(rows) * target).sum() + layer(rows).sum()
        loss.backward()
        found.append((loss.detach(), rows.grad, *(p.grad for p in layer.parameters())))
    for plain, fast in zip(*found, strict=True):
        assert (plain is None) == (fast is None)
        if plain is not None:
            torch.testing.assert_close(fast, plain, atol=1e-4, rtol=1e-4)
    assert len(called) >= (2 if trains == "bias" else 4)


def test_what_no_gradient_needs_is_not_kept():
    """Frozen weights need what comes in for nothing: with LoRA that is most of the memory of a layer."""
    _, fast = _pair()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.shape) or tensor, lambda tensor: tensor
    ):
        fast(torch.randn(7, 24, requires_grad=True))
        assert kept == [(40, 24)]
        kept.clear()
        fast.weight.requires_grad_(True)
        fast(torch.randn(7, 24))
        assert kept == [(7, 24)]
        kept.clear()
        fast.weight.requires_grad_(False)
        fast.bias.requires_grad_(True)
        fast(torch.randn(7, 24))
        assert not kept


def test_a_weight_that_was_written_to_is_laid_out_anew():
    plain, fast = _pair()
    rows = torch.randn(7, 24)
    with torch.no_grad():
        before = fast(rows)
        for layer in (plain, fast):
            layer.weight.mul_(2)
    assert not torch.allclose(fast(rows), before)
    torch.testing.assert_close(fast(rows), plain(rows))
    fast.load_state_dict({name: -value for name, value in plain.state_dict().items()})
    torch.testing.assert_close(fast(rows), -plain(rows))
    fast.weight.data = plain.weight.data.clone()
    fast.bias.data = plain.bias.data.clone()
    torch.testing.assert_close(fast(rows), plain(rows))


def test_a_weight_that_trained_is_read_as_it_is():
    _, fast = _pair()
    fast.requires_grad_(True)
    rows = torch.randn(7, 24)
    with torch.no_grad():
        before = fast(rows)
    torch.optim.SGD(fast.parameters(), lr=1.0).step(lambda: fast(rows).square().sum().backward())
    with torch.no_grad():
        assert not torch.allclose(fast(rows), before)
        torch.testing.assert_close(fast(rows), nn.functional.linear(rows, fast.weight, fast.bias))


def test_copies_names_and_files_are_those_of_a_plain_layer():
    plain, fast = _pair()
    rows = torch.randn(7, 24)
    expected = fast(rows)
    assert isinstance(fast, nn.Linear)
    assert list(fast.state_dict()) == ["weight", "bias"]
    copied = copy.deepcopy(fast)
    assert copied.weight.data_ptr() != fast.weight.data_ptr()
    with torch.no_grad():
        copied.weight.zero_()
    torch.testing.assert_close(copied(rows), plain.bias.expand(7, 40))
    torch.testing.assert_close(fast(rows), expected)
    file = io.BytesIO()
    torch.save(fast.state_dict(), file)
    assert len(file.getvalue()) < 8_000  # once, and no layout beside it


def test_a_layout_goes_with_its_weight():
    before = len(linear._laid_out)
    _, fast = _pair()
    fast(torch.randn(7, 24))
    assert len(linear._laid_out) == before + 1
    del fast
    assert len(linear._laid_out) == before


def test_other_layers_and_types_are_left_alone(called):
    class Own(nn.Linear):
        pass

    network = nn.Sequential(nn.Linear(24, 8), Own(8, 8), nn.Conv2d(3, 3, 1))
    multiply_by_onednn(network)
    assert [type(layer) for layer in network] == [OneDnnLinear, Own, nn.Conv2d]
    double = nn.Sequential(nn.Linear(24, 8)).double()
    multiply_by_onednn(double)
    rows = torch.randn(3, 24, dtype=torch.float64)
    assert double(rows).dtype == torch.float64
    assert not called


def test_a_compiler_is_given_layers_that_it_knows(called):
    plain, fast = _pair()
    copied = InferenceCopies(fast, (), [], channels_last=False).in_float32(fast)
    assert type(copied) is nn.Linear
    assert type(fast) is OneDnnLinear
    rows = torch.randn(7, 24)
    torch.testing.assert_close(copied(rows), plain(rows))
    torch.jit.trace(copied, rows)
    assert not called


def test_a_large_network_is_not_held_twice(called, monkeypatch):
    monkeypatch.setattr(linear, "_MOST_LAID_OUT", 24 * 40 * 4 - 1)
    plain, fast = _pair()
    rows = torch.randn(7, 24)
    torch.testing.assert_close(fast(rows), plain(rows))
    assert called[0] is fast.weight


def test_tensors_without_versions_are_read_as_they_are():
    with torch.inference_mode():
        layer = nn.Linear(24, 40).requires_grad_(False)
        multiply_by_onednn(layer)
        rows = torch.randn(7, 24)
        layer(rows)
        layer.weight.zero_()
        torch.testing.assert_close(layer(rows), layer.bias.expand(7, 40))


@pytest.mark.parametrize("broken", [AttributeError, RuntimeError, TypeError, None])
def test_a_torch_without_the_operations_goes_on_with_its_own(monkeypatch, broken):
    def product(rows, weight, bias):
        if broken is not None:
            raise broken("another release")
        return torch.zeros(len(rows), 40, dtype=rows.dtype)

    monkeypatch.setattr(linear, "_product", product)
    assert not linear._is_right(torch.float32)
    assert not linear._is_right(torch.bfloat16)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({}, ()),
        ({"avx2": True, "cpu_name": "AMD EPYC"}, ()),
        ({"avx512_f": True, "cpu_name": "AMD EPYC"}, (torch.float32,)),
        ({"avx512_f": True, "cpu_name": "Intel(R) Xeon(R)"}, ()),
        ({"avx512_f": True, "amx_bf16": True, "cpu_name": "Intel(R) Xeon(R)"}, (torch.bfloat16,)),
    ],
)
def test_the_processor_decides(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    monkeypatch.setattr(linear, "_is_right", lambda dtype: True)
    assert linear.faster_types.__wrapped__() == expected


needs_bfloat16 = pytest.mark.skipif(
    torch.bfloat16 not in linear.faster_types(), reason="this processor does not multiply in bfloat16"
)


def _rounded(values):
    return values.to(torch.bfloat16).float()


@needs_bfloat16
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(24,), (7, 24), (2, 3, 24)])
@pytest.mark.parametrize("trains", ["nothing", "rows", "weight", "both"])
def test_factors_are_rounded(bias, shape, trains):
    """Against products of rounded factors in float32; what comes out is rounded once more."""
    torch.manual_seed(1)
    plain, fast = _pair(bias)
    assert round_factors(fast)
    start, target = torch.randn(shape), torch.randn((*shape[:-1], 40))
    fast.requires_grad_(trains in ("weight", "both"))
    rows = start.clone().requires_grad_(trains in ("rows", "both"))
    found = fast(rows)
    assert found.dtype == torch.float32
    expected = nn.functional.linear(_rounded(start), _rounded(plain.weight), plain.bias)
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=2**-8)
    assert not torch.equal(found, plain(start))
    if trains == "nothing":
        assert not found.requires_grad
        return
    found.backward(target)
    flat, gradients = start.view(-1, 24), target.view(-1, 40)
    if trains != "weight":
        of_rows = (_rounded(gradients) @ _rounded(plain.weight)).view(shape)
        torch.testing.assert_close(rows.grad, of_rows, atol=1e-2, rtol=2**-8)
    if trains != "rows":
        of_weight = _rounded(gradients).t() @ _rounded(flat)
        torch.testing.assert_close(fast.weight.grad, of_weight, atol=1e-2, rtol=2**-8)
        assert fast.weight.grad.dtype == torch.float32
        if bias:
            # A sum, and no product.
            torch.testing.assert_close(fast.bias.grad, gradients.sum(0), atol=1e-5, rtol=1e-5)


@needs_bfloat16
def test_gradients_are_those_of_torch_s_autocast():
    torch.manual_seed(2)
    found = []
    for fast in (False, True):
        torch.manual_seed(3)
        network = nn.Sequential(nn.Linear(24, 64), nn.GELU(), nn.Linear(64, 5))
        if fast:
            multiply_by_onednn(network)
            round_factors(network)
        rows = torch.randn(90, 24)
        with torch.autocast("cpu", torch.bfloat16, enabled=not fast):
            loss = network(rows).float().square().mean()
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in network.parameters())])
    for theirs, ours in zip(*found, strict=True):
        assert (ours - theirs).norm() < 1e-2 * theirs.norm()


@needs_bfloat16
def test_a_weight_is_laid_out_anew_in_another_type():
    plain, fast = _pair()
    rows = torch.randn(7, 24)
    torch.testing.assert_close(fast(rows), plain(rows))
    round_factors(fast)
    rounded = fast(rows)
    assert not torch.allclose(rounded, plain(rows), atol=1e-5)
    with torch.no_grad():
        fast.weight.mul_(2)
        fast.bias.mul_(2)
    torch.testing.assert_close(fast(rows), 2 * rounded)
    assert fast(rows.double().float()).dtype == torch.float32
    multiply_plainly(fast)
    torch.testing.assert_close(fast(rows), 2 * plain(rows))


@needs_bfloat16
def test_only_float32_is_rounded(called):
    _, half = _pair(dtype=torch.bfloat16)
    expected = half(torch.ones(3, 24, dtype=torch.bfloat16))
    round_factors(half)
    assert torch.equal(half(torch.ones(3, 24, dtype=torch.bfloat16)), expected)
    double = nn.Sequential(nn.Linear(24, 8)).double()
    multiply_by_onednn(double)
    plain = double(torch.ones(3, 24, dtype=torch.float64))
    round_factors(double)
    assert torch.equal(double(torch.ones(3, 24, dtype=torch.float64)), plain)
