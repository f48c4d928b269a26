"""Operations on the tokens of texts: masked or left out, in any language; special tokens stay."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from skembed.augment.operation import Operation, check_number

if TYPE_CHECKING:
    from skembed.backbones.base import Backbone, Item

__all__ = ["TokenDropout", "TokenMasking"]


@dataclass(frozen=True, repr=False, kw_only=True)
class TokenOperation(Operation):
    """Operation on the plain tokens of an item: not special ones, and of a prompt only if pooled.

    Parameters
    ----------
    rate : float, default=0.1
        Probability to change each plain token, from 0 to 0.9. At least one token stays.
    """

    modality: ClassVar[str] = "text"
    rate: float = 0.1

    def __post_init__(self):
        check_number(self, "rate", 0, 0.9)

    def _hit(self, item: Item, rng: np.random.Generator, backbone: Backbone) -> np.ndarray:
        """Draw the positions of the tokens to change."""
        plain = np.flatnonzero(self._plain(item, backbone))
        hit = rng.random(len(plain)) < self.rate
        if len(plain) and hit.all():
            hit[rng.integers(len(plain))] = False
        return plain[hit]

    def _plain(self, item: Item, backbone: Backbone) -> np.ndarray:
        """Return for each token whether it is part of the text itself."""
        if "ids" not in item.data:
            raise ValueError(
                f"{self.name} changes tokens, and {backbone.spec.name} makes no item.data['ids']. "
                "Use word_dropout, or another operation on words."
            )
        # Wherever they stand: those around a text, those that somebody wrote into one, and the end of text that stands
        # for an empty one.
        plain = ~np.isin(item.data["ids"], _special(backbone))
        # A prompt that is not pooled is counted from the start, so none of its tokens may go.
        plain[: item.data.get("unpooled", 0)] = False
        return plain


@dataclass(frozen=True, repr=False, kw_only=True)
class TokenMasking(TokenOperation):
    """Replace tokens by the tokenizer's mask token [1]_; the length stays.

    For tokenizers without a mask token, such as T5's, the token for unknown words is used. In GPT-2 and CLIP this token
    also ends the text, so the operation raises an error with them; use `token_dropout` instead.

    Parameters
    ----------
    rate : float, default=0.1
        Probability to mask each plain token, from 0 to 0.9. At least one token stays.

    References
    ----------
    .. [1] Devlin et al. (2019), BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding.

    Examples
    --------
    >>> TokenMasking(rate=0.15)
    TokenMasking(rate=0.15)
    """

    name: ClassVar[str] = "token_masking"

    def on_item(self, item, rng, backbone) -> Item:
        hit, mask = self._hit(item, rng, backbone), _mask_token(backbone)
        if not len(hit):
            return item
        ids = item.data["ids"].copy()
        ids[hit] = mask
        return replace(item, data={**item.data, "ids": ids})


@dataclass(frozen=True, repr=False, kw_only=True)
class TokenDropout(TokenOperation):
    """Leave out tokens, as `word_dropout` leaves out words [1]_.

    Parameters
    ----------
    rate : float, default=0.1
        Probability to leave out each plain token, from 0 to 0.9. At least one token stays.

    References
    ----------
    .. [1] Iyyer et al. (2015), Deep Unordered Composition Rivals Syntactic Methods for Text Classification.

    Examples
    --------
    >>> TokenDropout(rate=0.2)
    TokenDropout(rate=0.2)
    """

    name: ClassVar[str] = "token_dropout"

    def on_item(self, item, rng, backbone) -> Item:
        hit = self._hit(item, rng, backbone)
        if not len(hit):
            return item
        ids = np.delete(item.data["ids"], hit)
        return replace(item, data={**item.data, "ids": ids}, length=len(ids))


def _special(backbone: Backbone) -> list[int]:
    """Return the special tokens, without that for unknown words if it means nothing else."""
    tokenizer = backbone.tokenizer
    around = {*backbone.prefix, *backbone.suffix}
    if tokenizer is None:
        return sorted(around)
    special = {*tokenizer.all_special_ids, *around}
    return sorted(special - {tokenizer.unk_token_id} if _means_unknown_alone(backbone) else special)


def _means_unknown_alone(backbone: Backbone) -> bool:
    tokenizer = backbone.tokenizer
    others = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    around = (*backbone.prefix, *backbone.suffix)
    return tokenizer.unk_token_id is not None and tokenizer.unk_token_id not in (*others, *around)


def _mask_token(backbone: Backbone) -> int:
    """Return the token that stands for a masked one.

    Raises
    ------
    ValueError
        If the tokenizer has no such token, or the network has no embedding for it.
    """
    tokenizer = backbone.tokenizer
    mask = None if tokenizer is None else tokenizer.mask_token_id
    if mask is None and tokenizer is not None and _means_unknown_alone(backbone):
        mask = tokenizer.unk_token_id
    # Tokens that were added to a tokenizer later may have no embedding.
    if mask is None or mask >= backbone.module.get_input_embeddings().num_embeddings:  # type: ignore[operator]
        raise ValueError(
            f"token_masking: the tokenizer of {backbone.spec.name} has no token that masks, nor one for the unknown "
            "alone, that the network has an embedding for. Use token_dropout instead."
        )
    return int(mask)
