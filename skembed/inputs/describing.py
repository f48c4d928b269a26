"""Say in a few words what a sample is, by its header alone."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import soundfile
from PIL import Image

from skembed.inputs.image import open_header

__all__ = ["describe"]


def describe(sample: Any) -> str:
    """Return a phrase for a sample that takes long, or "" where nothing is known of it without reading it.

    Examples
    --------
    >>> import numpy as np
    >>> describe(np.zeros((3, 2))), describe("word " * 1000), describe(object())
    ('an array of shape (3, 2)', 'a text of 5,000 characters', '')
    """
    try:
        return _described(sample)
    # A file that vanished, or that no library reads: whoever reads it says so.
    except Exception:
        return ""


def _described(sample: Any) -> str:
    if isinstance(sample, dict):
        parts = (sample.get(name) for name in ("array", "bytes", "path"))
        sample = next(part for part in parts if part is not None)
    if isinstance(sample, tuple):
        sample = sample[0]
    if isinstance(sample, Image.Image):
        return f"an image of {sample.width:,} x {sample.height:,} pixels"
    if isinstance(sample, (bytes, bytearray, memoryview)):
        return _described_file(io.BytesIO(sample))
    if isinstance(sample, os.PathLike) or (isinstance(sample, str) and _is_file(sample)):
        with Path(sample).expanduser().open("rb") as file:
            return _described_file(file)
    if isinstance(sample, str):
        return f"a text of {len(sample):,} characters"
    return f"an array of shape {tuple(sample.shape)}"


def _is_file(text: str) -> bool:
    try:
        return Path(text).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):
        return False


def _described_file(file: Any) -> str:
    try:
        with open_header(file) as image:
            return f"a {image.format} image of {image.width:,} x {image.height:,} pixels"
    except OSError:
        file.seek(0)
        seconds = soundfile.info(file).duration
        return f"a recording of {seconds:,.0f} s"
