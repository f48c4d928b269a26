"""Pooling of the positions of a block to one vector per sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from skembed.backbones.base import Tokens

__all__ = ["combine_layers", "pool"]


def _mean(tokens: Tokens) -> Tensor:
    # A sample without a single real position is a zero vector, not 0/0.
    return tokens.sum() / tokens.content.sum(1, keepdim=True).clamp(min=1)


def _max(tokens: Tokens) -> Tensor:
    values, mask = tokens.values[:, tokens.n_prefix :].float(), tokens.content
    highest = values.masked_fill(~mask.unsqueeze(-1), float("-inf")).amax(1)
    return torch.where(mask.any(1, keepdim=True), highest, torch.zeros_like(highest))


def _last(tokens: Tokens) -> Tensor:
    positions = torch.arange(tokens.mask.shape[1], device=tokens.mask.device)
    return tokens.at((tokens.mask * positions).amax(1)) * tokens.mask.any(1, keepdim=True)


def _cls(tokens: Tokens) -> Tensor:
    # The first position, or the first behind a prompt that is not pooled.
    return tokens.at(tokens.mask.int().argmax(1))


def _pooled(tokens: Tokens) -> Tensor:
    if tokens.pooled is not None:
        return tokens.pooled.float()
    # Only the last block has a summary of its own; below it the nearest thing is the class token or the mean.
    return _cls(tokens) if tokens.n_prefix else _mean(tokens)


#: By the names in `skembed.backbones.spec.POOLINGS`.
_FUNCTIONS = {
    "pooled": _pooled,
    "cls": _cls,
    "mean": _mean,
    "max": _max,
    "mean+max": lambda tokens: torch.cat([_mean(tokens), _max(tokens)], dim=1),
    "last": _last,
}


def pool(tokens: Tokens, pooling: str) -> Tensor:
    """Return one vector per sample.

    Parameters
    ----------
    tokens : Tokens
        Output of a block.
    pooling : str
        One of `skembed.backbones.spec.POOLINGS`. "mean" and "max" run over real positions without class and register
        tokens. "cls" is the first position that is not masked, "last" the last real one, which suits decoders, and
        "pooled" the network's own summary.

    Returns
    -------
    Tensor of shape (batch, width), float32
        With "mean+max", (batch, 2 * width).
    """
    return _FUNCTIONS[pooling](tokens)


def combine_layers(vectors: Sequence[Tensor], *, attention: bool) -> Tensor:
    """Join the pooled vectors of several layers.

    Parameters
    ----------
    vectors : sequence of Tensor of shape (batch, width)
        Pooled vectors of each layer.
    attention : bool
        False concatenates them. True averages them with weights from scaled dot-product attention [1]_, whose query is
        the last vector, and whose keys and values are all of them: layers that agree with the last one weigh more.
        Attention has no parameters here, and nothing is trained.

    References
    ----------
    .. [1] Vaswani et al. (2017), Attention Is All You Need, equation 1.
    """
    if not attention:
        return torch.cat(list(vectors), dim=1)
    widths = [vector.shape[1] for vector in vectors]
    if len(set(widths)) > 1:
        raise ValueError(
            f'pooling="layer_attention" needs layers of one width; these have {widths} features. '
            "Choose layers of equal width, or another pooling, which concatenates them."
        )
    stacked = torch.stack(list(vectors), dim=1)
    scores = (stacked @ stacked[:, -1:].transpose(1, 2)).squeeze(-1) / stacked.shape[-1] ** 0.5
    return (scores.softmax(dim=1).unsqueeze(-1) * stacked).sum(1)
