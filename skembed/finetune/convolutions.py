"""Workaround for a fault of torch's convolutions on processors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["avoid_faulty_gradients"]

#: Channels that oneDNN computes together on the widest processors.
_BLOCK = 16


def avoid_faulty_gradients(module: nn.Module) -> None:
    """Let strided 1x1 convolutions of few channels drop the skipped pixels before they convolve.

    Their weights' gradient is computed by oneDNN in a workspace that is too small where the input has fewer channels
    than a block and is stored channels last: other memory is overwritten, and the process crashes sooner or later [1]_.
    A 1x1 convolution sees none of the pixels it strides over, so that leaving them out first is the same map.

    The stems of RepVGG, MobileOne and FastViT have such convolutions, of three channels. With torch 2.14 and AVX2 a
    plain loop over one of these (48 outputs, 8 images of 64 x 64 pixels) crashed three times out of three.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place; its tensors and its outputs stay what they are.

    References
    ----------
    .. [1] oneDNN, issue 6035: 1x1 convolution backward_weights writes past the rtus workspace.
    """
    for convolution in module.modules():
        if isinstance(convolution, nn.Conv2d) and _is_faulty(convolution):
            convolution.register_forward_pre_hook(_Strided(convolution.stride))
            convolution.stride = (1, 1)


def _is_faulty(convolution: nn.Conv2d) -> bool:
    pointwise = convolution.kernel_size == (1, 1) and convolution.padding in ((0, 0), "valid")
    return pointwise and max(convolution.stride) > 1 and convolution.in_channels // convolution.groups < _BLOCK


class _Strided:
    def __init__(self, stride: tuple[int, ...]):
        self.stride = stride

    def __call__(self, convolution: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        high, wide = self.stride
        strided = inputs[0][..., ::high, ::wide]
        return (strided.contiguous(memory_format=_format(inputs[0])), *inputs[1:])


def _format(images: Tensor) -> torch.memory_format:
    is_last = images.ndim == 4 and images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format
