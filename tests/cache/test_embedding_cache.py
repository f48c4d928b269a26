"""EmbeddingCache: rows in and out, bounds, one cache however often it is copied, settings."""

from __future__ import annotations

import copy
import os
import pickle
import stat
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import joblib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skembed import EmbeddingCache, config_context, get_config, set_config
from skembed.cache import embedding_cache, resolve_cache
from skembed.cache.codec import decode_row, encode_row
from skembed.cache.filesystem import is_network
from skembed.cache.memory import MemoryStore
from skembed.cache.shards import ShardStore
from skembed.cache.sqlite import SqliteStore

KEYS = [bytes([i]) * 20 for i in range(7)]
ROWS = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)


@pytest.fixture(params=["memory", "disk"])
def cache(request, tmp_path):
    return EmbeddingCache(None if request.param == "memory" else tmp_path / "cache")


def test_rows_come_back(cache):
    assert cache.get_many("n", KEYS) == [None] * 7
    cache.put_many("n", KEYS[:5], ROWS[:5])
    cache.put_many("n", KEYS[4:6], ROWS[4:6])  # one of them again
    found = cache.get_many("n", KEYS[::-1])
    assert found[0] is None
    np.testing.assert_array_equal(np.stack(found[1:]), ROWS[5::-1])
    assert cache.get_many("other", KEYS) == [None] * 7
    info = cache.info()
    assert (info.entries, info.hits, info.misses) == (6, 6, 7 + 1 + 7)
    assert info.bytes >= 6 * 5 * 4


def test_many_keys_at_once(cache):
    keys = [i.to_bytes(20, "big") for i in range(1201)]
    rows = np.arange(1201, dtype=np.float32)[:, None]
    cache.put_many("n", keys, rows)
    np.testing.assert_array_equal(np.stack(cache.get_many("n", keys)), rows)


def test_rows_are_copies(cache):
    rows = ROWS.copy()
    cache.put_many("n", KEYS, rows)
    rows[:] = 0
    np.testing.assert_array_equal(np.stack(cache.get_many("n", KEYS)), ROWS)


def test_memory_is_bounded_and_keeps_what_is_used():
    store = MemoryStore(max_bytes=3 * (20 + 250))
    store.put_many(KEYS[:3], ROWS[:3])
    store.get_many(KEYS[:1])
    store.put_many(KEYS[3:4], ROWS[3:4])
    assert [row is not None for row in store.get_many(KEYS[:4])] == [True, False, True, True]
    store.put_many(KEYS[:1] * 50, ROWS[:1].repeat(50, axis=0))
    assert len(store) == 3
    assert store.n_bytes == 3 * 270


def test_a_pruned_disk_keeps_what_was_used_last(tmp_path, monkeypatch):
    cache, now = EmbeddingCache(tmp_path), time.time()
    for age, i in ((10, 0), (5, 1), (1, 2)):
        monkeypatch.setattr(time, "time", lambda age=age: now - age * 86_400)
        cache.put_many("n", KEYS[i : i + 1], ROWS[i : i + 1])
    monkeypatch.setattr(time, "time", lambda: now)
    cache.get_many("n", KEYS[:1])  # the oldest is used again
    assert cache.prune(older_than=timedelta(days=3)) == 1
    assert [row is not None for row in cache.get_many("n", KEYS[:3])] == [True, False, True]
    assert cache.prune(max_bytes=130) == 1
    assert cache.info().entries == 1
    with pytest.raises(ValueError, match="Pass max_bytes"):
        cache.prune()


@given(st.lists(st.floats(width=32), max_size=9), st.binary(max_size=70))
def test_the_codec_gives_back_the_same_bits(values, owner):
    row = np.array(values, dtype=np.float32)
    assert decode_row(encode_row(row, owner), owner).tobytes() == row.tobytes()


