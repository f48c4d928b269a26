"""Short descriptions of samples, from their headers alone."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import soundfile
from PIL import Image

from skembed.inputs.image import open_header
from skembed.inputs.recordings import array_and_rate, file_in_dict

__all__ = ["describe"]


def describe(sample: Any) -> str:
    """Return a phrase for a sample that takes long, or "" if only reading it would tell.

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
    recording = array_and_rate(sample)
    if recording is not None:
        sample = recording[0]
    elif isinstance(sample, dict):
        sample = file_in_dict(sample, "")
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
