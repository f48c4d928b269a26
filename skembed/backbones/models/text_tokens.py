"""Special tokens of a tokenizer, and the number of tokens that a network reads."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from skembed.exceptions import BackboneNotFoundError

__all__ = ["count_positions", "default_length", "first_within", "leading_part", "special_tokens"]

#: What the networks call their tables of absolute positions. Rotary and relative positions have none.
_POSITION_TABLES = ("position_embeddings", "position_embedding", "embed_positions", "wpe")
#: Tokens read where neither network nor tokenizer names a limit.
_DEFAULT_LENGTH = 512


def special_tokens(tokenizer, directory: Path) -> tuple[list[int], list[int]]:
    """Return what the tokenizer puts before and after a text.

    These first calls also switch off the cutting and padding that some files have on. No later call changes
    anything.
    """
    for probe in ("a", "the", "0", ".", "A"):
        plain, whole = (tokenizer(probe, add_special_tokens=flag, verbose=False)["input_ids"] for flag in (False, True))
        # Without its vocabulary BERT's tokenizer is built all the same, and knows nothing.
        if set(plain) <= {tokenizer.unk_token_id}:
            continue
        for start in range(len(whole) - len(plain) + 1):
            if whole[start : start + len(plain)] == plain:
                return whole[:start], whole[start + len(plain) :]
    raise BackboneNotFoundError(
        f"The tokenizer in {directory} knows no token of plain English, so its vocabulary is probably missing. "
        "Save the one that the network was trained with: tokenizer.save_pretrained(directory)."
    )


def first_within(vocabulary: int, *tokens: int | None) -> int:
    """Return the first of the tokens that a vocabulary of that size has, or 0."""
    # Padding tokens were added to many a decoder's tokenizer without an embedding for them.
    return next((token for token in tokens if token is not None and token < vocabulary), 0)


def count_positions(module: nn.Module) -> int | None:
    """Count the tokens that the table of absolute positions has room for; None without one."""
    for name, table in module.named_modules():
        if name.rpartition(".")[2] in _POSITION_TABLES and isinstance(table, nn.Embedding):
            # RoBERTa and its kin count from behind the padding index on; OPT keeps its offset itself.
            padding = table.padding_idx
            return table.num_embeddings - (getattr(table, "offset", 0) if padding is None else padding + 1)
    return None


def default_length(config, tokenizer, positions: int | None, declared: int | None) -> int:
    """Return the default number of tokens: the smallest limit of network and tokenizer."""
    stated = tokenizer.model_max_length
    known = (
        declared,
        positions,
        # transformers writes 1e30 where nobody said anything.
        stated if stated < 10**6 else None,
        getattr(config, "max_position_embeddings", None),
    )
    return min((int(length) for length in known if length), default=_DEFAULT_LENGTH)


def leading_part(text: str, characters: int) -> str:
    """Return a limited number of leading characters, cut at a space if there is one."""
    if len(text) <= characters:
        return text
    end = text.rfind(" ", 0, characters)
    return text[: end if end > 0 else characters]
