"""Convolutions by oneDNN with laid-out weights are those of torch."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from timm.layers import Conv2dSame, StdConv2d
from torch import nn
from torch.nn.utils import prune

from skembed.backbones.accelerate import convolution
from skembed.backbones.accelerate.convolution import OneDnnConv2d, OneDnnConv2dSame, convolve_by_onednn
from skembed.backbones.accelerate.folding import Pair

pytestmark = pytest.mark.skipif(not convolution._types(), reason="oneDNN's operations are not for this processor")

TYPES = [torch.float32, torch.bfloat16]
#: in, out, kernel, stride, dilation, groups
GEOMETRIES = {
    "pointwise": (16, 24, 1, 1, 1, 1),
    "strided": (3, 32, 3, 2, 1, 1),
    "wide and high": (8, 16, (3, 5), (2, 1), 1, 1),
    "grouped": (16, 32, 3, 1, 1, 4),
    "depthwise": (32, 32, 3, 1, 1, 32),
    "depthwise, strided": (32, 32, 3, 2, 1, 32),
    "depthwise, large": (32, 32, 5, 2, 1, 32),
    "depthwise, wide and high": (32, 32, (3, 4), (2, 3), 1, 32),
    "depthwise, dilated": (32, 32, 3, 2, 2, 32),
    "depthwise, doubled": (16, 32, 3, 2, 1, 16),
}


def _images(channels: int, height: int, width: int, dtype=torch.float32, n=3) -> torch.Tensor:
    pixels = torch.randn(n, channels, height, width, generator=torch.Generator().manual_seed(1))
    return pixels.to(dtype).contiguous(memory_format=torch.channels_last)


def _filled(layer: nn.Conv2d, dtype=torch.float32) -> nn.Conv2d:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in layer.parameters():
            value.normal_(0, 0.2, generator=generator)
    return layer.to(dtype).requires_grad_(False)


def _net(layer: nn.Module, behind: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(layer, behind or nn.Identity())


def _fast(net: nn.Sequential) -> nn.Sequential:
    fast = copy.deepcopy(net)
    convolve_by_onednn(fast, [Pair("0", "1")])
    return fast


def _assert_same(net, images, found=None):
    """To the rounding of the type, with float64 as the judge of both."""
    found = _run(_fast(net), images) if found is None else found
    exact = _run(copy.deepcopy(net).double(), images.double())
    tolerance = 1e-5 if images.dtype == torch.float32 else 1e-2
    assert found.dtype == images.dtype
    torch.testing.assert_close(found.double(), exact, atol=tolerance * float(exact.abs().max()), rtol=0)


@torch.inference_mode()
def _run(net, images):
    return net(images)


@pytest.fixture
def calls(monkeypatch):
    """How often oneDNN's own operation was called."""
    seen = []
    layout = convolution._OneDnn._layout
    monkeypatch.setattr(convolution._OneDnn, "_layout", lambda self, *a: (seen.append(self), layout(self, *a))[1])
    return seen


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_plain_ones(geometry, dtype, calls):
    if dtype not in convolution._types():
        pytest.skip("not a type of this processor")
    *sizes, kernel, stride, dilation, groups = geometry
    layer = nn.Conv2d(*sizes, kernel, stride, padding=(1, 2), dilation=dilation, groups=groups)
    _assert_same(_net(_filled(layer, dtype)), _images(sizes[0], 14, 11, dtype))
    assert len(calls) == 1


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", [(14, 14), (15, 15), (14, 15), (7, 12)])
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_timm_s_that_pad_as_tensorflow_does(geometry, size, dtype, calls):
    """An even side takes a pixel more at its end: where kernels grow by a zero, on the wrong side it would show."""
    if dtype not in convolution._types():
        pytest.skip("not a type of this processor")
    *sizes, kernel, stride, dilation, groups = geometry
    layer = Conv2dSame(*sizes, kernel, stride, dilation=dilation, groups=groups, bias=False)
    _assert_same(_net(_filled(layer, dtype)), _images(sizes[0], *size, dtype))
    assert len(calls) == 1


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", convolution._ACTIVATIONS)
def test_activations_in_the_same_pass(kind, dtype):
    if dtype not in convolution._types():
        pytest.skip("not a type of this processor")
    net = _net(_filled(nn.Conv2d(8, 16, 3), dtype), kind())
    images = 4 * _images(8, 10, 10, dtype)  # beyond the six of ReLU6
    _assert_same(net, images)
    assert type(_fast(net)[1]) is nn.Identity


