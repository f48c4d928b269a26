"""Operations on the words of texts: dropped, swapped, or replaced by synonyms.

Words are separated by spaces; a text that has words keeps at least one. For languages that write without spaces, use
the operations on tokens.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

from skembed.augment.operation import SampleOperation, check_number

__all__ = ["SynonymReplacement", "WordDropout", "WordSwap"]

_GAP = re.compile(r"(\s+)")
_WORD = re.compile(r"(\W*)(.*?)(\W*)", re.DOTALL)


@dataclass(frozen=True, repr=False, kw_only=True)
class TextOperation(SampleOperation):
    """An operation on the words of a text."""

    modality: ClassVar[str] = "text"


@dataclass(frozen=True, repr=False, kw_only=True)
class WordDropout(TextOperation):
    """Leave out words [1]_ [2]_, with the space before them.

    Parameters
    ----------
    rate : float, default=0.1
        Probability to leave out each word, from 0 to 0.9. At least one word stays.
    probability : float, default=1.0
        Share of the texts that are changed.

    References
    ----------
    .. [1] Iyyer et al. (2015), Deep Unordered Composition Rivals Syntactic Methods for Text Classification.
    .. [2] Wei & Zou (2019), EDA: Easy Data Augmentation Techniques for Boosting Performance on Text Classification.

    Examples
    --------
    >>> import numpy as np
    >>> WordDropout(rate=0.5).on_sample("the invoice is overdue", np.random.default_rng(4))
    'the invoice overdue'
    """

    name: ClassVar[str] = "word_dropout"
    rate: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        check_number(self, "rate", 0, 0.9)

    def _change(self, value: str, rng, sampling_rate):
        words, gaps = _split(value)
        if len(words) < 2:
            return value
        keep = rng.random(len(words)) >= self.rate
        if keep.all():
            return value
        if not keep.any():
            keep[rng.integers(len(words))] = True
        kept = [gap + word for gap, word, stays in zip(["", *gaps], words, keep, strict=True) if stays]
        return "".join(kept).strip()


@dataclass(frozen=True, repr=False, kw_only=True)
class WordSwap(TextOperation):
    """Swap words [1]_, by default with near ones [2]_.

    Parameters
    ----------
    rate : float, default=0.1
        Mean number of swaps divided by the number of words, from 0 to 1.
    distance : int or None, default=3
        Largest distance between two swapped words, 1 or more; None for any.
    probability : float, default=1.0
        Share of the texts that are changed.

    References
    ----------
    .. [1] Wei & Zou (2019), EDA: Easy Data Augmentation Techniques for Boosting Performance on Text Classification.
    .. [2] Lample et al. (2018), Unsupervised Machine Translation Using Monolingual Corpora Only.

    Examples
    --------
    >>> import numpy as np
    >>> WordSwap(rate=0.5).on_sample("the invoice is overdue", np.random.default_rng(0))
    'invoice the is overdue'
    """

    name: ClassVar[str] = "word_swap"
    rate: float = 0.1
    distance: int | None = 3

    def __post_init__(self):
        super().__post_init__()
        check_number(self, "rate", 0, 1)
        if self.distance is not None:
            check_number(self, "distance", 1, 10**6, whole=True)

    def _change(self, value: str, rng, sampling_rate):
        words, gaps = _split(value)
        n_swaps = rng.binomial(len(words), self.rate)
        if len(words) < 2 or not n_swaps:
            return value
        reach = len(words) if self.distance is None else int(self.distance)
        for _ in range(n_swaps):
            first = int(rng.integers(len(words)))
            second = int(rng.integers(max(0, first - reach), min(len(words) - 1, first + reach)))
            second += second >= first  # every place in reach but the word's own
            words[first], words[second] = words[second], words[first]
        return "".join(gap + word for gap, word in zip(["", *gaps], words, strict=True))


@dataclass(frozen=True, repr=False, kw_only=True)
class SynonymReplacement(TextOperation):
    """Replace words by synonyms [1]_ [2]_, with the same capitals and punctuation.

    Parameters
    ----------
    synonyms : "wordnet", mapping or callable, default="wordnet"
        Source of synonyms. A mapping has a list of synonyms for each word in lower case. A callable takes a word in
        lower case and returns its synonyms; it must be a module-level function to be pickled. "wordnet" is for English:
        it uses the most frequent sense that has synonyms, for uninflected words only. It needs NLTK and its WordNet,
        which skembed does not install or download: ``pip install nltk``, then ``python -m nltk.downloader wordnet``.
    rate : float, default=0.1
        Probability to replace each word that has synonyms, from 0 to 1.
    probability : float, default=1.0
        Share of the texts that are changed.

    References
    ----------
    .. [1] Zhang, Zhao & LeCun (2015), Character-level Convolutional Networks for Text Classification.
    .. [2] Wei & Zou (2019), EDA: Easy Data Augmentation Techniques for Boosting Performance on Text Classification.

    Examples
    --------
    >>> import numpy as np
    >>> replacement = SynonymReplacement(synonyms={"invoice": ["bill", "statement"]}, rate=1.0)
    >>> replacement.on_sample("Invoice (overdue)", np.random.default_rng(1))
    'Statement (overdue)'
    """

    name: ClassVar[str] = "synonym_replacement"
    # Without it in the hash, since mappings have none; equal operations still have equal hashes.
    synonyms: str | Mapping[str, Iterable[str]] | Callable[[str], Iterable[str]] = field(default="wordnet", hash=False)
    rate: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        check_number(self, "rate", 0, 1)
        if self.synonyms != "wordnet" and not isinstance(self.synonyms, Mapping) and not callable(self.synonyms):
            raise ValueError(
                f"{self.name}: synonyms={self.synonyms!r} is not a source of synonyms. Use 'wordnet', a mapping such "
                "as {'invoice': ['bill', 'statement']}, or a function of a word."
            )

    def require(self) -> None:
        if self.synonyms == "wordnet":
            _wordnet("word")

    def describe(self) -> str:
        if isinstance(self.synonyms, Mapping):
            return f"{self.name}(synonyms of {len(self.synonyms)} words, rate={self.rate})"
        return super().describe()

    def _change(self, value: str, rng, sampling_rate):
        words, gaps = _split(value)
        chosen = rng.random(len(words)) < self.rate
        changed = [self._replace(word, rng) if hit else word for word, hit in zip(words, chosen, strict=True)]
        if changed == words:
            return value
        return "".join(gap + word for gap, word in zip(["", *gaps], changed, strict=True))

    def _replace(self, word: str, rng) -> str:
        before, core, after = _WORD.fullmatch(word).groups()  # type: ignore[union-attr]
        candidates = self._find(core.lower()) if core else []
        return before + _like(candidates[rng.integers(len(candidates))], core) + after if candidates else word

    def _find(self, word: str) -> list[str]:
        if isinstance(self.synonyms, Mapping):
            found = self.synonyms.get(word, ())
        elif isinstance(self.synonyms, str):
            found = _wordnet(word)
        else:
            found = self.synonyms(word)
        if isinstance(found, str):
            found = [found]
        # Sets come in an order that changes from process to process.
        found = sorted(found) if isinstance(found, (set, frozenset)) else found or ()
        return [synonym for synonym in found if synonym.strip() and synonym != word]


def _split(text: str) -> tuple[list[str], list[str]]:
    """Return the words of a text and the spaces between them; no words if there are only spaces.

    Examples
    --------
    >>> _split(" a b\\n c")
    (['a', 'b', 'c'], [' ', '\\n '])
    """
    parts = _GAP.split(text.strip())
    return ([], []) if parts == [""] else (parts[0::2], parts[1::2])


def _like(synonym: str, word: str) -> str:
    """Return a synonym in the capitals of the word that it replaces."""
    if len(word) > 1 and word.isupper():
        return synonym.upper()
    return synonym[:1].upper() + synonym[1:] if word[:1].isupper() else synonym


#: NLTK's reader of WordNet seeks in files that all threads share.
_WORDNET_LOCK = threading.Lock()
#: Smallest number of letters of words that are looked up in WordNet.
_SHORTEST = 3


@lru_cache(maxsize=2**16)
def _wordnet(word: str) -> tuple[str, ...]:
    """Return the other lemmas of the most frequent sense that has some.

    Rare senses make nonsense ("pregnant" for "large"), and so do those of the shortest words ("angstrom" for "a"). For
    inflected forms ("was"), WordNet has the lemma only, which does not fit into the sentence. These words stay.
    """
    try:
        with _WORDNET_LOCK:
            from nltk.corpus import wordnet

            senses = [[name.replace("_", " ") for name in sense.lemma_names()] for sense in wordnet.synsets(word)]
    # NLTK raises LookupError where its data are missing, OSError where half of them are.
    except (ImportError, LookupError, OSError) as error:
        raise ImportError(
            "synonym_replacement: synonyms='wordnet' needs NLTK and its WordNet, which are not here. "
            "Run `pip install nltk` and `python -m nltk.downloader wordnet`, or give synonyms= of your own: a mapping "
            "such as {'invoice': ['bill', 'statement']}, or a function of a word."
        ) from error
    if len(word) < _SHORTEST:
        return ()
    others = ([name for name in names if name.lower() != word] for names in senses if word in map(str.lower, names))
    return tuple(next(filter(None, others), ()))
