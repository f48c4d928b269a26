"""Adapter: a bottleneck behind each block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from numbers import Integral
from typing import Any, ClassVar

import torch
from torch import Tensor

from skembed.backbones.adapters import Bottleneck, attach_bottleneck
from skembed.backbones.base import Backbone, Block
from skembed.backbones.blocks import first_tensor
from skembed.backbones.tuning.method import Method
from skembed.backbones.tuning.placing import by_host, device_of, filled
from skembed.utils.sklearn_private import Interval

__all__ = ["Adapter"]

Tensors = Mapping[str, Tensor]


class Adapter(Method):
    """Train a bottleneck behind each block, and nothing of the block itself [1]_, [2]_.

    The bottleneck starts as the identity. A block that is only parameters, such as the stem of a vision transformer,
    gets none.

    Parameters
    ----------
    width : int, default=32
        Number of features of the bottleneck. More can adapt further, and store more.

    References
    ----------
    .. [1] Houlsby et al. (2019), Parameter-Efficient Transfer Learning for NLP.
    .. [2] Pfeiffer et al. (2020), AdapterFusion: Non-Destructive Task Composition for Transfer Learning.

    Examples
    --------
    >>> from skembed import Adapter, FineTuneClassifier
    >>> FineTuneClassifier(strategy="full", method=Adapter(width=16))
    FineTuneClassifier(method=Adapter(width=16), strategy='full')
    """

    name = "adapter"
    _parameter_constraints: ClassVar[dict[str, Any]] = {"width": [Interval(Integral, 1, None, closed="left")]}

    def __init__(self, width=32):
        self.width = width

    def attach(self, backbone, blocks, key, batch) -> dict[str, Any]:
        layouts = _layouts(backbone, blocks, batch)
        if not layouts:
            raise ValueError(
                f"Adapters stand behind blocks, and {backbone.spec.name} has none that would train and is a module of "
                "its own. Use method='lora' or 'weights', or a strategy with more blocks."
            )
        for host, (features, maps) in layouts.items():
            bottleneck = Bottleneck(features, int(self.width), maps=maps).to(device_of(backbone.module))
            attach_bottleneck(backbone.module.get_submodule(host), key, bottleneck)
        _see_all_called(backbone, batch)
        return {"method": self.name}

    @classmethod
    def rebuild(cls, backbone, key, record, tensors) -> None:
        for host, values in by_host(tensors).items():
            inner, features, *rest = values["down.weight"].shape
            bottleneck = Bottleneck(features, inner, maps=bool(rest))
            attach_bottleneck(backbone.module.get_submodule(host), key, filled(bottleneck, values, backbone))


def _see_all_called(backbone: Backbone, batch: Tensors) -> None:
    idle = {sub for sub in backbone.module.modules() if isinstance(sub, Bottleneck)}
    with torch.no_grad(), ExitStack() as stack:
        for bottleneck in list(idle):
            handle = bottleneck.register_forward_hook(lambda called, _args, _output: idle.discard(called))
            stack.callback(handle.remove)
        backbone.forward_blocks(batch, [len(backbone.blocks) - 1])
    if idle:
        raise ValueError(
            f"{backbone.spec.name} runs its blocks without calling them, so that nothing can stand behind them. "
            "Use method='lora' or 'weights'."
        )


def _layouts(backbone: Backbone, blocks: Sequence[Block], batch: Tensors) -> dict[str, tuple[int, bool]]:
    """Return for each block that is a module the number of features, and True for channels of a map."""
    modules, chosen = dict(backbone.module.named_modules()), {block.name for block in blocks}
    raw: dict[str, Tensor] = {}

    def keep(name: str) -> Callable:
        return lambda _module, _args, output: raw.__setitem__(name, first_tensor(output))

    with torch.no_grad(), ExitStack() as stack:
        for block in backbone.blocks:
            if block.name in modules:
                stack.callback(modules[block.name].register_forward_hook(keep(block.name)).remove)
        tokens = backbone.forward_blocks(batch, range(len(backbone.blocks)))
    found: dict[str, tuple[int, bool]] = {}
    maps = False
    for block, seen in zip(backbone.blocks, tokens, strict=True):
        value = raw.get(block.name, seen.values)
        maps = _is_map(value, seen.values, maps)
        if block.name in modules:
            found[block.name] = (value.shape[1 if maps else -1], maps)
    return {name: layout for name, layout in found.items() if name in chosen}


def _is_map(raw: Tensor, tokens: Tensor, before: bool) -> bool:
    """Return True if features are the second axis, according to the backbone's own flattening."""
    if raw.ndim != 4:
        return False
    width = tokens.shape[-1]
    if (raw.shape[1] == width) != (raw.shape[-1] == width):
        return raw.shape[1] == width
    rows = raw.flatten(2).transpose(1, 2)
    if rows.shape == tokens.shape and torch.equal(rows, tokens):
        return True
    rows = raw.flatten(1, 2)
    # Only the normalized output of the last block is known; its layout is that of the block below.
    return before and not (rows.shape == tokens.shape and torch.equal(rows, tokens))
