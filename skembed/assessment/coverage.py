"""Share of words that a tokenizer does not know: a sign of distance from the pre-training data."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["broken_share", "words_of"]

#: Pattern of words, letters only: all tokenizers split numbers and signs.
_WORD = re.compile(r"[^\W\d_]{2,40}")
#: A word of at least this number of pieces counts as unknown.
_MIN_PIECES_OF_UNKNOWN = 4
#: Number of different words that are checked, the most frequent first.
_MAX_WORDS = 2000


def words_of(texts: Iterable[str]) -> Counter[str]:
    """Count words; scripts without spaces have none and are left out.

    Examples
    --------
    >>> sorted(words_of(["The cat, the hat 42", "東京は晴れ"]))
    ['The', 'cat', 'hat', 'the']
    """
    found = Counter(word for text in texts for word in _WORD.findall(text))
    return Counter({word: n for word, n in found.items() if not any(map(_is_wide, word))})


def _is_wide(letter: str) -> bool:
    return unicodedata.east_asian_width(letter) in "WF" or unicodedata.name(letter, "").startswith(("THAI", "KHMER"))


def broken_share(texts: Iterable[str], backbone: Any, options: Any) -> float:
    """Return the share of words that the tokenizer splits into four pieces or more, or does not know.

    Parameters
    ----------
    texts : iterable of str
    backbone : Backbone
        Backbone for texts.
    options : TextOptions
        Preparation of texts.

    Returns
    -------
    float
        From 0 to 1, weighted by the frequency of the words; NaN if the texts have no words.
    """
    counted = words_of(texts).most_common(_MAX_WORDS)
    if not counted:
        return float("nan")
    words, times = [word for word, _ in counted], np.array([n for _, n in counted], dtype=np.float64)
    # What is put around every text, special tokens and the prompt, is not the word's. Where that is nothing, no text is
    # one token all the same.
    (empty, *items) = (windows[0] for windows in backbone.preprocess(["", *words], options))
    bare = backbone.tokenizer is not None and not (backbone.prefix or backbone.suffix or options.prompt)
    pieces = np.array([item.length for item in items]) - (0 if bare else empty.length)
    unknown = getattr(backbone.tokenizer, "unk_token_id", None)
    # Some name for unknown words what they put around every text.
    missing = np.array([_count(item, unknown) for item in items]) > _count(empty, unknown)
    broken = (pieces >= _MIN_PIECES_OF_UNKNOWN) | missing
    return float(times @ broken / times.sum())


def _count(item: Any, token: int | None) -> int:
    return 0 if token is None else sum(int((np.asarray(values) == token).sum()) for values in item.data.values())
