"""What is looked up, what is computed, and what is told, without a network."""

from __future__ import annotations

import numpy as np
import pytest

from skembed import EmbeddingCache
from skembed.exceptions import DecodeError
from skembed.inference.extract import Batch
from skembed.inference.lookup import embed
from skembed.inputs import text_key


class Lengths:
    """Embeds a text as (its length, 1); cannot read "bad", cuts what starts with "long", overflows at "inf"."""

    def __init__(self, fail_at=None):
        self.seen: list[str] = []
        self.fail_at = fail_at

    def __call__(self, samples, *, positions):
        for position, sample in zip(positions, samples, strict=True):
            if sample == self.fail_at:
                raise RuntimeError("killed")
            self.seen.append(sample)
            if sample == "bad":
                yield Batch([], np.empty((0, 2), np.float32), np.zeros(0, bool), [DecodeError("bad").at(position)])
                continue
            rows = np.array([[np.inf if sample == "inf" else len(sample), 1]], dtype=np.float32)
            yield Batch([position], rows, np.array([sample.startswith("long")]), [])


def _embed(texts, compute, **kwargs):
    return embed(texts, compute, key=text_key, n_features=2, namespace="n", **kwargs)


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
@pytest.mark.parametrize("cached", [False, True])
def test_equal_samples_are_computed_once(cached, chunk_size):
    texts, compute = ["a", "bb", "a", "ccc", "bb", "a"], Lengths()
    rows = _embed(texts, compute, cache=EmbeddingCache() if cached else None, chunk_size=chunk_size).embeddings
    assert compute.seen == ["a", "bb", "ccc"]
    np.testing.assert_array_equal(rows, [[len(text), 1] for text in texts])


def test_the_second_call_computes_what_is_new():
    cache, compute = EmbeddingCache(), Lengths()
    _embed(["a", "bb"], compute, cache=cache)
    rows = _embed(["ccc", "bb", "a"], compute, cache=cache).embeddings
    assert compute.seen == ["a", "bb", "ccc"]
    np.testing.assert_array_equal(rows[:, 0], [3, 2, 1])
    assert (cache.info().hits, cache.info().misses) == (2, 3)


def test_warnings_are_counted_alike_cold_and_warm():
    cache, texts = EmbeddingCache(), ["long a", "b", "long a", "long c"]
    assert [_embed(texts, Lengths(), cache=cache).n_truncated for _ in range(3)] == [3, 3, 3]


def test_failures_are_never_kept_and_named_at_every_place():
    cache, compute = EmbeddingCache(), Lengths()
    texts = ["a", "bad", "inf", "bad"]
    for _ in range(2):
        result = _embed(texts, compute, cache=cache)
        assert [error.index for error in result.errors] == [1, 3]
        assert np.isnan(result.embeddings[[1, 3]]).all()
        assert np.isinf(result.embeddings[2, 0])
    assert compute.seen == ["a", "bad", "inf", "bad", "inf"]
    assert cache.info().entries == 1


def test_what_was_done_before_a_crash_is_kept():
    cache = EmbeddingCache()
    with pytest.raises(RuntimeError, match="killed"):
        _embed(["a", "bb", "ccc"], Lengths(fail_at="ccc"), cache=cache)
    compute = Lengths()
    _embed(["a", "bb", "ccc"], compute, cache=cache)
    assert compute.seen == ["ccc"]


def test_samples_without_a_key_are_computed_each_time():
    cache, compute = EmbeddingCache(), Lengths()
    for _ in range(2):
        rows = embed(["a", "a"], compute, key=lambda text: None, n_features=2, cache=cache).embeddings
        np.testing.assert_array_equal(rows, [[1, 1], [1, 1]])
    assert compute.seen == ["a"] * 4
    assert cache.info().entries == 0


def test_rows_of_another_width_are_not_taken():
    cache, compute = EmbeddingCache(), Lengths()
    cache.put_many("n", [text_key("a")], np.zeros((1, 9), dtype=np.float32))
    np.testing.assert_array_equal(_embed(["a"], compute, cache=cache).embeddings, [[1, 1]])


def test_nothing_is_nothing():
    assert _embed([], Lengths()).embeddings.shape == (0, 2)


def test_progress_counts_hits_duplicates_and_errors(capsys, monkeypatch):
    monkeypatch.setattr("skembed.utils.progress.DELAY", 0.0)
    cache = EmbeddingCache()
    _embed(["a"], Lengths(), cache=cache)
    _embed(["a", "bb", "bb", "bad", "bad"], Lengths(), cache=cache, progress="Embedding")
    assert "5/5" in capsys.readouterr().err
