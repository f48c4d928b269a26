"""Linear layers by oneDNN, on many processors twice as fast as torch's own in float32.

torch multiplies float32 by MKL, whose AVX-512 kernels are for Intel's processors alone: measured on an AMD EPYC (Zen 5)
with two cores, at the shapes of MiniLM, MKL reaches 230 GFLOP/s, oneDNN 430, and 530 with weights that it laid out
beforehand. bfloat16 is oneDNN's already, and gains from the layout: 1,050 against 830. The generation before (Zen 4),
whose units are half as wide, does 197, 218 and 225, and 436 in bfloat16.

Training may multiply in bfloat16 what it keeps in float32, see `skembed.backbones.accelerate.mixed_precision`.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

from skembed.utils.device import cpu_features

__all__ = ["OneDnnLinear", "faster_types", "multiply_by_onednn", "multiply_plainly"]

#: Bytes of a network's linear weights up to which they are held a second time, laid out for oneDNN.
_MOST_LAID_OUT = 512 * 2**20

#: By weight: the version of it that was laid out, and the layout. Outside of the modules, so that copies and pickles of
#: a network know nothing of it.
_laid_out: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


class OneDnnLinear(nn.Linear):
    """`torch.nn.Linear` with its three products by oneDNN, equal up to rounding.

    Made by `multiply_by_onednn` and not by its constructor.
    """

    #: Whether weights that do not train are laid out beforehand.
    lays_out: bool
    #: Whether factors are rounded to bfloat16, and whether the result is left so, for which see
    #: `skembed.backbones.accelerate.mixed_precision`.
    rounds = stays_rounded = False

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        # A layer that rounds takes what another has left rounded.
        rounds = self.rounds and weight.dtype == torch.float32 and input.dtype in (torch.float32, torch.bfloat16)
        dtype = torch.bfloat16 if rounds else input.dtype
        if not (rounds or input.dtype == weight.dtype) or not _is_for_onednn(input, weight, dtype):
            return super().forward(input.to(weight.dtype) if rounds else input)
        result = dtype if self.stays_rounded else weight.dtype
        if torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in (input, weight, bias)):
            # Training with weights in half precision is torch's own.
            if weight.dtype != torch.float32:
                return super().forward(input)
            # Rows in two dimensions: of more, oneDNN returns a view of its own tensor, and torch forbids to write into
            # a view that a custom function returned, as DeBERTa does.
            rows = _Product.apply(input.reshape(-1, input.shape[-1]), weight, bias, dtype, result)
            return rows.view(*input.shape[:-1], -1)
        weight = self._laid_out(dtype) if self.lays_out and not weight.requires_grad else weight.to(dtype)
        return _product(input.to(dtype), weight, _cast(bias, dtype)).to(result)

    def _laid_out(self, dtype: torch.dtype) -> Tensor:
        """Return the weight in oneDNN's layout, converted again after a change."""
        weight = self.weight
        if weight.is_inference():
            return weight.to(dtype)  # such tensors count no versions
        state = (weight._version, weight.data_ptr(), dtype)
        found = _laid_out.get(weight)
        if found is None or found[0] != state:
            with torch.inference_mode(False), torch.no_grad():
                laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype), None)
            found = _laid_out[weight] = (state, laid_out)
        return found[1]


class _Product(torch.autograd.Function):
    """Linear map with gradients, whose inputs and result may differ in type from the factors."""

    @staticmethod
    def forward(
        ctx, input: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, result: torch.dtype
    ) -> Tensor:
        rows, factor = input.to(dtype), weight.to(dtype)
        ctx.shape, ctx.dtypes = input.shape, (input.dtype, weight.dtype, dtype)
        for_input, for_weight, *_ = ctx.needs_input_grad
        ctx.save_for_backward(rows if for_weight else None, factor if for_input else None)
        return _product(rows, factor, _cast(bias, dtype)).to(result)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        input, weight = ctx.saved_tensors
        of_input, of_weight, dtype = ctx.dtypes
        rows = gradient.reshape(-1, gradient.shape[-1])
        factor = rows.to(dtype)
        for_input = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            for_input = _product(factor, weight.t(), None).view(ctx.shape).to(of_input)
        if ctx.needs_input_grad[1]:
            for_weight = _product_of_columns(factor, input.reshape(-1, input.shape[-1])).to(of_weight)
        if ctx.needs_input_grad[2]:
            for_bias = rows.sum(0, dtype=of_weight)
        return for_input, for_weight, for_bias, None, None


def _product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")


def _cast(bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if bias is None else bias.to(dtype)


def _product_of_columns(rows: Tensor, others: Tensor) -> Tensor:
    """Return the sum over positions of their outer products."""
    if rows.dtype == torch.float32:
        return _product(rows.t(), others.t(), None)
    # torch's own is oneDNN's as well, and a tenth to a quarter faster for factors that are turned round.
    return rows.t() @ others


def _is_for_onednn(input: Tensor, weight: Tensor, dtype: torch.dtype) -> bool:
    return input.device.type == weight.device.type == "cpu" and dtype in faster_types() and input.numel() > 0


def multiply_by_onednn(module: nn.Module) -> None:
    """Compute the linear layers of a network by oneDNN if that is faster.

    The processor decides, not a timing, so that a machine always computes the same: processors with AVX-512 change,
    except for float32 on Intel's, which MKL is made for. Elsewhere nothing changes.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place. Its tensors, their names, its copies and its results stay what they are; plain linear layers
        have another class, which is still a `torch.nn.Linear`.
    """
    plain = [sub for sub in module.modules() if type(sub) is nn.Linear]
    if not plain or not faster_types():
        return
    lays_out = sum(sub.weight.nbytes for sub in plain) <= _MOST_LAID_OUT
    for sub in plain:
        # Another class and not another module: whoever holds the layer, or hooked itself to it, goes on to have it.
        sub.__class__ = OneDnnLinear
        sub.lays_out = lays_out  # type: ignore[assignment]


def multiply_plainly(module: nn.Module) -> None:
    """Undo `multiply_by_onednn`, for compilers and exporters that lack these operations.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place.
    """
    for sub in module.modules():
        if type(sub) is OneDnnLinear:
            sub.__class__ = nn.Linear  # type: ignore[assignment]
            for name in ("lays_out", "rounds", "stays_rounded"):
                sub.__dict__.pop(name, None)


@functools.cache
def faster_types() -> tuple[torch.dtype, ...]:
    """Return the types in which oneDNN is faster and correct on this processor."""
    found = cpu_features()
    if not found.get("avx512_f"):
        return ()
    types = [torch.float32] if "intel" not in str(found.get("cpu_name", "")).lower() else []
    if found.get("avx512_bf16") or found.get("amx_bf16"):
        types.append(torch.bfloat16)
    return tuple(dtype for dtype in types if _is_right(dtype))


def _is_right(dtype: torch.dtype) -> bool:
    """Return True if torch's private operations exist and compute the right values."""
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
