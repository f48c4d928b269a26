"""Progress bars: none for quick or cached work, the network named while it is loaded, lines in files."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest

from skembed import EmbeddingCache
from skembed.testing import ArrayEmbedder
from skembed.utils import progress

X = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _output(monkeypatch, stream, *, delay=0.0, cache=None, verbose=True) -> str:
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(progress, "DELAY", delay)
    embedder = ArrayEmbedder(cache=cache, verbose=verbose).fit(X)
    load = embedder._load
    monkeypatch.setattr(embedder, "_load", lambda: time.sleep(0.1) or load())
    embedder.transform(X)
    return stream.getvalue()


def test_a_bar_on_a_terminal_names_the_network_while_it_is_loaded(monkeypatch):
    output = _output(monkeypatch, Terminal())
    assert output.index("loading") < output.index("20/20")
    assert "ArrayEmbedder: 100%" in output


def test_lines_without_carriage_returns_where_there_is_no_terminal(monkeypatch):
    output = _output(monkeypatch, io.StringIO())
    assert output
    assert "\r" not in output
    assert all(line.strip() for line in output.splitlines())


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_nothing_where_the_work_ends_within_the_delay(monkeypatch, stream):
    assert not _output(monkeypatch, stream(), delay=60.0).strip("\r\n ")


def test_nothing_where_all_rows_are_cached(monkeypatch):
    cache = EmbeddingCache()
    ArrayEmbedder(cache=cache).fit_transform(X)
    assert not _output(monkeypatch, Terminal(), delay=0.5, cache=cache).strip("\r\n ")


def test_nothing_without_verbose(monkeypatch):
    assert not _output(monkeypatch, Terminal(), verbose=False)
