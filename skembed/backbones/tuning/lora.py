"""LoRA: low-rank changes of a network's linear maps and convolutions, trained beside them and merged into them."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence

import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.pytorch_utils import Conv1D

from skembed.backbones.base import Block
from skembed.backbones.spec import place_of
from skembed.utils.naming import nearest

__all__ = ["check_rank", "distance", "find_targets", "inject", "low_rank_change", "require_peft", "split_factor"]

# By exact type: a subclass may standardise its weights before it uses them.
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
#: Endings of names that an error lists.
_MOST_OFFERED = 12


def require_peft() -> None:
    """Refuse to go on without peft.

    Raises
    ------
    ImportError
        Says how to install it.
    """
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'strategy="lora" trains with peft, which is not installed. Install it with: pip install skembed[peft]'
        ) from error


def find_targets(module: nn.Module, blocks: Sequence[Block], targets: Sequence[str] | None, backbone: str) -> list[str]:
    """Dotted names of the layers in blocks that LoRA changes.

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
                f"LoRA finds no linear map and no plain convolution in the blocks of {backbone} that would train. "
                'Use strategy="partial" or "bitfit", or more blocks.'
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
                f"target_modules names {target!r}: {unable[0]} is a {type(inside[unable[0]]).__name__} that LoRA "
                "cannot change. It changes linear maps, and convolutions that are neither grouped nor dilated."
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


def check_rank(module: nn.Module, names: Sequence[str], rank: int, backbone: str) -> None:
    """Refuse a rank that no weight can have: the factors would be larger than what they change.

    Parameters
    ----------
    module : nn.Module
        The network.
    names : sequence of str
        Of the layers, from `find_targets`.
    rank : int
        See `skembed.FineTuneClassifier`.
    backbone : str
        For the error.

    Raises
    ------
    ValueError
        If it is above the smaller side of every weight; names the largest that is not.
    """
    largest = max(min(module.get_submodule(name).weight.flatten(1).shape) for name in names)  # type: ignore[operator]
    if rank > largest:
        raise ValueError(
            f"lora_rank={rank} is more than the rank of any weight that it would change in {backbone}, {largest} at "
            f"most. Use a value up to {largest}, such as 8; or a strategy without LoRA, which trains whole weights."
        )


def _can_change(sub: nn.Module) -> bool:
    if type(sub) in _CONVOLUTIONS:
        plain: nn.Conv2d = sub  # type: ignore[assignment]
        return plain.groups == 1 and plain.dilation == (1, 1) and plain.padding_mode == "zeros"
    # The projection of torch's own attention is read by its weight and never called.
    return isinstance(sub, (nn.Linear, Conv1D)) and not isinstance(sub, NonDynamicallyQuantizableLinear)


def inject(module: nn.Module, names: Sequence[str], added: str, *, rank: int, alpha: float, dropout: float) -> None:
    """Put low-rank factors beside layers, in place: W x becomes W x + alpha / rank B A x, with B zero [1]_.

    Parameters
    ----------
    module : nn.Module
        The network, whose own tensors stay as they are.
    names : sequence of str
        Of the layers, from `find_targets`.
    added : str
        What this addition is called among others.
    rank, alpha, dropout
        See `skembed.FineTuneClassifier`.

    References
    ----------
    .. [1] Hu et al. (2021), LoRA: Low-Rank Adaptation of Large Language Models.
    """
    from peft import LoraConfig, inject_adapter_in_model

    turned = any(isinstance(module.get_submodule(name), Conv1D) for name in names)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        # As a pattern, which is matched whole: endings of names would find layers in other blocks.
        target_modules="|".join(map(re.escape, names)),
        fan_in_fan_out=turned,
    )
    with warnings.catch_warnings():
        # Of linear maps among transformers' turned ones, which peft tells apart itself.
        warnings.simplefilter("ignore")
        inject_adapter_in_model(config, module, adapter_name=added)


def split_factor(name: str) -> tuple[str, str] | None:
    """The layer that a factor belongs to, and which of "A" and "B" it is; None for other tensors.

    Examples
    --------
    >>> split_factor("layer.0.query.lora_A.added_0.weight")
    ('layer.0.query', 'A')
    >>> split_factor("layer.0.query.weight")
    """
    place = place_of(name)
    host, _, which = ("" if place is None else place.host).rpartition(".lora_")
    return (host, which) if which in ("A", "B") and host else None


def low_rank_change(layer: nn.Module, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """What the factors add to a layer's weight, float32 and in its shape."""
    product = scale * (b.float().flatten(1) @ a.float().flatten(1))
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return (product.T if isinstance(layer, Conv1D) else product).reshape(weight.shape)


def distance(factors: Mapping[str, Tensor], scale: float) -> Tensor:
    """Squared Frobenius distance of the changed weights from those before, summed over layers.

    Of B A it is the trace of (B' B) (A A'), so that no product of a weight's size is made.
    """
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, value in factors.items():
        found = split_factor(name)
        if found is not None:
            pairs.setdefault(found[0], {})[found[1]] = value.flatten(1)
    squares = [((p["B"].T @ p["B"]) * (p["A"] @ p["A"].T)).sum() for p in pairs.values()]
    return math.pow(scale, 2) * torch.stack(squares).sum()