@given(st.data())
def test_no_flipped_bit_passes(data):
    stored = bytearray(encode_row(ROWS[0], KEYS[0]))
    bit = data.draw(st.integers(0, 8 * len(stored) - 1))
    stored[bit // 8] ^= 1 << bit % 8
    assert decode_row(bytes(stored), KEYS[0]) is None


@pytest.mark.parametrize("stored", [pickle.dumps(ROWS[0]), b"", b"SKE1", "text", None, 3, encode_row(ROWS[0], b"a")])
def test_what_we_did_not_write_is_not_read(stored):
    assert decode_row(stored, KEYS[0]) is None


def test_copies_are_the_same_cache(tmp_path):
    for cache in (EmbeddingCache(), EmbeddingCache(tmp_path)):
        cache.put_many("n", KEYS, ROWS)
        for same in (copy.copy(cache), copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
            assert same is cache
        assert len(pickle.dumps(cache)) < 500
    assert joblib.hash(EmbeddingCache(tmp_path)) == joblib.hash(EmbeddingCache(tmp_path))


def test_a_pickle_opens_in_another_process(tmp_path):
    cache = EmbeddingCache(tmp_path / "c")
    cache.put_many("n", KEYS, ROWS)
    (tmp_path / "pickle").write_bytes(pickle.dumps((cache, EmbeddingCache())))
    code = (
        f"import pickle; disk, memory = pickle.load(open({str(tmp_path / 'pickle')!r}, 'rb'));"
        "assert disk.info().entries == 7; assert memory.info().entries == 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_only_the_owner_may_look(tmp_path):
    directory = tmp_path / "a" / "b" / "c"
    cache = EmbeddingCache(directory)
    cache.put_many("n", KEYS, ROWS)
    assert {stat.S_IMODE(each.stat().st_mode) for each in (directory, *directory.parents[:2])} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.glob("*.sqlite")} == {0o600}


def test_what_a_parameter_means(tmp_path, monkeypatch):
    assert resolve_cache(None) is None
    assert resolve_cache("memory") is resolve_cache("memory")
    assert resolve_cache("memory").location is None
    assert resolve_cache(tmp_path) is resolve_cache(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert resolve_cache("here/").location == tmp_path / "here"
    assert not (tmp_path / "here").exists(), "a cache that is not used leaves no directory"
    own = EmbeddingCache()
    assert resolve_cache(own) is own


def test_negative_bounds_are_refused():
    with pytest.raises(ValueError, match="max_bytes=-1"):
        EmbeddingCache(max_bytes=-1)


def test_settings(tmp_path, monkeypatch):
    monkeypatch.delenv("SKEMBED_CACHE")
    assert get_config() == {"cache": "memory"}
    monkeypatch.setenv("SKEMBED_CACHE", str(tmp_path))
    assert get_config() == {"cache": str(tmp_path)}
    with config_context(cache=None):
        assert get_config() == {"cache": None}
        assert os.environ["SKEMBED_CACHE"] == "none"
        with config_context():
            assert get_config() == {"cache": None}
    assert get_config() == {"cache": str(tmp_path)}
    with pytest.raises(RuntimeError, match="stop"), config_context(cache="memory"):
        raise RuntimeError("stop")
    assert get_config() == {"cache": str(tmp_path)}
    with pytest.raises(TypeError, match="cache=3 is not a cache"):
        set_config(cache=3)


def test_processes_started_later_know_the_setting(tmp_path):
    code = "import skembed; print(skembed.get_config()['cache'])"
    with config_context(cache=tmp_path / "c"):
        result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    assert result.stdout.strip() == str(tmp_path / "c")


def test_network_filesystems_are_known(tmp_path):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "proc /proc proc rw 0 0\ndisk / ext4 rw 0 0\nhome:/x /home nfs4 rw 0 0\n"
        "scratch /my\\040work lustre rw 0 0\nlocal /home/me/local xfs rw 0 0\nshort\n"
    )
    kinds = {path: is_network(Path(path), mounts) for path in ("/home/me", "/my work/a/b", "/tmp", "/home/me/local/c")}
    assert kinds == {"/home/me": True, "/my work/a/b": True, "/tmp": False, "/home/me/local/c": False}
    assert not is_network(tmp_path, tmp_path / "absent")


def test_the_filesystem_decides_how_rows_are_stored(tmp_path, monkeypatch):
    assert isinstance(EmbeddingCache(tmp_path)._store, SqliteStore)
    monkeypatch.setattr("skembed.cache.embedding_cache.is_network", lambda directory: True)
    cache = EmbeddingCache(tmp_path / "far")
    assert isinstance(cache._store, ShardStore)
    cache.put_many("n", KEYS, ROWS)
    cache.flush()
    np.testing.assert_array_equal(np.stack(EmbeddingCache(tmp_path / "far").get_many("n", KEYS)), ROWS)


# -- what was read of late ------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """Rows that the file on disk was asked for."""
    counts = []
    original = SqliteStore.get_many

    def spying(self, namespace, keys):
        counts.append(len(keys))
        return original(self, namespace, keys)

    monkeypatch.setattr(SqliteStore, "get_many", spying)
    return counts


def test_rows_on_disk_are_read_once_in_a_process(tmp_path, asked):
    EmbeddingCache(tmp_path).put_many("n", KEYS, ROWS)
    cache = EmbeddingCache(tmp_path)
    for _ in range(3):
        assert np.array_equal(cache.get_many("n", KEYS), ROWS)
    assert asked == [len(KEYS)]
    assert cache.get_many("another", KEYS[:1]) == [None]
    # Held twice, they are counted once.
    assert cache.info().entries == len(KEYS)


def test_rows_that_were_just_written_are_not_read(tmp_path, asked):
    cache = EmbeddingCache(tmp_path)
    cache.put_many("n", KEYS[:2], ROWS[:2])
    found = cache.get_many("n", KEYS)
    assert np.array_equal(found[:2], ROWS[:2])
    assert asked == [len(KEYS) - 2]


@pytest.mark.parametrize("forget", ["prune", "verify", "close"])
def test_what_is_gone_from_the_disk_is_forgotten(tmp_path, forget):
    cache = EmbeddingCache(tmp_path, max_bytes=0)
    cache.put_many("n", KEYS, ROWS)
    EmbeddingCache(tmp_path, max_bytes=0).prune()
    getattr(cache, forget)()
    assert cache.get_many("n", KEYS) == [None] * len(KEYS)


def test_little_is_held_of_what_is_on_disk(tmp_path, monkeypatch, asked):
    monkeypatch.setattr(embedding_cache, "_RECENT", 2 * (ROWS[0].nbytes + 250))
    cache = EmbeddingCache(tmp_path)
    cache.put_many("n", KEYS, ROWS)
    assert np.array_equal(cache.get_many("n", KEYS), ROWS)
    assert asked == [len(KEYS) - 2]
