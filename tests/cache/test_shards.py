"""ShardStore: whole rows or none, whatever is killed, flipped, cut, pruned or written at the same time."""

from __future__ import annotations

import errno
import os
import signal
import stat
import threading
import time

import numpy as np
import pytest

from skembed.cache.shards import _AHEAD, ShardStore

KEYS = [bytes([i]) * 20 for i in range(9)]
ROWS = np.random.default_rng(0).normal(size=(9, 5)).astype(np.float32)


def write(directory, start, stop, said):
    """Store rows that follow from their keys, so that a reader can tell a wrong one; say what is stored."""
    store = ShardStore(directory)
    for first in range(start, stop, 100):
        numbers = range(first, first + 100)
        keys = [i.to_bytes(20, "big") for i in numbers]
        missing = [i for i, row in zip(numbers, store.get_many("n", keys), strict=True) if row is None]
        store.put_many("n", [i.to_bytes(20, "big") for i in missing], [np.full(50, i, np.float32) for i in missing])
        store.flush()
        print(first, file=said, flush=True)


def _check(directory, numbers):
    """How many rows there are; each of them is right."""
    found = ShardStore(directory).get_many("n", [i.to_bytes(20, "big") for i in numbers])
    for i, row in zip(numbers, found, strict=True):
        assert row is None or (row.shape == (50,) and (row == i).all())
    return sum(row is not None for row in found)


def _shards(directory):
    return sorted(directory.glob("shards/*/*.shard"))


def _filled(directory, keys=KEYS, rows=ROWS, namespace="n"):
    store = ShardStore(directory)
    store.put_many(namespace, keys, rows)
    store.flush()
    return store


def _fail(number):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return fail


def test_rows_come_back(tmp_path):
    store = ShardStore(tmp_path / "cache")
    assert store.get_many("n", KEYS) == [None] * 9
    store.put_many("n", KEYS[:8], ROWS[:8])
    assert not (tmp_path / "cache").exists()
    for reader in (store, store, ShardStore(tmp_path / "cache")):
        found = reader.get_many("n", [*KEYS[::-1], KEYS[3]])
        assert found[0] is None
        np.testing.assert_array_equal(np.stack(found[1:]), np.concatenate([ROWS[7::-1], ROWS[3:4]]))
        assert reader.get_many("other", KEYS) == [None] * 9
        assert reader.count()[0] == 8
        store.close()
    (path,) = _shards(tmp_path / "cache")
    assert store.count() == (8, path.stat().st_size)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(p.stat().st_mode) for p in (path.parent, path.parents[1], path.parents[2])} == {0o700}
    assert os.listdir(path.parent) == [path.name]


def test_directories_above_a_store_are_private_too(tmp_path):
    store = ShardStore(tmp_path / "a" / "cache")
    store.put_many("n", KEYS, ROWS)
    store.flush()
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700


def test_1024_rows_are_a_shard_and_stored_rows_are_not_written_again(tmp_path):
    store, keys = ShardStore(tmp_path), [i.to_bytes(20, "big") for i in range(1024)]
    rows = np.arange(1024, dtype=np.float32)[:, None]
    store.put_many("n", keys[:1023], rows[:1023])
    assert not _shards(tmp_path)
    store.put_many("n", keys, rows)
    assert len(_shards(tmp_path)) == 1
    for again in (store, ShardStore(tmp_path)):
        again.put_many("n", keys, rows)
        again.flush()
    assert len(_shards(tmp_path)) == 1
    np.testing.assert_array_equal(np.stack(ShardStore(tmp_path).get_many("n", keys)), rows)


