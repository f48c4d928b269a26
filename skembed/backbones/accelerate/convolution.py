"""oneDNN convolutions with prepared weights, and the activation in the same pass.

torch's own convolutions are oneDNN's, too, but their weights are laid out anew at each call, and an activation goes
through memory once more, as padding does that is no even one. From file to embedding on two cores (Zen 4) this is 1.22
times as fast for EfficientNet-Lite0, 1.24 times in bfloat16; for ResNet-50, whose activations stay where they are, 1.12
and 1.03. Not taken along are the sums of residual networks with what follows them: 2 to 4 % more of ResNet-50 in
bfloat16, nothing in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from timm.layers import Conv2dSame, get_same_padding, pad_same
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from skembed.backbones.accelerate.folding import Pair
from skembed.utils.device import cpu_features

__all__ = ["OneDnnConv2d", "OneDnnConv2dSame", "convolve_by_onednn"]

#: Bytes of a network's convolutions up to which they are held a second time, laid out for oneDNN.
_MOST_LAID_OUT = 512 * 2**20

#: Images of the batch that weights are laid out for.
_SEVERAL = 4

#: Of height and width.
_Sides = tuple[int, int]
_NONE = (0, 0)

#: By weight: what the layout was made for, and the layout. Copies of networks that share a weight share it.
_laid_out: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


class _Activation(NamedTuple):
    """Activation by its name in oneDNN."""

    name: str
    scalars: Sequence[float] = ()
    algorithm: str = ""


#: By exact type: a subclass may do anything.
_ACTIVATIONS = {
    nn.Identity: _Activation("none"),
    nn.ReLU: _Activation("relu"),
    nn.ReLU6: _Activation("hardtanh", (0.0, 6.0)),
    nn.SiLU: _Activation("swish"),
    nn.Hardswish: _Activation("hardswish"),
}


class _OneDnn(nn.Conv2d):
    """Base class of both kinds of convolutions, whose instances `convolve_by_onednn` makes."""

    #: What follows the convolution; in a list, so that it is no submodule.
    behind: list[nn.Module]

    def forward(self, input: Tensor) -> Tensor:
        if torch.is_grad_enabled() or not self._is_for_onednn(input):
            return self.behind[0](super().forward(input))
        input, padding, grown = self._padded(input)
        geometry = (padding, self.stride, self.dilation, self.groups)
        weight = self._layout(input, geometry, grown)
        activation = _ACTIVATIONS[type(self.behind[0])]
        return torch.ops.mkldnn._convolution_pointwise(input, weight, self.bias, *geometry, *activation)

    def _is_for_onednn(self, input: Tensor) -> bool:
        same = input.dtype == self.weight.dtype and input.device == self.weight.device
        return same and input.device.type == "cpu" and input.dtype in _types() and input.ndim == 4

    def _padded(self, input: Tensor) -> tuple[Tensor, _Sides, _Sides]:
        """Return the input, the padding left to oneDNN, and the zeros to put before the kernel."""
        return input, self.padding, _NONE  # type: ignore[return-value]  # numbers, see `_is_plain`

    def _layout(self, input: Tensor, geometry: tuple, grown: _Sides) -> Tensor:
        weight = self.weight.detach()
        state = (weight.dtype, grown)
        found = _laid_out.get(self.weight)
        if found is not None and found[0] == state and len(input) > 1:
            return found[1]
        with torch.inference_mode(False), torch.no_grad():
            if any(grown):
                weight = nn.functional.pad(weight, (grown[1], 0, grown[0], 0))
            # One layout serves 2 to 32 images alike. For a single one it can be half as fast as that image's own, which
            # is made at the call: several are what takes long.
            if len(input) == 1:
                return weight
            shape = [_SEVERAL, *input.shape[1:]]
            layout = torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, shape)
        _laid_out[self.weight] = (state, layout)
        return layout


class OneDnnConv2d(_OneDnn):
    """`torch.nn.Conv2d` with the activation behind it."""


class OneDnnConv2dSame(_OneDnn, Conv2dSame):
    """timm's `Conv2dSame`, padded as in TensorFlow, with the activation behind it."""

    def _padded(self, input: Tensor) -> tuple[Tensor, _Sides, _Sides]:
        if self.groups < self.in_channels or self.dilation != (1, 1):
            return pad_same(input, list(self.kernel_size), list(self.stride), list(self.dilation)), _NONE, _NONE
        # A pixel more at the end than at the start is what oneDNN could do and torch's operation cannot. So it pads
        # both by it, and a zero in front of the kernel makes up for that: a depthwise kernel costs less than a copy.
        (height, _), (width, _) = sides = [
            divmod(get_same_padding(size, kernel, stride, 1), 2)
            for size, kernel, stride in zip(input.shape[-2:], self.kernel_size, self.stride, strict=True)
        ]
        grown = (sides[0][1], sides[1][1])
        return input, (height + grown[0], width + grown[1]), grown


