"""Directories of tiny networks that a test may change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.backbones import tiny


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Build a family's directory once per module."""
    built: dict[str, Path] = {}

    def original(family: str) -> Path:
        if family not in built:
            built[family] = tmp_path_factory.mktemp(family)
            tiny.BUILDERS[family](built[family])
        return built[family]

    return original


@pytest.fixture
def copy(originals, tmp_path):
    """Return a function that copies a family's directory for one test."""
    return lambda family: Path(shutil.copytree(originals(family), tmp_path / family))