def test_activations_that_onednn_does_not_know_stay_where_they_are():
    net = _net(_filled(nn.Conv2d(8, 16, 3)), nn.ELU())
    assert type(_fast(net)[1]) is nn.ELU
    _assert_same(net, _images(8, 10, 10))


def test_an_activation_behind_no_pair_is_not_taken():
    """Somebody else may read what is before it."""
    net = _net(_filled(nn.Conv2d(8, 16, 3)), nn.ReLU())
    convolve_by_onednn(net, [])
    assert isinstance(net[0], OneDnnConv2d)
    assert type(net[1]) is nn.ReLU


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("layer", [nn.Conv2d(8, 16, 3), Conv2dSame(8, 8, 3, 2, groups=8)])
def test_a_single_image_has_the_row_that_it_has_among_others(layer, dtype):
    """By the same operation: an activation of its own would round once more in half precision."""
    if dtype not in convolution._types():
        pytest.skip("not a type of this processor")
    net = _net(_filled(copy.deepcopy(layer), dtype), nn.SiLU())
    fast, images = _fast(net), _images(8, 10, 10, dtype)
    single = _run(fast, images[:1])
    _assert_same(net, images[:1], single)
    torch.testing.assert_close(single, _run(fast, images)[:1], atol=1e-6, rtol=1e-6)


def test_gradients_are_torch_s(calls):
    net = _net(_filled(nn.Conv2d(8, 16, 3)), nn.ReLU())
    images = _images(8, 10, 10).requires_grad_()
    _fast(net)(images).sum().backward()
    assert images.grad is not None
    assert not calls


def test_what_onednn_s_operation_does_not_take_is_torch_s(calls):
    fast = _fast(_net(_filled(nn.Conv2d(8, 16, 3)), nn.ReLU()))
    assert _run(fast, _images(8, 10, 10)[0]).shape == (16, 8, 8)
    with pytest.raises(RuntimeError, match="type"):
        _run(fast, _images(8, 10, 10, torch.bfloat16))
    assert not calls


def test_one_layout_for_all_that_share_a_weight():
    gc.collect()  # layouts of other tests' networks
    before = len(convolution._laid_out)
    nets = [_fast(_net(_filled(nn.Conv2d(8, 16, 3)))) for _ in range(2)]
    nets[1][0]._parameters.update(nets[0][0]._parameters)
    for net in nets:
        _run(net, _images(8, 10, 10))
    assert len(convolution._laid_out) == before + 1
    del net, nets
    gc.collect()
    assert len(convolution._laid_out) == before


def test_a_layout_is_for_one_size_of_images_at_a_time():
    """Even and odd sides grow the kernel or do not, with the same weight."""
    net = _net(_filled(Conv2dSame(8, 8, 3, 2, groups=8)))
    fast = _fast(net)
    for side in (10, 11, 10):
        images = _images(8, side, side)
        _assert_same(net, images, _run(fast, images))


def test_what_is_not_plain_stays_torch_s():
    layers = [nn.Conv2d(8, 8, 3, padding="same"), nn.Conv2d(8, 8, 3, padding_mode="reflect", padding=1)]
    layers += [StdConv2d(8, 8, 3), nn.Conv2d(8, 8, 3, dtype=torch.float64), nn.Conv1d(8, 8, 3)]
    layers += [prune.identity(nn.Conv2d(8, 8, 3), "weight")]
    net = nn.Sequential(*layers, nn.Conv2d(8, 8, 3), Conv2dSame(8, 8, 3))
    kinds = [type(layer) for layer in net]
    convolve_by_onednn(net, [])
    assert [type(layer) for layer in net] == [*kinds[:-2], OneDnnConv2d, OneDnnConv2dSame]


@pytest.mark.parametrize("reason", ["no operations", "too large"])
def test_nothing_changes_where_it_cannot_be(reason, monkeypatch):
    if reason == "too large":
        monkeypatch.setattr(convolution, "_MOST_LAID_OUT", 8 * 16 * 9 * 4 - 1)
    else:
        monkeypatch.setattr(convolution, "_types", tuple)
    net = _fast(_net(nn.Conv2d(8, 16, 3), nn.ReLU()))
    assert [type(layer) for layer in net] == [nn.Conv2d, nn.ReLU]


def test_operations_that_are_wrong_are_not_used(monkeypatch):
    assert convolution._is_right(torch.float32)
    monkeypatch.setitem(convolution._ACTIVATIONS, nn.ReLU6, convolution._Activation("hardtanh", (0.0, 5.0)))
    assert not convolution._is_right(torch.float32)
    monkeypatch.setitem(convolution._ACTIVATIONS, nn.ReLU6, convolution._Activation("no such activation"))
    assert not convolution._is_right(torch.float32)
