"""What goes wrong on disks: the result is that of a clean run, every time."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from skembed import EmbeddingCache
from skembed.exceptions import CacheWarning

KEYS = [i.to_bytes(20, "big") for i in range(40)]
ROWS = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)

#: Rows that a script knows by their keys, and a loop that writes them in batches of 10.
PRELUDE = """
import os, random, signal, sys, time, traceback
import numpy as np
from skembed.cache import EmbeddingCache

def row(i):
    return np.full(16, i, dtype=np.float32)

def key(i):
    return i.to_bytes(20, "big")

def write(directory, first, last, acknowledge=None):
    cache = EmbeddingCache(directory)
    for start in range(first, last, 10):
        numbers = range(start, start + 10)
        cache.put_many("n", [key(i) for i in numbers], [row(i) for i in numbers])
        if acknowledge is not None:
            os.write(acknowledge, b".")

def child(work, *arguments):
    pid = os.fork()
    if pid == 0:
        try:
            work(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid

def check(directory, last):
    cache = EmbeddingCache(directory)
    found = cache.get_many("n", [key(i) for i in range(last)])
    for i, one in enumerate(found):
        assert one is None or (one == row(i)).all(), i
    assert cache.verify()[1] == 0
    cache.close()
    return sum(one is not None for one in found)
"""


#: Runs each script that it is sent in a fork of its own: importing scikit-learn takes longer than most of them.
SERVER = """
import json

def execute(body, arguments, output):
    file = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv[1:] = arguments
    signal.alarm(300)
    exec(body, globals())
    sys.stdout.flush()

for line in iter(sys.stdin.readline, ""):
    print(os.waitpid(child(execute, *json.loads(line)), 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """Return a function that runs a script in a new process, and what it printed."""
    command = [sys.executable, "-W", "error", "-c", PRELUDE + SERVER]
    output = tmp_path_factory.mktemp("scripts") / "output"
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:

        def script(body: str, *arguments) -> str:
            output.unlink(missing_ok=True)
            print(json.dumps([body, list(map(str, arguments)), str(output)]), file=server.stdin, flush=True)
            status = server.stdout.readline()
            assert status == "0\n", output.read_text()
            return output.read_text()

        yield script


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fifty_kills_lose_at_most_the_batch_at_hand(script, tmp_path):
    script(
        """
random.seed(0)
for attempt in range(50):
    reader, writer = os.pipe()
    pid = child(write, sys.argv[1], 3_000 * attempt, 3_000 * attempt + 3_000, writer)
    os.close(writer)
    os.read(reader, 1)
    time.sleep(random.uniform(0, 0.03))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    acknowledged = 1
    while more := os.read(reader, 65536):
        acknowledged += len(more)
    os.close(reader)
    cache = EmbeddingCache(sys.argv[1])
    found = cache.get_many("n", [key(i) for i in range(3_000 * attempt, 3_000 * attempt + 10 * acknowledged)])
    assert all(one is not None for one in found), (attempt, acknowledged)
    cache.close()
check(sys.argv[1], 150_000)
""",
        tmp_path / "c",
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_four_writers_leave_one_row_a_key(script, tmp_path):
    count = script(
        """
pids = [child(write, sys.argv[1], 100 * i, 100 * i + 700) for i in range(4)]
assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
assert check(sys.argv[1], 1000) == 1000
print(EmbeddingCache(sys.argv[1]).info().entries)
""",
        tmp_path / "c",
    )
    assert count.strip() == "1000"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_new_file_opened_by_many_at_once_is_waited_for(script, tmp_path):
    # SQLite's own timeout does not wait while another connection changes the file to a write-ahead log: without
    # patience of our own one round in eight had a process that gave up.
    script(
        """
def begin(directory, gate, number):
    os.read(gate, 1)
    EmbeddingCache(directory).put_many("n", [key(number)], [row(number)])

for attempt in range(40):
    gate, opener = os.pipe()
    def at_once(number, gate=gate, opener=opener, directory=f"{sys.argv[1]}-{attempt}"):
        os.close(opener)
        begin(directory, gate, number)
    pids = [child(at_once, number) for number in range(8)]
    os.close(opener)
    os.close(gate)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 8
    assert check(f"{sys.argv[1]}-{attempt}", 8) == 8
""",
        tmp_path / "c",
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_opens_the_file_for_itself(script, tmp_path):
    script(
        """
parent = EmbeddingCache(sys.argv[1])
parent.put_many("n", [key(0)], [row(0)])
def use_inherited():
    assert parent.get_many("n", [key(0)])[0] is not None
    parent.put_many("n", [key(1)], [row(1)])
assert os.waitpid(child(use_inherited), 0)[1] == 0
parent.put_many("n", [key(2)], [row(2)])
assert check(sys.argv[1], 3) == 3
""",
        tmp_path / "c",
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_lock_held_at_a_fork_does_not_stop_the_child(script, tmp_path):
    script(
        """
import threading
caches = [EmbeddingCache(), EmbeddingCache(sys.argv[1])]
held, done = threading.Event(), threading.Event()
def hold():
    with caches[0].turn, caches[1].turn, caches[0]._memory._lock:
        held.set()
        done.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
def use():
    for cache in caches:
        with cache.turn:
            cache.put_many("n", [key(0)], [row(0)])
pid = child(use)
for _ in range(200):
    time.sleep(0.05)
    found, status = os.waitpid(pid, os.WNOHANG)
    if found:
        break
else:
    os.kill(pid, signal.SIGKILL)
done.set()
thread.join()
assert (found, status) == (pid, 0)
""",
        tmp_path / "c",
    )


def _written(directory: Path) -> Path:
    cache = EmbeddingCache(directory)
    cache.put_many("n", KEYS, ROWS)
    cache.close()
    return directory / "embeddings.sqlite"


def _read_and_complete(directory: Path) -> None:
    """Any row that is found is right, and what is missing can be put back."""
    cache = EmbeddingCache(directory)
    found = cache.get_many("n", KEYS)
    for row, expected in zip(found, ROWS, strict=True):
        assert row is None or row.tobytes() == expected.tobytes()
    missing = [i for i, row in enumerate(found) if row is None]
    cache.put_many("n", [KEYS[i] for i in missing], ROWS[missing])
    np.testing.assert_array_equal(np.stack(cache.get_many("n", KEYS)), ROWS)
    cache.close()


@pytest.mark.filterwarnings("ignore::skembed.exceptions.CacheWarning")
def test_every_region_flipped(tmp_path):
    content = _written(tmp_path / "clean").read_bytes()
    target = tmp_path / "flipped"
    for position in range(0, len(content), 31):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        flipped = bytearray(content)
        flipped[position] ^= 0xFF
        (target / "embeddings.sqlite").write_bytes(flipped)
        _read_and_complete(target)


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 100, b"SQLite format 3\0" + bytes(5000)])
def test_a_file_that_is_no_database_is_set_aside(tmp_path, content):
    (tmp_path / "embeddings.sqlite").write_bytes(content)
    _read_and_complete(tmp_path)
    assert content == b"" or list(tmp_path.glob("embeddings-damaged-*"))


def test_a_truncated_file(tmp_path):
    path = _written(tmp_path)
    os.truncate(path, path.stat().st_size // 2)
    _read_and_complete(tmp_path)


def test_a_row_moved_to_another_key_is_not_taken(tmp_path):
    path = _written(tmp_path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE rows SET value = (SELECT value FROM rows WHERE key = ?)", (KEYS[3],))
    connection.close()
    found = EmbeddingCache(tmp_path).get_many("n", KEYS)
    assert [i for i, row in enumerate(found) if row is not None] == [3]


def test_verify_counts_and_removes(tmp_path):
    path = _written(tmp_path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE rows SET value = x'00' WHERE key IN (?, ?)", KEYS[:2])
    connection.close()
    cache = EmbeddingCache(tmp_path)
    assert cache.verify() == (38, 2)
    assert cache.verify() == (38, 0)
    assert cache.info().entries == 38


def test_a_full_disk_warns_once_and_goes_on(tmp_path):
    cache = EmbeddingCache(tmp_path)
    cache.put_many("n", KEYS[:1], ROWS[:1])
    cache._store._connection.execute("PRAGMA max_page_count = 8")
    big = np.zeros((40, 20_000), dtype=np.float32)

    def fill():
        for i in range(1, 40):
            cache.put_many("n", KEYS[i : i + 1], big[i : i + 1])

    with pytest.warns(CacheWarning, match="full") as caught:
        fill()
    assert len(caught) == 1
    assert all(row is not None for row in cache.get_many("n", KEYS))
    np.testing.assert_array_equal(cache.get_many("n", KEYS[:1])[0], ROWS[0])


@pytest.mark.skipif(not hasattr(os, "setuid") or os.getuid() != 0, reason="needs root, to become somebody else")
@pytest.mark.parametrize("wal", ["closed", "open"])
def test_a_read_only_directory_as_another_user(script, wal):
    directory = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        script(
            """
write(sys.argv[1], 0, 50)
held = EmbeddingCache(sys.argv[1])
if sys.argv[2] == "open":
    held.get_many("n", [key(0)])
os.chmod(sys.argv[1], 0o755)
for name in os.listdir(sys.argv[1]):
    os.chmod(os.path.join(sys.argv[1], name), 0o644)
def read_only():
    import warnings
    os.setuid(65534)
    cache = EmbeddingCache(sys.argv[1])
    found = cache.get_many("n", [key(i) for i in range(60)])
    assert sum(one is not None for one in found) == 50, found
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for i in range(50, 60):
            cache.put_many("n", [key(i)], [row(i)])
    assert len(caught) == 1 and "cannot be written" in str(caught[0].message), caught
    assert all(one is not None for one in cache.get_many("n", [key(i) for i in range(60)]))
    assert cache.info().entries == 60
assert os.waitpid(child(read_only), 0)[1] == 0
""",
            directory,
            wal,
        )
    finally:
        shutil.rmtree(directory)


def test_a_path_that_is_a_file_costs_only_the_speed(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache = EmbeddingCache(tmp_path / "file")
    with pytest.warns(CacheWarning, match="cannot be"):
        assert cache.get_many("n", KEYS) == [None] * 40
    cache.put_many("n", KEYS, ROWS)
    np.testing.assert_array_equal(np.stack(cache.get_many("n", KEYS)), ROWS)


def test_threads_share_a_cache(tmp_path):
    cache, failures = EmbeddingCache(tmp_path), []

    def use(first):
        try:
            for i in range(first, 40, 2):
                cache.put_many("n", KEYS[i : i + 1], ROWS[i : i + 1])
                for row, expected in zip(cache.get_many("n", KEYS), ROWS, strict=True):
                    assert row is None or row.tobytes() == expected.tobytes()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=use, args=(i % 2,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert cache.info().entries == 40
