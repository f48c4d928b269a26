"""A fault of oneDNN that overwrites memory (its issue 6035): the convolutions it strikes, and what is done instead."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from skembed.finetune.convolutions import avoid_faulty_gradients

#: Input channels, output channels, stride, groups; the first crashed the process within 3,000 steps each time.
FAULTY = [(8, 16, (2, 2), 1), (3, 16, (2, 2), 1), (12, 24, (3, 1), 1), (24, 48, (2, 2), 2)]


@pytest.mark.parametrize(("n_in", "n_out", "stride", "groups"), FAULTY)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["last", "first"])
def test_gradients_are_those_of_the_formula(n_in, n_out, stride, groups, layout):
    torch.manual_seed(0)
    plain = nn.Conv2d(n_in, n_out, 1, stride=stride, groups=groups).to(memory_format=layout)
    safe = copy.deepcopy(plain)
    avoid_faulty_gradients(safe)
    assert safe.stride == (1, 1)
    images = torch.randn(5, n_in, 12, 11).to(memory_format=layout)
    with torch.no_grad():
        torch.testing.assert_close(safe(images), plain(images), rtol=1e-5, atol=1e-6)
    outputs = safe(images)
    outputs.backward(outgoing := torch.randn_like(outputs))
    seen = images[:, :, :: stride[0], :: stride[1]].unflatten(1, (groups, -1)).double()
    wanted = torch.einsum("ngohw,ngihw->goi", outgoing.unflatten(1, (groups, -1)).double(), seen).flatten(0, 1)
    np.testing.assert_allclose(safe.weight.grad[:, :, 0, 0], wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(16, 16, 1, stride=2),
        nn.Conv2d(8, 16, 1),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.Conv2d(8, 16, 1, stride=2, padding=1),
    ],
    ids=["enough channels", "no stride", "3x3", "padded"],
)
def test_others_are_left_as_they_are(convolution):
    stride = convolution.stride
    avoid_faulty_gradients(nn.Sequential(convolution))
    assert convolution.stride == stride
    assert not convolution._forward_pre_hooks


def test_the_layout_stays():
    convolution = nn.Conv2d(8, 16, 1, stride=2).to(memory_format=torch.channels_last)
    avoid_faulty_gradients(convolution)
    seen = []
    convolution.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    convolution(torch.randn(5, 8, 12, 12).to(memory_format=torch.channels_last))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert seen[0].shape == (5, 8, 6, 6)
