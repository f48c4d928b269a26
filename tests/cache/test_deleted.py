"""Caches whose files are deleted under them, empty locations, many caches at once, and clearing."""

from __future__ import annotations

import os
import shutil
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from skembed import EmbeddingCache, FineTuneClassifier, TextEmbedder, config_context, get_config, set_config
from skembed.cache import embedding_cache
from skembed.cache.open_files import MAX_OPEN
from skembed.cache.shards import ShardStore
from skembed.exceptions import CacheWarning
from skembed.testing import ArrayEmbedder

KEYS = [bytes([i]) * 20 for i in range(7)]
ROWS = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)


@pytest.fixture(params=["sqlite", "shards"])
def cache(request, tmp_path, monkeypatch):
    if request.param == "shards":
        monkeypatch.setattr(embedding_cache, "_open_store", ShardStore)
    return EmbeddingCache(tmp_path / "cache")


def _fill(cache, keys=KEYS, rows=ROWS):
    cache.put_many("n", keys, rows)
    cache.flush()


def test_a_deleted_directory_is_noticed_and_begun_anew(cache):
    _fill(cache, KEYS[:3], ROWS[:3])
    shutil.rmtree(cache.location)
    with pytest.warns(CacheWarning, match="was deleted or replaced"):
        assert cache.get_many("n", KEYS[:3]) == [None] * 3
    _fill(cache)
    np.testing.assert_array_equal(EmbeddingCache(cache.location).get_many("n", KEYS), ROWS)


def test_rows_written_after_the_deletion_are_on_disk(cache):
    _fill(cache, KEYS[:3], ROWS[:3])
    shutil.rmtree(cache.location)
    with pytest.warns(CacheWarning, match="was deleted or replaced"):
        _fill(cache, KEYS[3:], ROWS[3:])
    assert cache.info().entries == 4
    assert list(cache.location.iterdir())


def test_a_second_deletion_is_not_warned_of(cache):
    _fill(cache)
    shutil.rmtree(cache.location)
    with pytest.warns(CacheWarning):
        cache.get_many("n", KEYS)
    _fill(cache)
    shutil.rmtree(cache.location)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache.get_many("n", KEYS) == [None] * 7


def test_a_file_that_was_replaced_is_read_anew(tmp_path):
    cache, other = EmbeddingCache(tmp_path / "cache"), EmbeddingCache(tmp_path / "other")
    _fill(cache, KEYS[:3], ROWS[:3])
    _fill(other, KEYS[3:], ROWS[3:])
    cache.get_many("n", KEYS)
    other.close()
    for path in cache.location.iterdir():
        path.unlink()
    for path in other.location.iterdir():
        shutil.copy(path, cache.location)
    with pytest.warns(CacheWarning, match="replaced"):
        assert [row is not None for row in cache.get_many("n", KEYS)] == [False] * 3 + [True] * 4


def test_an_embedder_goes_on_after_its_cache_was_deleted(tmp_path):
    X = np.eye(4, dtype=np.float32)
    embedder = ArrayEmbedder(cache=tmp_path / "cache").fit(X)
    expected = embedder.transform(X)
    shutil.rmtree(tmp_path / "cache")
    with pytest.warns(CacheWarning, match="was deleted"):
        np.testing.assert_array_equal(embedder.transform(X), expected)
    assert EmbeddingCache(tmp_path / "cache").info().entries == 4


@pytest.mark.parametrize("location", ["", "  "])
def test_an_empty_location_is_an_error(location, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"location=.* is an empty path"):
        EmbeddingCache(location)
    with pytest.raises(ValueError, match=r"cache=.* is an empty path"):
        set_config(cache=location)
    with pytest.raises(ValueError, match=r"cache=.* is an empty path"):
        ArrayEmbedder(cache=location).fit(np.eye(3, dtype=np.float32))
    with pytest.raises(ValueError, match=r"checkpoint_dir=.* is an empty path"):
        FineTuneClassifier(ArrayEmbedder(), checkpoint_dir=location).fit(np.eye(4, dtype=np.float32), [0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"backbone=.* is an empty path"):
        TextEmbedder(location).fit(["a"])
    assert not list(tmp_path.iterdir())


def test_an_empty_environment_variable_is_as_unset(monkeypatch):
    with config_context():
        monkeypatch.setattr("skembed.config._settings", {})
        monkeypatch.setenv("SKEMBED_CACHE", " ")
        assert get_config() == {"cache": "memory"}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux's list of open files")
def test_many_caches_leave_few_files_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    caches = [EmbeddingCache(tmp_path / str(i)) for i in range(3 * MAX_OPEN)]
    for cache in caches:
        _fill(cache)
    assert len(os.listdir("/proc/self/fd")) <= before + 3 * MAX_OPEN
    # Closed ones open again, and the one used last stayed open.
    for cache in caches:
        np.testing.assert_array_equal(EmbeddingCache(cache.location).get_many("n", KEYS), ROWS)


def test_clear_removes_all_rows(cache):
    _fill(cache)
    cache.put_many("other", KEYS, ROWS)
    assert cache.clear() == 14
    assert cache.info().entries == 0
    assert EmbeddingCache(cache.location).get_many("n", KEYS) == [None] * 7
    assert cache.clear() == 0


def test_clear_empties_memory():
    cache = EmbeddingCache()
    _fill(cache)
    assert cache.clear() == 7
    assert cache.get_many("n", KEYS) == [None] * 7


def test_info_of_another_object_tells_what_is_on_disk(cache):
    assert cache.info().last_used is None
    _fill(cache)
    told = EmbeddingCache(cache.location).info()
    assert (told.entries, told.hits) == (7, 0)
    assert told.bytes > ROWS.nbytes
    assert abs(told.last_used - datetime.now(UTC)) < timedelta(minutes=5)
