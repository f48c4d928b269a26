"""Placing of added modules in a network, for all methods that add some."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from skembed.backbones.attention import PACKABLE, is_packable
from skembed.backbones.base import Backbone
from skembed.backbones.spec import place_of

__all__ = ["by_host", "device_of", "filled", "replace_tensor", "require_packable"]


def require_packable(backbone: Backbone, method: str) -> None:
    """Refuse networks whose attention is not called through `skembed.backbones.attention`."""
    if not is_packable(backbone.module):
        raise ValueError(
            f"method={method!r} works with text backbones of the families {', '.join(PACKABLE)}, and "
            f"{backbone.spec.name} is not one of them. Use 'lora' or 'adapter', which work with all."
        )


def by_host(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return tensors by the module that they were added to, and by the rest of their names."""
    hosts: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        place = place_of(name)
        assert place is not None
        hosts.setdefault(place.host, {})[place.rest] = value
    return hosts


def filled(module: Any, tensors: Mapping[str, Tensor], backbone: Backbone) -> Any:
    """Return a module with its tensors, on the device and in the type of a backbone's, frozen."""
    module.load_state_dict(dict(tensors))
    dtype = next(backbone.module.parameters()).dtype
    return module.to(device_of(backbone.module)).to(dtype).eval().requires_grad_(False)


def replace_tensor(module: nn.Module, name: str, value: Tensor) -> None:
    """Put a value, in the type and on the device of the old one, in the place of a parameter or buffer."""
    owner, _, leaf = name.rpartition(".")
    host = module.get_submodule(owner)
    old = getattr(host, leaf)
    new = value.to(old.device, old.dtype)
    if leaf in host._parameters:
        host._parameters[leaf] = nn.Parameter(new, requires_grad=False)
    else:
        host._buffers[leaf] = new


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a network."""
    return next(module.parameters()).device
