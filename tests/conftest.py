"""Offline by construction: no hub, no sockets, a cache directory of this run's own."""

from __future__ import annotations

import gc
import os
import socket
import tempfile
from pathlib import Path

import pytest

# Before anything imports torch. Processes that share the cores would wait for each other's threads in busy loops.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before anything imports huggingface_hub, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Before anything imports scipy: without it scikit-learn skips its array API check.
os.environ["SCIPY_ARRAY_API"] = "1"
# What is computed is what is tested; the cache's own tests name theirs.
os.environ["SKEMBED_CACHE"] = "none"
_HOME = tempfile.TemporaryDirectory(prefix="skembed-tests-")
os.environ["SKEMBED_HOME"] = _HOME.name


def pytest_configure(config):
    # pytest-xdist begins with the files of most tests; those of one test can take longest, and would be waited for.
    config.option.loadscopereorder = False


def pytest_collection_finish():
    # Modules and tests stay: looking through them in each full collection took 3.5 of 50 s of CPU time.
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_network(request, monkeypatch):
    """Connections fail at once, but to processes on this machine (multiprocessing's own)."""
    if request.node.get_closest_marker("network"):
        return
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family == getattr(socket, "AF_UNIX", None) or (
            isinstance(address, tuple) and address[0] in ("127.0.0.1", "::1", "localhost")
        ):
            return connect(self, address)
        raise OSError(f"a test tried to connect to {address!r}")

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def _warnings_begin_anew(monkeypatch):
    """A test sees the warnings that are given once per process, whichever test came before."""
    monkeypatch.setattr("skembed.utils.warnings._given", set())


def data_directory() -> Path | None:
    """Where the real labelled data lies: $SKEMBED_DATA, or shared/data beside the checkout."""
    named = os.environ.get("SKEMBED_DATA")
    path = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    return path if path.is_dir() else None


@pytest.fixture(scope="session")
def data() -> Path:
    path = data_directory()
    if path is None:
        pytest.skip("no real data: set $SKEMBED_DATA")
    return path
