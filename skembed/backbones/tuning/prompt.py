"""Prompt: virtual tokens behind each text."""

from __future__ import annotations

from numbers import Integral
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from skembed.backbones.adapters import SoftPrompt, attach_prompt
from skembed.backbones.base import Block
from skembed.backbones.tuning.method import Method
from skembed.backbones.tuning.placing import by_host, require_packable
from skembed.utils.sklearn_private import Interval

__all__ = ["Prompt"]


class Prompt(Method):
    """Train virtual tokens behind each text, and nothing of the network itself [1]_.

    The tokens start as words of the vocabulary, so unlike other methods, training does not start from the function of
    the frozen network. They are read below all blocks, so no activations can be stored. It works with text backbones
    of BERT's kind.

    Parameters
    ----------
    n_tokens : int, default=10
        Number of virtual tokens. More can adapt further, but they count towards the embedder's `max_length`.

    References
    ----------
    .. [1] Lester, Al-Rfou & Constant (2021), The Power of Scale for Parameter-Efficient Prompt Tuning.

    Examples
    --------
    >>> from skembed import FineTuneClassifier, Prompt
    >>> FineTuneClassifier(strategy="full", method=Prompt(n_tokens=20))
    FineTuneClassifier(method=Prompt(n_tokens=20), strategy='full')
    """

    name = "prompt"
    needs_all_blocks = True
    _parameter_constraints: ClassVar[dict[str, Any]] = {"n_tokens": [Interval(Integral, 1, None, closed="left")]}

    def __init__(self, n_tokens=10):
        self.n_tokens = n_tokens

    @property
    def n_positions(self) -> int:
        return int(self.n_tokens)

    def check(self, backbone, blocks, options=None) -> None:
        require_packable(backbone, self.name)
        _require_room(backbone, self.n_positions, options)

    def attach(self, backbone, blocks, key, batch) -> dict[str, Any]:
        require_packable(backbone, self.name)
        words = backbone.module.get_input_embeddings()
        drawn = torch.randint(words.num_embeddings, (self.n_positions,))
        _put(backbone, words, key, words.weight.detach()[drawn.to(words.weight.device)].clone())
        return {"method": self.name}

    @classmethod
    def rebuild(cls, backbone, key, record, tensors) -> None:
        for host, values in by_host(tensors).items():
            words: Any = backbone.module.get_submodule(host)
            _put(backbone, words, key, values["values"].to(words.weight.device, words.weight.dtype))
            getattr(words, key).requires_grad_(False)


def _require_room(backbone: Any, n_tokens: int, options: Any) -> None:
    """Refuse a prompt that takes all tokens that are read."""
    length, room, positions = backbone.length_read(options), backbone.room(options), backbone.n_positions
    if n_tokens < room:
        return
    remedies = [f"n_tokens up to {room - 1}; 10 to 20 are usual"] if room > 1 else []
    if positions is None or length < positions:
        remedies.append("a larger max_length" + ("" if positions is None else f", up to {positions}"))
    raise ValueError(
        f"Prompt(n_tokens={n_tokens}) leaves no room for text: a prompt takes its places of the tokens that are read. "
        f"{backbone.spec.name} reads {length} tokens, {length - room} of them special, which leaves {room} to text and "
        f"prompt. Use {'; or '.join(remedies) or 'another method'}."
    )


def _put(backbone: Any, words: nn.Embedding, key: str, values: Tensor) -> None:
    """Prompts stand last, so that the words of a text keep their positions; they are read and not pooled."""
    first = attach_prompt(words, key, SoftPrompt(values))
    place = next(path for path, module in backbone.module.named_modules() if module is words)
    ids = [*range(first, first + len(values))]
    backbone.suffix, backbone.first_virtual_token = [*backbone.suffix, *ids], words.num_embeddings
    stem, *rest = backbone.blocks
    backbone.blocks = (Block(stem.name, (*stem.prefixes, f"{place}.{key}")), *rest)
