"""Faster copies of image networks, with folded batch norms and convolutions by oneDNN."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from skembed.backbones.accelerate.convolution import convolve_by_onednn
from skembed.backbones.accelerate.folding import Pair, find_pairs, fold_pairs, folded
from skembed.backbones.accelerate.linear import multiply_plainly
from skembed.utils.device import is_device_fault

__all__ = ["InferenceCopies", "find_foldable"]

#: Devices on which a copy was measured to be faster, or is known to be.
_DEVICES = ("cpu", "cuda")

#: Weight and bias of a convolution.
Weights = tuple[Tensor, Tensor]


def find_foldable(
    module: nn.Module, run: Callable[[Any, Tensor], list[Tensor]], size: tuple[int, int]
) -> tuple[tuple[Pair, ...], list[Weights]]:
    """Find batch norms that can be folded into convolutions without changing any layer.

    Parameters
    ----------
    module : nn.Module
        The network, in float32.
    run : callable
        Takes a network and pixels, returns all its layers in order.
    size : (int, int)
        Height and width of its images.

    Returns
    -------
    pairs : tuple of Pair
        Empty where in doubt.
    values : list of (Tensor, Tensor)
        Weight and bias that each pair folds to.
    """
    if not any(isinstance(sub, nn.BatchNorm2d) for sub in module.modules()):
        return (), []
    pixels = torch.randn((1, 3, *size), generator=torch.Generator().manual_seed(0))
    try:
        pairs = find_pairs(module, run, pixels)
        values = _folded_pairs(module, pairs)
        trial = _copied(module, pairs, values, channels_last=True)
        with torch.no_grad():
            expected, found = run(module, pixels), run(trial, pixels)
    # A network may do anything at all in its forward pass, such as asking a norm for its weight. Whatever it
    # says to being taken apart, it still runs as a whole.
    except Exception as error:
        if is_device_fault(error):
            raise
        return (), []
    return (pairs, values) if all(map(_agree, expected, found)) else ((), [])


def _agree(expected: Tensor, found: Tensor) -> bool:
    """Return True if two layers differ by rounding alone, which costs two of seven digits."""
    return bool((expected - found).abs().max() <= 1e-4 * expected.abs().max())


class _Held(NamedTuple):
    norms: tuple[nn.Module, ...]
    network: nn.Module


class InferenceCopies:
    """Copies of a network, and of those trained from it, for inference.

    A copy shares all tensors with its original but the weights of convolutions, and these with the copies of networks
    that have the same; on processors these are held once more, laid out for oneDNN. It is made once, at the first batch
    of the original, whose weights must not change after that. Nothing of this is copied or pickled with a backbone.

    Parameters
    ----------
    module : nn.Module
        The network as it was opened, in float32. It will be cast and moved afterwards; what is folded now is
        remembered in float32, so that it is rounded once and not twice.
    pairs : sequence of Pair
        Pairs to fold.
    values : sequence of (Tensor, Tensor)
        Weight and bias that each of them folds to, in float32.
    channels_last : bool
        True if the weights of convolutions are laid out so.
    """

    def __init__(self, module: nn.Module, pairs: Sequence[Pair], values: Sequence[Weights], *, channels_last: bool):
        self.pairs, self.channels_last = tuple(pairs), channels_last
        self._first: _First | None = _First(module, self.pairs, values) if pairs else None
        self._held: WeakKeyDictionary[nn.Module, _Held] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def network(self, module: nn.Module) -> nn.Module:
        """Return the copy of a network, or the network itself if a copy gains nothing or differs."""
        if not (self.pairs or self.channels_last) or next(module.parameters()).device.type not in _DEVICES:
            return module
        with self._lock:
            held = self._held.get(module)
            if held is None:
                norms = tuple(module.get_submodule(pair.norm) for pair in self.pairs)
                copied = _copied(module, self.pairs, self._first_values(module), channels_last=self.channels_last)
                self._reuse(module, copied)
                held = self._held[module] = _Held(norms, copied)
            # In training mode a normalization reads its batch and not what it remembers.
            return module if any(norm.training for norm in held.norms) else held.network

    def _reuse(self, module: nn.Module, copied: nn.Module) -> None:
        """Share convolutions between copies whose originals share the same tensors.

        Networks that were fine-tuned from one base share the tensors below the tuned blocks.
        """
        norms = dict(self.pairs)
        own = dict(module.named_modules())
        for other, held in self._held.items():
            theirs, ready = dict(other.named_modules()), dict(held.network.named_modules())
            for name, sub in copied.named_modules():
                if isinstance(sub, nn.Conv2d) and name in theirs:
                    parts = [name, norms[name]] if name in norms else [name]
                    if _same_tensors([own[part] for part in parts], [theirs[part] for part in parts]):
                        sub._parameters.update(ready[name]._parameters)

    def in_float32(self, module: nn.Module) -> nn.Module:
        """Return an independent copy in float32 on the CPU, for a compiler."""
        with torch.inference_mode(False), self._lock:
            return _copied(module, self.pairs, self._first_values(module), channels_last=False, whole=True)

    def _first_values(self, module: nn.Module) -> Sequence[Weights] | None:
        """Return the values folded at the start, once, if the network has not changed since."""
        # Not to a network that was made of this one: it has other weights, and this one is still to come.
        if self._first is None or not self._first.still(module):
            return None
        first, self._first = self._first, None
        return first.values

    def __getstate__(self):
        return {"pairs": self.pairs, "channels_last": self.channels_last}

    def __setstate__(self, state):
        self.pairs, self.channels_last = state["pairs"], state["channels_last"]
        self._first, self._held, self._lock = None, WeakKeyDictionary(), threading.Lock()


class _First:
    """Values folded in float32, valid while the network is cast and moved, but not changed."""

    def __init__(self, module: nn.Module, pairs: Sequence[Pair], values: Sequence[Weights]):
        self.values = values
        self._names = [name for pair in pairs for name in pair]
        parts = [module.get_submodule(name) for name in self._names]
        # `Module.to` keeps the parameters and their versions, but makes new buffers.
        self._seen_parameters = [(p, p._version) for part in parts for p in part.parameters(recurse=False)]
        self._seen_buffers = [b.clone() for part in parts for b in part.buffers(recurse=False)]

    def still(self, module: nn.Module) -> bool:
        parts = [module.get_submodule(name) for name in self._names]
        parameters = [p for part in parts for p in part.parameters(recurse=False)]
        buffers = [b for part in parts for b in part.buffers(recurse=False)]
        same = len(parameters) == len(self._seen_parameters) and all(
            now is before and now._version == version
            for now, (before, version) in zip(parameters, self._seen_parameters, strict=True)
        )
        return same and all(
            torch.equal(now, before.to(now.device, now.dtype))
            for now, before in zip(buffers, self._seen_buffers, strict=True)
        )


def _same_tensors(these: Sequence[nn.Module], those: Sequence[nn.Module]) -> bool:
    found, other = (
        [tensor for sub in subs for tensor in (*sub.parameters(), *sub.buffers())] for subs in (these, those)
    )
    return len(found) == len(other) and all(a is b for a, b in zip(found, other, strict=True))


def _folded_pairs(module: nn.Module, pairs: Sequence[Pair]) -> list[Weights]:
    return [folded(module.get_submodule(pair.convolution), module.get_submodule(pair.norm)) for pair in pairs]


def _copied(module: nn.Module, pairs: Sequence[Pair], values, *, channels_last: bool, whole: bool = False) -> nn.Module:
    """Return a folded copy of a network.

    `values` are the folded weights if they are known. With `whole`, the copy is in float32 and shares no tensor.
    """
    with torch.inference_mode(False), torch.no_grad():
        if values is None:
            values = _folded_pairs(module, pairs)
        shared = {} if whole else {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
        copied: Any = copy.deepcopy(module, shared)
        if whole:
            copied = copied.float().cpu()
            multiply_plainly(copied)
        fold_pairs(copied, pairs, values)
        if channels_last:
            for sub in copied.modules():
                if isinstance(sub, nn.Conv2d) and "weight" in sub._parameters:
                    weight = sub.weight.detach().to(memory_format=torch.channels_last)
                    sub.weight = nn.Parameter(weight, requires_grad=False)
            if not whole:
                convolve_by_onednn(copied, pairs)
        return copied.requires_grad_(False) if whole else copied
