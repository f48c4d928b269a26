"""`import skembed`: its modules, its hints, its logger and its report of versions."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import skembed
from skembed import EmbeddingCache
from skembed.backbones.loading.load import loaded
from skembed.testing import ArrayEmbedder

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


@pytest.mark.parametrize(
    "name",
    ["advice", "augment", "backbones", "diagnosis", "displays", "exceptions", "measures", "selection", "testing"],
)
def test_modules_are_attributes_without_their_own_import(name, monkeypatch):
    monkeypatch.delattr(skembed, name, raising=False)  # another test may have imported it
    assert getattr(skembed, name).__name__ == f"skembed.{name}"
    assert name in dir(skembed)


@pytest.mark.parametrize(("typed", "meant"), [("TextEmbeder", "TextEmbedder"), ("display", "displays")])
def test_a_mistyped_name_gets_a_suggestion(typed, meant):
    with pytest.raises(AttributeError, match=f"no attribute '{typed}'. Did you mean '{meant}'"):
        getattr(skembed, typed)


def test_a_name_like_no_other_gets_no_suggestion():
    with pytest.raises(AttributeError, match=r"no attribute 'xyzzy'\.$"):
        skembed.xyzzy  # noqa: B018


def test_show_versions(capsys):
    skembed.show_versions()
    printed = capsys.readouterr().out
    assert f"skembed: {skembed.__version__}" in printed
    for name in ("python", "torch", "scikit-learn", "cpu threads"):
        assert f"{name}: " in printed


def test_the_logger_is_silent_unless_asked():
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("skembed").handlers)


def test_loads_and_cached_rows_are_logged(caplog):
    loaded.clear()
    embedder = ArrayEmbedder(cache=EmbeddingCache())
    with caplog.at_level(logging.DEBUG, logger="skembed"):
        embedder.fit(X).transform(X[:4])
        embedder.transform(X)
    loads = [record for record in caplog.records if record.levelno == logging.INFO]
    assert len(loads) == 1
    assert "array_backbone" in loads[0].getMessage()
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    assert any("0 of 4 rows found, 4 to embed" in message for message in told)
    assert any("4 of 6 rows found, 2 to embed" in message for message in told)
