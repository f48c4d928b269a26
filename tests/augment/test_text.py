"""Words: what is kept, how often, and synonyms from where. A text never becomes empty."""

from __future__ import annotations

import sys
from collections import Counter
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skembed.augment import SynonymReplacement, WordDropout, WordSwap, resolve_augmentation
from skembed.augment import text as module
from tests.augment.cases import SYNONYMS, TEXT, sure

RNG = np.random.default_rng
LONG = " ".join(f"w{i}" for i in range(400))


@given(st.text(), st.sampled_from(["word_dropout", "word_swap", "synonym_replacement"]), st.integers(0, 1000))
def test_a_text_with_words_keeps_some_and_one_without_is_left_alone(text, name, seed):
    result = sure(name, **({"rate": 0.9} if name != "synonym_replacement" else {})).on_sample(text, RNG(seed))
    assert isinstance(result, str)
    if text.strip():
        assert result.strip()
    else:
        assert result == text


def test_dropout_leaves_out_a_share_of_the_words_and_keeps_their_order():
    results = [WordDropout(rate=0.3).on_sample(LONG, RNG(seed)).split() for seed in range(20)]
    assert np.mean([len(words) for words in results]) == pytest.approx(280, abs=8)
    for words in results:
        assert words == sorted(words, key=lambda word: int(word[1:]))
        assert len(set(words)) == len(words)
    assert len({word for words in results for word in words}) == 400  # none is always hit


def test_of_all_words_dropped_one_drawn_stays():
    left = Counter(WordDropout(rate=0.9).on_sample("a b c", RNG(seed)) for seed in range(2000))
    assert "" not in left
    ones = [left[word] for word in "abc"]
    assert min(ones) > 0.8 * max(ones)
    assert WordDropout(rate=0.9).on_sample("alone", RNG(0)) == "alone"


def test_spaces_around_kept_words_stay():
    text = "a\n\nb\tc  d"
    assert {WordDropout(rate=0.5).on_sample(text, RNG(seed)) for seed in range(400)} >= {
        "a\n\nb\tc  d", "b\tc  d", "a\tc  d", "a\n\nb  d", "a\n\nb\tc", "a  d",
    }  # fmt: skip
    swapped = WordSwap(rate=0.9).on_sample(text, RNG(3))
    assert [gap for gap in ("\n\n", "\t", "  ") if gap in swapped] == ["\n\n", "\t", "  "]
    assert SynonymReplacement(synonyms={"b": ["x"]}, rate=1).on_sample(text, RNG(0)) == "a\n\nx\tc  d"


def test_swaps_keep_every_word_and_count_as_asked():
    results = [WordSwap(rate=0.05, distance=None).on_sample(LONG, RNG(seed)).split() for seed in range(40)]
    assert all(Counter(words) == Counter(LONG.split()) for words in results)
    moved = [sum(a != b for a, b in zip(words, LONG.split(), strict=True)) for words in results]
    assert np.mean(moved) == pytest.approx(2 * 0.05 * 400, rel=0.12)  # each of 20 swaps moves two, few of them twice


@pytest.mark.parametrize(("distance", "furthest"), [(1, 1), (3, 3), (None, 300)])
def test_swaps_go_as_far_as_asked_and_no_further(distance, furthest):
    seen = set()
    for seed in range(300):
        words = WordSwap(rate=0.002, distance=distance).on_sample(LONG, RNG(seed)).split()
        moved = [i for i, word in enumerate(words) if word != f"w{i}"]
        if len(moved) == 2:  # one swap and no other
            seen.add(moved[1] - moved[0])
    assert 0 not in seen
    assert min(seen) <= 20
    assert max(seen) == furthest if distance else max(seen) > furthest


def test_a_swap_always_takes_two_words():
    """At both ends of a text, too, nothing is swapped with itself."""
    operation = WordSwap(rate=1)  # as many swaps as words
    assert {operation.on_sample("a b", RNG(seed)) for seed in range(20)} == {"a b"}  # there and back
    three_swaps = {operation.on_sample("a b c", RNG(seed)) for seed in range(50)}
    assert three_swaps == {"b a c", "a c b", "c b a"}  # the odd permutations


