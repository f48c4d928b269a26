"""Layers that LoRA and IA3 change: finding them by the endings of their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.layers import Conv2dSame
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from skembed.backbones.base import Block
from skembed.utils.naming import nearest

__all__ = ["check_names", "find_targets", "hint_at_list"]

# By exact type: a subclass may standardize its weights before it uses them.
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
#: Endings of names that an error lists.
_MOST_OFFERED = 12


def hint_at_list(value: Any) -> str:
    """Return a sentence for a single name where a list is wanted, with a space before it; else an empty string."""
    return f" Give a list: target_modules=[{value!r}]." if isinstance(value, str) else ""


def check_names(given: Any) -> None:
    """Refuse what is not a list of names, whatever the network."""
    if given is None:
        return
    names = list(given)
    if not names:
        raise ValueError("target_modules is empty: nothing would train. Give names of layers, or None for all.")
    for name in names:
        if not isinstance(name, str):
            kind = type(name).__name__
            raise ValueError(
                f"target_modules={names!r}: {name!r} is {'an' if kind[0] in 'aeiou' else 'a'} {kind}, not the name of "
                "a layer. Give a list of str."
            )
        if not name.strip(". "):
            raise ValueError(f"target_modules={names!r}: {name!r} is an empty name. Give names of layers, or None.")


def find_targets(module: nn.Module, blocks: Sequence[Block], targets: Sequence[str] | None, backbone: str) -> list[str]:
    """Return the dotted names of linear maps and plain convolutions in blocks.

    Parameters
    ----------
    module : nn.Module
        The network.
    blocks : sequence of Block
        Where to look; the head is in none of them.
    targets : sequence of str or None
        Endings of names, whole words between dots; None takes every linear map and every plain convolution. A grouped
        or dilated convolution is none: peft's product of two convolutions is not a low-rank change of its weight.
    backbone : str
        For the errors.

    Raises
    ------
    ValueError
        If a name is unknown there, with the nearest; or names what cannot be changed so; or nothing is left.
    """
    inside = {
        name: sub
        for name, sub in module.named_modules()
        if name and any(block.owns(name) for block in blocks) and sub._parameters.get("weight") is not None
    }
    able = [name for name, sub in inside.items() if _can_change(sub)]
    if targets is None:
        if not able:
            raise ValueError(
                f"There is no linear map and no plain convolution in the blocks of {backbone} that would train. "
                "Use method='weights' or 'bitfit', or a strategy with more blocks."
            )
        return able
    chosen: dict[str, None] = {}
    for target in targets:
        named = [name for name in inside if name == target or name.endswith(f".{target}")]
        if not named:
            raise ValueError(
                f"target_modules names {target!r}, and no layer in the blocks of {backbone} that train ends so. "
                f"{_offer(target, able)}; None takes them all."
            )
        unable = [name for name in named if name not in able]
        if unable:
            raise ValueError(
                f"target_modules names {target!r}: {unable[0]} is a {type(inside[unable[0]]).__name__}, which "
                "cannot be changed so. Linear maps can, and convolutions that are neither grouped nor dilated."
            )
        chosen.update(dict.fromkeys(named))
    return list(chosen)


def _offer(target: str, able: Sequence[str]) -> str:
    """Names that exist: the nearest, and the endings of all of them, which are few."""
    endings = list(dict.fromkeys(name.rpartition(".")[2] for name in able if not name.rpartition(".")[2].isdigit()))
    near = nearest(target, [*endings, *able], n=3, cutoff=0.5)
    others = [ending for ending in endings if ending not in near][:_MOST_OFFERED]
    parts = [f"Nearest are {', '.join(map(repr, near))}"] if near else []
    parts += [f"names there end in {', '.join(map(repr, others))}"] if others else []
    return "; ".join(parts)[:1].upper() + "; ".join(parts)[1:]


def _can_change(sub: nn.Module) -> bool:
    if type(sub) in _CONVOLUTIONS:
        plain: nn.Conv2d = sub  # type: ignore[assignment]
        return plain.groups == 1 and plain.dilation == (1, 1) and plain.padding_mode == "zeros"
    # The projection of torch's own attention is read by its weight and never called.
    return isinstance(sub, (nn.Linear, Conv1D)) and not isinstance(sub, NonDynamicallyQuantizableLinear)
