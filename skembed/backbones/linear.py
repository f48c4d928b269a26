"""Linear layers multiplied by oneDNN, which is on many processors twice as fast as what torch takes for float32.

torch multiplies float32 by MKL, whose AVX-512 kernels are for Intel's processors alone: measured on an AMD EPYC with
two cores, at the shapes of MiniLM, MKL reaches 230 GFLOP/s, oneDNN 430, and 530 with weights that it laid out
beforehand. bfloat16 is oneDNN's already, and gains from the layout: 1,050 against 830.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["OneDnnLinear", "multiply_by_onednn", "multiply_plainly"]

#: Bytes of a network's linear weights up to which they are held a second time, laid out for oneDNN.
_MOST_LAID_OUT = 512 * 2**20

#: By weight: the version of it that was laid out, and the layout. Outside of the modules, so that copies and pickles of
#: a network know nothing of it.
_laid_out: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


class OneDnnLinear(nn.Linear):
    """`torch.nn.Linear` with its three products computed by oneDNN, to the same result but for rounding.

    Made by `multiply_by_onednn` and not by its constructor.
    """

    #: Whether weights that do not train are laid out beforehand.
    lays_out: bool

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if not _is_for_onednn(input, weight):
            return super().forward(input)
        if torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad):
            # Training in half precision is torch's own.
            if input.dtype != torch.float32:
                return super().forward(input)
            return _Product.apply(input, weight, bias)
        return _product(input, self._laid_out() if self.lays_out and not weight.requires_grad else weight, bias)

    def _laid_out(self) -> Tensor:
        """The weight as oneDNN likes it best, made anew where the weight was written to."""
        weight = self.weight
        if weight.is_inference():
            return weight  # such tensors count no versions
        state = (weight._version, weight.data_ptr())
        found = _laid_out.get(weight)
        if found is None or found[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
            found = _laid_out[weight] = (state, laid_out)
        return found[1]


class _Product(torch.autograd.Function):
    """A linear map of float32, and its gradients."""

    @staticmethod
    def forward(ctx, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(input, weight)
        return _product(input, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        input, weight = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])
        for_input = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            for_input = _product(rows, weight.t(), None).view(input.shape)
        if ctx.needs_input_grad[1]:
            for_weight = _product(rows.t(), input.reshape(-1, input.shape[-1]).t(), None)
        if ctx.needs_input_grad[2]:
            for_bias = rows.sum(0)
        return for_input, for_weight, for_bias


def _product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")


def _is_for_onednn(input: Tensor, weight: Tensor) -> bool:
    on_cpu = input.device.type == weight.device.type == "cpu"
    return on_cpu and input.dtype == weight.dtype and input.dtype in _faster_types() and input.numel() > 0


def multiply_by_onednn(module: nn.Module) -> None:
    """Let the linear layers of a network be computed by oneDNN, where that is faster.

    Which is known by the processor and not timed, so that a machine always computes the same: those with AVX-512, but
    for float32 on Intel's, which MKL is made for. Elsewhere nothing changes.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place. Its tensors, their names, its copies and its results stay what they are; plain linear layers
        have another class, which is still a `torch.nn.Linear`.
    """
    plain = [sub for sub in module.modules() if type(sub) is nn.Linear]
    if not plain or not _faster_types():
        return
    lays_out = sum(sub.weight.nbytes for sub in plain) <= _MOST_LAID_OUT
    for sub in plain:
        # Another class and not another module: whoever holds the layer, or hooked itself to it, goes on to have it.
        sub.__class__ = OneDnnLinear
        sub.lays_out = lays_out  # type: ignore[assignment]


def multiply_plainly(module: nn.Module) -> None:
    """Take back `multiply_by_onednn`, for compilers and exporters, which do not know these operations.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place.
    """
    for sub in module.modules():
        if type(sub) is OneDnnLinear:
            sub.__class__ = nn.Linear  # type: ignore[assignment]
            del sub.lays_out


@functools.cache
def _faster_types() -> tuple[torch.dtype, ...]:
    """The types in which oneDNN is faster on this processor, and right."""
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if not found.get("avx512_f"):
        return ()
    types = [torch.float32] if "intel" not in str(found.get("cpu_name", "")).lower() else []
    if found.get("avx512_bf16") or found.get("amx_bf16"):
        types.append(torch.bfloat16)
    return tuple(dtype for dtype in types if _is_right(dtype))


def _is_right(dtype: torch.dtype) -> bool:
    """Whether the operations are there and right: they are torch's own affair, made for its compiler."""
    generator = torch.Generator().manual_seed(0)
    rows, weight, bias = (torch.randn(*shape, generator=generator).to(dtype) for shape in ((5, 24), (40, 24), (40,)))
    expected = nn.functional.linear(rows.float(), weight.float(), bias.float())
    try:
        with torch.no_grad():
            laid_out = torch.ops.mkldnn._reorder_linear_weight(weight, None)
            # A transposed view is what the gradients hand over.
            tried = [_product(rows, each, bias) for each in (weight, laid_out, weight.t().contiguous().t())]
    except (AttributeError, RuntimeError, TypeError):
        return False
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    return all(torch.allclose(each.float(), expected, atol=tolerance, rtol=tolerance) for each in tried)