def test_synonyms_from_a_mapping_keep_capitals_and_punctuation():
    everything = SynonymReplacement(synonyms=SYNONYMS, rate=1)
    results = {everything.on_sample("Quick! (the OLD dog's river) quicker dog", RNG(seed)) for seed in range(60)}
    words = {word for result in results for word in result.split()}
    assert words == {
        "Fast!", "Swift!", "(the", "AGED", "ANCIENT", "dog's", "stream)", "brook)", "quicker", "hound",
    }  # fmt: skip


def test_synonyms_from_a_function_and_at_a_rate():
    asked = []

    def double(word):
        asked.append(word)
        return [word + word]

    results = [SynonymReplacement(synonyms=double, rate=0.3).on_sample(LONG, RNG(seed)).split() for seed in range(20)]
    replaced = np.mean([[word != f"w{i}" for i, word in enumerate(words)] for words in results])
    assert replaced == pytest.approx(0.3, abs=0.02)
    assert SynonymReplacement(synonyms=double, rate=1).on_sample("Ab", RNG(0)) == "Abab"
    assert asked[-1] == "ab"


def test_empty_synonyms_are_none_and_a_single_string_is_one():
    synonyms = {"a": ["", " "], "b": [], "c": "cat", "d": ["d"], "e": None}
    assert SynonymReplacement(synonyms=synonyms, rate=1).on_sample("a b c d e", RNG(0)) == "a b cat d e"


def test_sets_of_synonyms_have_an_order():
    ordered = SynonymReplacement(synonyms={"x": sorted("fedcba")}, rate=1)
    unordered = SynonymReplacement(synonyms={"x": set("fedcba")}, rate=1)
    assert all(ordered.on_sample("x", RNG(seed)) == unordered.on_sample("x", RNG(seed)) for seed in range(20))


class _Sense:
    def __init__(self, *names):
        self.names = names

    def lemma_names(self):
        return self.names


@pytest.fixture
def nltk(monkeypatch):
    """An `nltk` with a WordNet of a few words; `fails` makes it behave as without its data."""
    senses = {
        "large": [_Sense("large"), _Sense("large", "big", "very_big"), _Sense("large", "pregnant")],
        "was": [_Sense("be", "exist")],
        "big": [_Sense("Big", "large")],
        "a": [_Sense("a", "angstrom")],
    }
    state = SimpleNamespace(fails=None)

    def synsets(word):
        if state.fails:
            raise state.fails
        return senses.get(word, [])

    corpus = ModuleType("nltk.corpus")
    corpus.wordnet = SimpleNamespace(synsets=synsets)
    monkeypatch.setitem(sys.modules, "nltk", ModuleType("nltk"))
    monkeypatch.setitem(sys.modules, "nltk.corpus", corpus)
    module._wordnet.cache_clear()
    yield state
    module._wordnet.cache_clear()


def test_wordnet_gives_the_first_sense_that_has_synonyms(nltk):
    operation = resolve_augmentation(("synonym_replacement", {"rate": 1}), "text")
    seen = {operation.on_sample("a Large dog was big", RNG(seed)) for seed in range(30)}
    assert seen == {"a Big dog was large", "a Very big dog was large"}


@pytest.mark.parametrize("failure", [LookupError("Resource wordnet not found"), OSError("No such file: lexnames")])
def test_wordnet_without_its_data_says_how_to_get_them(nltk, failure):
    nltk.fails = failure
    with pytest.raises(ImportError, match=r"python -m nltk\.downloader wordnet") as caught:
        resolve_augmentation("synonym_replacement", "text")
    assert caught.value.__cause__ is failure
    nltk.fails = None  # installed meanwhile: the failure was not remembered
    assert resolve_augmentation("synonym_replacement", "text")


def test_without_nltk_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk", None)
    monkeypatch.setitem(sys.modules, "nltk.corpus", None)
    module._wordnet.cache_clear()
    with pytest.raises(ImportError, match=r"pip install nltk.*or give synonyms= of your own: a mapping") as caught:
        resolve_augmentation("synonym_replacement", "text")
    assert "synonym_replacement" in str(caught.value)
    # With a source of the user's own nothing is missing.
    assert resolve_augmentation(("synonym_replacement", {"synonyms": SYNONYMS}), "text").on_sample(TEXT, RNG(0))


@pytest.mark.parametrize("name", ["word_dropout", "word_swap", "synonym_replacement"])
def test_the_probability_is_respected(name):
    touched = [sure(name, probability=0.3).on_sample(TEXT, RNG(seed)) != TEXT for seed in range(600)]
    assert np.mean(touched) == pytest.approx(0.3, abs=0.06)
