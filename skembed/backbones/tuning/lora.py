"""LoRA: low-rank changes of a network's linear maps and convolutions, trained beside them and merged into them."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from skembed.backbones.spec import place_of
from skembed.backbones.tuning.method import Method
from skembed.backbones.tuning.placing import replace_tensor
from skembed.backbones.tuning.targets import check_names, find_targets, hint_at_list
from skembed.utils.sklearn_private import Interval

__all__ = ["LoRA"]


class LoRA(Method):
    """Train low-rank changes of linear maps and convolutions [1]_.

    W x becomes W x + alpha / rank B A x, and B starts at zero, so that training starts from the frozen network.
    Training needs ``pip install "skembed[peft]"``; prediction does not. A fitted estimator stores the factors alone,
    and merges them into the weights when it is loaded.

    Parameters
    ----------
    rank : int, default=8
        Rank of each change, at most the smaller side of the widest layer. A higher rank can adapt further, and needs
        more storage.
    alpha : float, default=16
        Scale of the changes: they are multiplied by ``alpha / rank``.
    dropout : float, default=0
        Share of a layer's inputs that are dropped before the change.
    target_modules : list of str, default=None
        Endings of the names of layers to change, such as ["query", "value"]; None takes every linear map and every
        convolution that is neither grouped nor dilated in the blocks that train.

    References
    ----------
    .. [1] Hu et al. (2021), LoRA: Low-Rank Adaptation of Large Language Models.

    Examples
    --------
    >>> from skembed import FineTuneClassifier, LoRA
    >>> FineTuneClassifier(strategy="full", method=LoRA(rank=4))
    FineTuneClassifier(method=LoRA(rank=4), strategy='full')
    """

    name = "lora"
    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "rank": [Interval(Integral, 1, None, closed="left")],
        "alpha": [Interval(Real, 0, None, closed="neither")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "target_modules": ["array-like", None],
    }

    def __init__(self, rank=8, alpha=16.0, dropout=0.0, target_modules=None):
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.target_modules = target_modules

    def _validate_params(self):
        super()._validate_params()
        check_names(self.target_modules)

    def _hint(self, name, value):
        return hint_at_list(value) if name == "target_modules" else super()._hint(name, value)

    def check(self, backbone, blocks, options=None) -> None:
        _require_peft()
        names = find_targets(backbone.module, blocks, self.target_modules, backbone.spec.name)
        _check_rank(backbone.module, names, self.rank, backbone.spec.name)

    def attach(self, backbone, blocks, key, batch) -> dict[str, Any]:
        _require_peft()
        names = find_targets(backbone.module, blocks, self.target_modules, backbone.spec.name)
        rank, alpha = int(self.rank), float(self.alpha)
        _inject(backbone.module, names, key, rank=rank, alpha=alpha, dropout=float(self.dropout))
        return {"method": self.name, "scale": alpha / rank}

    @classmethod
    def rebuild(cls, backbone, key, record, tensors) -> None:
        # W + scale B A, added in float32: what a linear map computes does not tell how it was trained.
        for host, pair in _pairs(tensors, strict=True).items():
            layer: Any = backbone.module.get_submodule(host)
            change = low_rank_change(layer, pair["A"], pair["B"], record["scale"])
            replace_tensor(backbone.module, f"{host}.weight", layer.weight.float() + change.to(layer.weight.device))

    def distance(self, pairs, record) -> Tensor:
        return _distance({name: value for name, value, _ in pairs}, record["scale"])


def _require_peft() -> None:
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
            "method='lora' trains with peft, which is not installed. Install it with: pip install skembed[peft]"
        ) from error


def _check_rank(module: nn.Module, names: Sequence[str], rank: int, backbone: str) -> None:
    """Refuse a rank that no weight can have: the factors would be larger than what they change.

    Parameters
    ----------
    module : nn.Module
        The network.
    names : sequence of str
        Names of the layers, from `find_targets`.
    rank : int
        See `LoRA`.
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
            f"LoRA(rank={rank}) is more than the rank of any weight that it would change in {backbone}, {largest} at "
            f"most. Use a value up to {largest}, such as 8; or method='weights', which trains whole weights."
        )


def _inject(module: nn.Module, names: Sequence[str], added: str, *, rank: int, alpha: float, dropout: float) -> None:
    """Put low-rank factors beside layers, in place: W x becomes W x + alpha / rank B A x, with B zero [1]_.

    Parameters
    ----------
    module : nn.Module
        The network, whose own tensors stay as they are.
    names : sequence of str
        Names of the layers, from `find_targets`.
    added : str
        Name of this addition.
    rank, alpha, dropout
        See `LoRA`.

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
    """Return the layer of a factor, and "A" or "B"; None for other tensors.

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
    """Return the change that the factors make to a layer's weight, float32 and in its shape."""
    product = scale * (b.float().flatten(1) @ a.float().flatten(1))
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return (product.T if isinstance(layer, Conv1D) else product).reshape(weight.shape)


def _distance(factors: Mapping[str, Tensor], scale: float) -> Tensor:
    """Squared Frobenius distance of the changed weights from those before, summed over layers.

    Of B A it is the trace of (B' B) (A A'), so that no product of a weight's size is made.
    """
    pairs = _pairs(factors)
    squares = [((p["B"].T @ p["B"]) * (p["A"] @ p["A"].T)).sum() for p in pairs.values()]
    return math.pow(scale, 2) * torch.stack(squares).sum()


def _pairs(factors: Mapping[str, Tensor], *, strict: bool = False) -> dict[str, dict[str, Tensor]]:
    """Return the factors "A" and "B", as matrices, by the layer that they change; other tensors are left out."""
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, value in factors.items():
        found = split_factor(name)
        if found is not None:
            pairs.setdefault(found[0], {})[found[1]] = value.flatten(1)
        elif strict:
            raise KeyError(name)
    return pairs
