"""Libraries that only benchmarks need, imported when a way asks for them."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path

__all__ = ["MissingPeerError", "peer", "skrub_encoder"]


class MissingPeerError(Exception):
    """A library that we compare ourselves with is not installed."""


def peer(module: str):
    """Import a module that only benchmarks need."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingPeerError(f"{package} cannot be imported ({error}): pip install -e '.[benchmarks]'") from error


def skrub_encoder(directory: Path, **parameters):
    """skrub's LLMEncoder, or its TextEncoder as it was called before 0.11."""
    skrub = peer("skrub")
    peer("sentence_transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        name = "LLMEncoder" if hasattr(skrub, "LLMEncoder") else "TextEncoder"
        return getattr(skrub, name)(str(directory), device="cpu", **parameters)
