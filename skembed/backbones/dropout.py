"""Dropout that draws sixteen bits a value, on processors.

torch draws each value's share by its own number of 53 bits, one after another: 7 % of the time of a fine-tuning of
MiniLM. Four values to a number of 64 bits take a quarter of it, and the share is exact to 1 in 65,536.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["draw_fast", "draw_kept", "dropout"]

_STEPS = 2**16


def dropout(values: Tensor, p: float, training: bool = True) -> Tensor:
    """What `torch.nn.functional.dropout` does, with other random numbers of torch's own generator.

    Parameters
    ----------
    values : Tensor
    p : float
        Share of the values that become zero. The others are scaled up, so that the mean stays.
    training : bool, default=True
        Whether any do.

    References
    ----------
    .. [1] Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov (2014), Dropout: A Simple Way to Prevent Neural
       Networks from Overfitting.
    """
    # A share too small or too large for sixteen bits is torch's affair, and so is all that is not on a processor.
    if values.device.type != "cpu" or not training or not 0 < round(p * _STEPS) < _STEPS:
        return nn.functional.dropout(values, p, training)
    return _Dropout.apply(values, p)


def draw_kept(values: Tensor, p: float) -> tuple[Tensor, float]:
    """Ones where dropout keeps a value and zeros elsewhere, and what the kept ones are multiplied by.

    Parameters
    ----------
    values : Tensor
        On a processor. The ones are of its shape and type: products with what would have to be converted take four
        times as long.
    p : float
        Share of zeros.
    """
    n_dropped = round(p * _STEPS)
    if n_dropped in (0, _STEPS):
        return torch.full_like(values, float(n_dropped == 0)), 1.0
    n = values.numel()
    numbers = torch.empty(-(-n // 4), dtype=torch.int64).random_(-(2**63), None)
    kept = torch.empty(values.shape, dtype=values.dtype)
    torch.ge(numbers.view(torch.int16)[:n].view(values.shape), n_dropped - _STEPS // 2, out=kept)
    return kept, _STEPS / (_STEPS - n_dropped)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values: Tensor, p: float) -> Tensor:
        kept, ctx.scale = draw_kept(values, p)
        ctx.save_for_backward(kept)
        return (values * kept).mul_(ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        (kept,) = ctx.saved_tensors
        return (gradient * kept).mul_(ctx.scale), None


class _FastDropout(nn.Dropout):
    """`torch.nn.Dropout` by `dropout`. Made by `draw_fast` and not by its constructor."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) if self.inplace else dropout(input, self.p, self.training)


def draw_fast(module: nn.Module) -> None:
    """Let the dropout of a network be drawn as `dropout` draws it.

    Parameters
    ----------
    module : torch.nn.Module
        Changed in place: plain dropout has another class, which is still a `torch.nn.Dropout`.
    """
    for sub in module.modules():
        if type(sub) is nn.Dropout:
            sub.__class__ = _FastDropout