def test_rows_longer_and_further_apart_than_one_read(tmp_path):
    rows = np.random.default_rng(1).normal(size=(9, _AHEAD // 12)).astype(np.float32)
    _filled(tmp_path, rows=rows)
    for some in (range(9), (0, 8), (7, 2, 5)):
        found = ShardStore(tmp_path).get_many("n", [KEYS[i] for i in some])
        np.testing.assert_array_equal(np.stack(found), rows[list(some)])


def test_shards_of_others_are_found_with_one_listing_a_call(tmp_path, monkeypatch):
    ours, theirs = ShardStore(tmp_path), ShardStore(tmp_path)
    assert ours.get_many("n", KEYS) == [None] * 9
    theirs.put_many("n", KEYS, ROWS)
    theirs.flush()
    listings, listdir = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listings.append(path) or listdir(path))
    np.testing.assert_array_equal(np.stack(ours.get_many("n", KEYS)), ROWS)
    assert len(listings) == 1
    ours.get_many("n", KEYS)
    assert len(listings) == 1
    ours.get_many("n", [b"?" * 20, b"!" * 20])
    assert len(listings) == 2


def _forked_writer(directory, start, stop, how="locked"):
    """Return the number of a process that writes, and the stream on which it says what is stored."""
    read, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if how == "unlocked":
                import fcntl

                fcntl.flock = fcntl.lockf = fcntl.fcntl = lambda *args: 0
            write(directory, start, stop, os.fdopen(write_end, "w"))
            status = 0
        finally:
            os._exit(status)
    os.close(write_end)
    return child, os.fdopen(read)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("how", ["locked", "unlocked"])
def test_two_processes_write_overlapping_keys(tmp_path, how):
    writers = [_forked_writer(tmp_path, 0, 2000, how), _forked_writer(tmp_path, 1000, 3000, how)]
    for child, said in writers:
        with said:
            assert said.read().split()
        assert os.waitpid(child, 0)[1] == 0
    assert _check(tmp_path, range(3000)) == 3000
    n_good, n_bad = ShardStore(tmp_path).verify()
    assert n_good >= 3000
    assert n_bad == 0
    assert ShardStore(tmp_path).count()[0] == 3000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_kill_leaves_whole_shards(tmp_path):
    for attempt in range(20):
        start = attempt * 100_000
        child, said = _forked_writer(tmp_path, start, start + 100_000)
        with said:
            said.readline()
            time.sleep(attempt * 0.002)
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            lines = said.read().split()
        assert os.WTERMSIG(status) == signal.SIGKILL
        last = int(lines[-1]) if lines else start
        assert _check(tmp_path, range(start, last + 100)) == last + 100 - start
        _check(tmp_path, range(last + 100, last + 300))
    assert ShardStore(tmp_path).verify()[1] == 0
    assert not list(tmp_path.glob("shards/*/*.damaged"))


def test_a_flip_anywhere_never_gives_a_wrong_row(tmp_path):
    _filled(tmp_path, namespace="name")
    (path,) = _shards(tmp_path)
    whole, n_rows = path.read_bytes(), 0
    for i in range(len(whole)):
        for bit in (0x01, 0x80):
            path.write_bytes(whole[:i] + bytes([whole[i] ^ bit]) + whole[i + 1 :])
            store = ShardStore(tmp_path)
            found = store.get_many("name", KEYS)
            for row, expected in zip(found, ROWS, strict=True):
                assert row is None or (row == expected).all()
            assert any(row is None for row in found)
            n_rows += sum(row is not None for row in found)
            # What is forgotten can be stored again, beside what is damaged.
            store.put_many("name", KEYS, ROWS)
            np.testing.assert_array_equal(np.stack(store.get_many("name", KEYS)), ROWS)
            store.count()
    # A flip in one row leaves the eight others.
    assert n_rows == 8 * 2 * 9 * (16 + 20)


def test_a_cut_anywhere_never_gives_a_wrong_row(tmp_path):
    _filled(tmp_path)
    (path,) = _shards(tmp_path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        store = ShardStore(tmp_path)
        for row, expected in zip(store.get_many("n", KEYS), ROWS, strict=True):
            assert row is None or (row == expected).all()
        store.verify()


def test_a_damaged_row_is_stored_again_and_found_by_others(tmp_path):
    _filled(tmp_path)
    (path,) = _shards(tmp_path)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    store = ShardStore(tmp_path)
    assert [row is None for row in store.get_many("n", KEYS)] == [False] * 8 + [True]
    store.put_many("n", KEYS, ROWS)
    store.flush()
    assert len(_shards(tmp_path)) == 2
    np.testing.assert_array_equal(np.stack(ShardStore(tmp_path).get_many("n", KEYS)), ROWS)


def test_a_shard_of_another_namespace_in_this_directory(tmp_path):
    _filled(tmp_path, namespace="a")
    _filled(tmp_path, KEYS[:1], ROWS[:1], namespace="b")
    (a,), (b,) = (list(store._folder(name).iterdir()) for store, name in ((ShardStore(tmp_path), n) for n in "ab"))
    os.replace(a, b.parent / a.name)
    assert [row is None for row in ShardStore(tmp_path).get_many("b", KEYS)] == [False] + [True] * 8


def test_temporary_files_are_ignored_and_old_ones_removed(tmp_path):
    _filled(tmp_path)
    (path,) = _shards(tmp_path)
    names = [f".7-{i:016x}.tmp" for i in range(2)]
    for name, age in zip(names, (3_600, 90_000), strict=True):
        (path.parent / name).write_bytes(b"half")
        os.utime(path.parent / name, (time.time() - age,) * 2)
    store = ShardStore(tmp_path)
    assert sorted(os.listdir(path.parent)) == [names[0], path.name]
    assert store.count() == (9, path.stat().st_size)
    assert store.verify() == (9, 0)


def test_prune_removes_the_oldest_shards(tmp_path, monkeypatch):
    now = time.time()
    for i, age in enumerate((30, 10, 20)):
        monkeypatch.setattr(time, "time", lambda age=age: now - age)
        _filled(tmp_path, KEYS[i : i + 1], ROWS[i : i + 1], namespace=f"n{i}")
    monkeypatch.setattr(time, "time", lambda: now)
    store, other = ShardStore(tmp_path), ShardStore(tmp_path)
    assert [other.get_many(f"n{i}", KEYS[i : i + 1])[0] is None for i in range(3)] == [False] * 3
    assert store.prune(10**6, 40) == 0
    assert store.prune(None, 25) == 1
    assert store.prune(store.count()[1] - 1, None) == 1
    for reader in (store, other):
        assert [reader.get_many(f"n{i}", KEYS[i : i + 1])[0] is None for i in range(3)] == [True, False, True]
    other.put_many("n0", KEYS[:1], ROWS[:1])  # it knows that this one is gone
    other.flush()
    assert store.count()[0] == 2


def test_files_that_another_process_prunes_meanwhile(tmp_path, monkeypatch):
    _filled(tmp_path)
    store, path = ShardStore(tmp_path), _shards(tmp_path)[0]
    monkeypatch.setattr(ShardStore, "_list", lambda self, names: iter([path]))
    path.unlink()
    assert store.prune(0, None) == 0
    assert store.verify() == (0, 0)
    assert store.count() == (0, 0)


def test_verify_keeps_what_is_good_and_its_age(tmp_path):
    _filled(tmp_path)
    (path,) = _shards(tmp_path)
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    other = ShardStore(tmp_path)
    assert other.get_many("n", KEYS[:1])[0] is not None
    assert ShardStore(tmp_path).verify() == (8, 1)
    assert ShardStore(tmp_path).verify() == (8, 0)
    (new,) = _shards(tmp_path)
    assert new.name[:20] == path.name[:20]
    assert path.with_name(path.name + ".damaged").exists()
    np.testing.assert_array_equal(np.stack(other.get_many("n", KEYS[:8])), ROWS[:8])
    new.write_bytes(b"SK")
    assert other.verify() == (0, 1)
    assert other.verify() == (0, 0)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("name", ["open", "write", "fsync", "replace"])
def test_a_disk_that_refuses(tmp_path, monkeypatch, name, number):
    store = ShardStore(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, name, _fail(number))
        store.put_many("n", KEYS, ROWS)
        for call in (store.flush, store.close):
            with pytest.raises(OSError, match=os.strerror(number)):
                call()
        np.testing.assert_array_equal(np.stack(store.get_many("n", KEYS)), ROWS)
        keys = [i.to_bytes(20, "big") for i in range(1, 2001)]  # none of KEYS
        for some in (keys[:1100], keys[1100:]):
            with pytest.raises(OSError, match=os.strerror(number)):
                store.put_many("n", some, np.ones((len(some), 1), np.float32))
        assert store.count()[0] == 9 + 1100  # what comes after the first refusal is not gathered
    assert not list(tmp_path.glob("shards/*/*"))
    store.flush()
    np.testing.assert_array_equal(np.stack(ShardStore(tmp_path).get_many("n", KEYS)), ROWS)


def test_a_filesystem_that_syncs_no_directories(tmp_path, monkeypatch):
    fsync = os.fsync
    refuse = _fail(errno.EINVAL)
    monkeypatch.setattr(os, "fsync", lambda file: (refuse if stat.S_ISDIR(os.fstat(file).st_mode) else fsync)(file))
    assert _filled(tmp_path).count()[0] == 9
    assert len(_shards(tmp_path)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_does_not_write_the_parents_rows(tmp_path):
    store = ShardStore(tmp_path)
    store.put_many("n", KEYS[:5], ROWS[:5])
    store._lock.acquire()  # as another thread would hold it
    child = os.fork()
    if child == 0:
        status = 1
        try:
            store.put_many("n", KEYS[5:], ROWS[5:])
            store.flush()
            status = 0
        finally:
            os._exit(status)
    store._lock.release()
    assert os.waitpid(child, 0)[1] == 0
    assert ShardStore(tmp_path).count()[0] == 4
    store.flush()
    assert ShardStore(tmp_path).verify() == (9, 0)


def test_threads(tmp_path):
    store, failures = ShardStore(tmp_path), []

    def work(first):
        try:
            for i in range(first, first + 60):
                key = i.to_bytes(20, "big")
                store.put_many("n", [key], [np.full(3, i, np.float32)])
                store.flush()
                assert (store.get_many("n", [key])[0] == i).all()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 30, 60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert store.verify() == (120, 0)


def test_a_key_of_another_length(tmp_path):
    with pytest.raises(ValueError, match="20 bytes"):
        ShardStore(tmp_path).put_many("n", [b"short"], ROWS[:1])
