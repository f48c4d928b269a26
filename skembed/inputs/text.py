"""Reading one text."""

from __future__ import annotations

from typing import Any

from skembed.exceptions import DecodeError
from skembed.inputs.decode import is_missing

__all__ = ["read_text"]


def read_text(sample: Any) -> str:
    """A text as a str that can be tokenised.

    Parameters
    ----------
    sample : str
        Any text; the empty one is a text too.

    Returns
    -------
    str

    Raises
    ------
    DecodeError
        If it is missing (None, NaN, NA), bytes, another type, or holds lone surrogates.
    """
    if not isinstance(sample, str):
        raise DecodeError(_what_to_do(sample))
    try:
        sample.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DecodeError(
            f"the text has a lone surrogate at position {error.start}, which is no character. "
            'Decode its source with errors="replace".'
        ) from error
    return str(sample)


def _what_to_do(sample: Any) -> str:
    if isinstance(sample, (bytes, bytearray)):
        return 'expected a str, got bytes. Decode them first: sample.decode("utf-8").'
    if is_missing(sample):
        return 'the text is missing. Fill it in, for instance with "", or leave it out.'
    return f"expected a str, got {type(sample).__name__} ({str(sample)[:40]!r}). Convert it with str()."
