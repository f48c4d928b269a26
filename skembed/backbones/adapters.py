"""Modules to put into a network: bottleneck adapters, gated prefixes, soft prompts.

Each is a child of the module that it acts on, under a name of its own, so that it is copied, moved, stored and counted
with it. None needs a method to be replaced: hooks and transformers' attention interface do the calling.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from skembed.backbones.blocks import first_tensor, is_passed_over

__all__ = [
    "Bottleneck",
    "GatedPrefix",
    "PromptedEmbedding",
    "SoftPrompt",
    "adapted",
    "attach_bottleneck",
    "attach_prompt",
    "prefixed",
]


class Bottleneck(nn.Module):
    """Bottleneck adapter h + up(gelu(down(h))) at every position [1]_, [2]_.

    `up` is zero at first, so that the network begins unchanged.

    Parameters
    ----------
    width, inner : int
        Features, and features of the bottleneck.
    maps : bool
        For maps of shape (batch, width, height, width), as 1x1 convolutions; else features come last.

    References
    ----------
    .. [1] Houlsby et al. (2019), Parameter-Efficient Transfer Learning for NLP.
    .. [2] Pfeiffer et al. (2020), AdapterFusion: one adapter a layer, behind all of it.
    """

    def __init__(self, width: int, inner: int, *, maps: bool):
        super().__init__()
        make: Any = partial(nn.Conv2d, kernel_size=1) if maps else nn.Linear
        self.down, self.up = make(width, inner), make(inner, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.up(gelu(self.down(hidden)))


def attach_bottleneck(layer: nn.Module, name: str, adapter: Bottleneck) -> None:
    """Add an adapter of a layer's output, behind those that the layer has."""
    if not any(isinstance(child, Bottleneck) for child in layer.children()):
        layer.register_forward_hook(_adapt)
    layer.add_module(name, adapter)


def adapted(layer: nn.Module, hidden: Tensor) -> Tensor:
    """Return a layer's output after its adapters, for callers that run the layer themselves."""
    for child in layer.children():
        if isinstance(child, Bottleneck):
            hidden = child(hidden)
    return hidden


def _adapt(layer: nn.Module, _args: Any, output: Any) -> Any:
    if is_passed_over(layer):
        return output  # what is handed on here has been adapted before it was stored
    changed = adapted(layer, first_tensor(output))
    return type(output)((changed, *output[1:])) if isinstance(output, (tuple, list)) else changed


class GatedPrefix(nn.Module):
    """Keys and values that every position attends to, through a gate that begins closed.

    Prefix tuning [1]_ puts its keys among the text's, in one softmax; that is an interpolation between attention to the
    text and attention to the prefix [2]_. Here the two are added, the second times a gate per head, as in [3]_: the
    network begins unchanged, which a key in the one softmax never leaves it, and what a position sees of the prefix
    depends on that position alone, not on how texts were padded or packed.

    Parameters
    ----------
    heads, n_tokens, width : int
        Heads of the attention, keys of the prefix, features of a head.

    References
    ----------
    .. [1] Li & Liang (2021), Prefix-Tuning: Optimizing Continuous Prompts for Generation.
    .. [2] He et al. (2022), Towards a Unified View of Parameter-Efficient Transfer Learning, section 3.
    .. [3] Zhang et al. (2023), LLaMA-Adapter: Efficient Fine-tuning of Language Models with Zero-init Attention.
    """

    def __init__(self, heads: int, n_tokens: int, width: int):
        super().__init__()
        self.keys = nn.Parameter(torch.randn(heads, n_tokens, width) / width**0.5)
        self.values = nn.Parameter(torch.randn(heads, n_tokens, width) / width**0.5)
        self.gate = nn.Parameter(torch.zeros(heads))

    def forward(self, query: Tensor, scaling: float | None) -> Tensor:
        """Attend to the prefix: (batch, heads, time, width) to (batch, time, heads, width)."""
        keys, values = (held.expand(len(query), *held.shape) for held in (self.keys, self.values))
        seen = scaled_dot_product_attention(query, keys, values, scale=scaling)
        return seen.transpose(1, 2) * self.gate.unsqueeze(1)


def prefixed(attention: nn.Module, query: Tensor, attended: Tensor, scaling: float | None) -> Tensor:
    """Return the output of an attention module with that of its prefixes added."""
    for child in attention.children():
        if isinstance(child, GatedPrefix):
            attended = attended + child(query, scaling)
    return attended


class SoftPrompt(nn.Module):
    """Trained vectors that take the place of words [1]_.

    Parameters
    ----------
    values : Tensor of shape (n_tokens, width)
        Values to begin with.

    References
    ----------
    .. [1] Lester, Al-Rfou & Constant (2021), The Power of Scale for Parameter-Efficient Prompt Tuning.
    """

    def __init__(self, values: Tensor):
        super().__init__()
        self.values = nn.Parameter(values)


class PromptedEmbedding(nn.Embedding):
    """Table of words followed by prompts, whose ids begin behind the vocabulary."""

    def forward(self, ids: Tensor) -> Tensor:  # type: ignore[override]
        virtual = ids >= self.num_embeddings
        words = super().forward(ids.masked_fill(virtual, 0))
        prompts = torch.cat([child.values for child in self.children() if isinstance(child, SoftPrompt)])
        own = prompts[(ids - self.num_embeddings).clamp(min=0)]
        return torch.where(virtual.unsqueeze(-1), own, words)


def attach_prompt(words: nn.Embedding, name: str, prompt: SoftPrompt) -> int:
    """Put a prompt behind a table of words, and return the first of its ids."""
    held = sum(len(child.values) for child in words.children() if isinstance(child, SoftPrompt))
    # The table stays the module that it is, so that its weight keeps its name and everyone who holds it sees it.
    words.__class__ = PromptedEmbedding
    words.add_module(name, prompt)
    return words.num_embeddings + held