_KINDS: dict[type, type[_OneDnn]] = {nn.Conv2d: OneDnnConv2d, Conv2dSame: OneDnnConv2dSame}


def convolve_by_onednn(module: nn.Module, pairs: Sequence[Pair]) -> None:
    """Compute the convolutions of a network by oneDNN, with weights laid out once.

    Parameters
    ----------
    module : nn.Module
        For inference alone; changed in place. Names and results stay what they are. Where oneDNN's operations are not
        there, nothing changes.
    pairs : sequence of Pair
        Convolutions and what is in the place of the normalization that was folded into them: nothing else reads their
        output, so that an activation there may be computed with them.
    """
    plain = {name: sub for name, sub in module.named_modules() if type(sub) in _KINDS and _is_plain(sub)}
    if not plain or not _types() or sum(sub.weight.nbytes for sub in plain.values()) > _MOST_LAID_OUT:
        return
    for sub in plain.values():
        sub.__class__ = _KINDS[type(sub)]
        sub.behind = [nn.Identity()]
    for name, norm in pairs:
        follower = module.get_submodule(norm)
        if name in plain and type(follower) in _ACTIVATIONS:
            plain[name].behind = [follower]
            owner, _, leaf = norm.rpartition(".")
            setattr(module.get_submodule(owner), leaf, nn.Identity())


def _is_plain(convolution: Any) -> bool:
    return (
        "weight" in convolution._parameters
        and convolution.weight.device.type == "cpu"
        and convolution.weight.dtype in _types()
        and convolution.padding_mode == "zeros"
        and not isinstance(convolution.padding, str)
    )


@functools.cache
def _types() -> tuple[torch.dtype, ...]:
    """Return the types in which oneDNN convolves correctly on this processor."""
    found = cpu_features()
    types = [torch.float32] if found.get("avx2") else []
    if found.get("avx512_bf16") or found.get("amx_bf16"):
        types.append(torch.bfloat16)
    return tuple(dtype for dtype in types if _is_right(dtype))


def _is_right(dtype: torch.dtype) -> bool:
    """Return True if torch's private operations exist and compute the right values."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 16, 9, 9), (16, 8, 3, 3), (16,))
    images, weight, bias = (torch.randn(*shape, generator=generator).to(dtype) for shape in shapes)
    geometry = ((1, 1), (2, 2), (1, 1), 2)
    plain = nn.functional.conv2d(images.float(), weight.float(), bias.float(), padding=1, stride=2, groups=2)
    tolerance = 1e-4 if dtype == torch.float32 else 5e-2
    try:
        with torch.no_grad():
            laid_out = torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, list(images.shape))
            return all(
                torch.allclose(
                    torch.ops.mkldnn._convolution_pointwise(images, laid_out, bias, *geometry, *activation).float(),
                    kind()(plain),
                    atol=tolerance,
                    rtol=tolerance,
                )
                for kind, activation in _ACTIVATIONS.items()
            )
    except (AttributeError, RuntimeError, TypeError):
        return False
