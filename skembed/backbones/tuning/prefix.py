"""Prefix: gated keys and values in each attention."""

from __future__ import annotations

from numbers import Integral
from typing import Any, ClassVar

import torch

from skembed.backbones.adapters import GatedPrefix
from skembed.backbones.attention import watch_attention
from skembed.backbones.tuning.method import Method
from skembed.backbones.tuning.placing import by_host, device_of, filled, require_packable
from skembed.utils.sklearn_private import Interval

__all__ = ["Prefix"]


class Prefix(Method):
    """Train additional keys and values for each attention of a text backbone [1]_, [2]_.

    They pass through a gate that starts closed, so that training starts from the frozen network. It works with text
    backbones of BERT's kind.

    Parameters
    ----------
    n_tokens : int, default=10
        Number of keys and values per attention. More can adapt further.

    References
    ----------
    .. [1] Li & Liang (2021), Prefix-Tuning: Optimizing Continuous Prompts for Generation.
    .. [2] Zhang et al. (2023), LLaMA-Adapter: Efficient Fine-tuning of Language Models with Zero-init Attention.

    Examples
    --------
    >>> from skembed import FineTuneClassifier, Prefix
    >>> FineTuneClassifier(strategy="full", method=Prefix(n_tokens=20))
    FineTuneClassifier(method=Prefix(n_tokens=20), strategy='full')
    """

    name = "prefix"
    _parameter_constraints: ClassVar[dict[str, Any]] = {"n_tokens": [Interval(Integral, 1, None, closed="left")]}

    def __init__(self, n_tokens=10):
        self.n_tokens = n_tokens

    def check(self, backbone, blocks, options=None) -> None:
        require_packable(backbone, self.name)

    def attach(self, backbone, blocks, key, batch) -> dict[str, Any]:
        self.check(backbone, blocks)
        names = {module: name for name, module in backbone.module.named_modules()}
        with torch.no_grad(), watch_attention() as seen:
            backbone.forward_blocks(batch, [len(backbone.blocks) - 1])
        hosts = [(module, shape) for module, *shape in seen if any(block.owns(names[module]) for block in blocks)]
        if not hosts:
            raise ValueError(
                "A prefix needs a block with attention among those that train. Use a strategy with more blocks."
            )
        for module, (heads, width) in hosts:
            prefix = GatedPrefix(heads, int(self.n_tokens), width)
            module.add_module(key, prefix.to(device_of(backbone.module)))
        return {"method": self.name}

    @classmethod
    def rebuild(cls, backbone, key, record, tensors) -> None:
        for host, values in by_host(tensors).items():
            prefix = GatedPrefix(*values["keys"].shape)
            backbone.module.get_submodule(host).add_module(key, filled(prefix, values, backbone))
