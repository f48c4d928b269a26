"""Folding of batch normalizations into convolutions whose output nothing else reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn
from torch.func import functional_call

__all__ = ["Pair", "find_pairs", "fold_pairs", "folded"]

# By exact type: a subclass may standardize its weights, or be parametrized, before it uses them.
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)


class Pair(NamedTuple):
    """Dotted names of a convolution and of the batch normalization that alone reads it."""

    convolution: str
    norm: str


def find_pairs(module: nn.Module, run: Callable[[Any, Tensor], Iterable[Tensor]], pixels: Tensor) -> tuple[Pair, ...]:
    """Return the convolutions whose output goes to one batch normalization only.

    The network runs on the meta device, in shapes alone. That a normalization is given the very tensor that a
    convolution returned is seen by hooks; that nothing else reads it, in autograd's graph, which has an edge for
    each reader.

    Parameters
    ----------
    module : nn.Module
        A network in eval mode.
    run : callable
        Takes the network and an input, returns all tensors that anybody will read. One of them may be what lies
        between a convolution and its normalization, which then must stay as it is.
    pixels : Tensor of shape (batch, channels, height, width)
        An input; its values do not matter.
    """
    names = {sub: name for name, sub in module.named_modules()}
    calls: Counter[nn.Module] = Counter()
    written: dict[int, tuple[nn.Module, Tensor, Any]] = {}
    met: list[tuple[nn.Module, nn.Module, Any]] = []

    def after_convolution(convolution, _args, output):
        calls[convolution] += 1
        written[id(output)] = (convolution, output, output.grad_fn)  # held, so that the id stays taken

    def before_norm(norm, args):
        calls[norm] += 1
        convolution, _, node = written.get(id(args[0]), (None, None, None))
        # An operation in place since then would have given the tensor another node.
        if convolution is not None and node is not None and args[0].grad_fn is node:
            met.append((convolution, norm, node))

    handles = [sub.register_forward_hook(after_convolution) for sub in names if type(sub) in _CONVOLUTIONS]
    handles += [sub.register_forward_pre_hook(before_norm) for sub in names if type(sub) in _NORMS and _is_fixed(sub)]
    try:
        with torch.inference_mode(False), torch.enable_grad():
            tensors = (*module.named_parameters(), *module.named_buffers())
            state = {f"module.{name}": torch.empty_like(value, device="meta") for name, value in tensors}
            meta = torch.empty_like(pixels, device="meta").requires_grad_()
            readers = _readers(functional_call(_Runner(module, run), state, (meta,)))
    finally:
        for handle in handles:
            handle.remove()
    return tuple(
        Pair(names[convolution], names[norm])
        for convolution, norm, node in met
        if readers[node] == calls[convolution] == calls[norm] == 1
    )


class _Runner(nn.Module):
    """Module that calls `run`, for `functional_call`."""

    def __init__(self, module: nn.Module, run: Callable[[Any, Tensor], Iterable[Tensor]]):
        super().__init__()
        self.module, self.run = module, run

    def forward(self, pixels: Tensor) -> Iterable[Tensor]:
        return self.run(self.module, pixels)


def _is_fixed(norm: Any) -> bool:
    return not norm.training and norm.running_mean is not None and norm.running_var is not None


def _readers(outputs: Iterable[Tensor]) -> Counter:
    """Count the readers of each node of autograd's graph, with the caller as one of outputs."""
    found: Counter[Any] = Counter()
    pending = [output.grad_fn for output in outputs if output.grad_fn is not None]
    found.update(pending)
    seen = set(pending)
    pending = list(seen)
    while pending:
        for node, _ in pending.pop().next_functions:
            if node is None:
                continue
            found[node] += 1
            if node not in seen:
                seen.add(node)
                pending.append(node)
    return found


def folded(convolution: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Return weight and bias of the convolution that replaces both.

    Returns
    -------
    weight, bias : Tensor, float32
        Computed in float64: where both are in half precision already, this adds no second rounding.
    """
    with torch.inference_mode(False), torch.no_grad():
        scale = (norm.running_var.double() + norm.eps).rsqrt()
        shift = (
            -norm.running_mean.double() if convolution.bias is None else (convolution.bias - norm.running_mean).double()
        )
        if norm.affine:
            scale = scale * norm.weight.double()
        shift = shift * scale + (norm.bias.double() if norm.affine else 0)
        weight = convolution.weight.double() * scale[:, None, None, None]
        return weight.float(), shift.float()


def fold_pairs(module: nn.Module, pairs: Sequence[Pair], values: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Put folded weights into the convolutions of a network, and remove the normalizations."""
    for pair, (weight, bias) in zip(pairs, values, strict=True):
        convolution: Any = module.get_submodule(pair.convolution)
        kind = {"device": convolution.weight.device, "dtype": convolution.weight.dtype}
        convolution.weight = nn.Parameter(weight.to(**kind), requires_grad=False)
        convolution.bias = nn.Parameter(bias.to(**kind), requires_grad=False)
        norm = module.get_submodule(pair.norm)
        owner, _, leaf = pair.norm.rpartition(".")
        # timm's BatchNormAct2d has its activation inside; the dropout before it does nothing in eval mode.
        setattr(module.get_submodule(owner), leaf, norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity())
