"""Digests of raw samples: equal content, equal key, without decoding anything."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np

from skembed.exceptions import DecodeError
from skembed.inputs.arrays import as_array
from skembed.inputs.decode import open_file
from skembed.inputs.decoders import declared_duration, decode_start, is_decoder
from skembed.inputs.mono import DEFAULT_MAX_DURATION
from skembed.inputs.recordings import array_and_rate, file_in_dict
from skembed.inputs.streams import lock_of
from skembed.utils.identity import plain

__all__ = ["KEY_SIZE", "array_key", "content_key", "text_key"]

#: Bytes of a key. Of 160 bits two unequal contents among 10^12 share one with probability 10^-24.
KEY_SIZE = 20


def _start(kind: str):
    return hashlib.blake2b(kind.encode() + b"\0", digest_size=KEY_SIZE)


#: Seconds from a decoder's start that are decoded for its key: one packet of any usual format.
_SECONDS_SEEN = 0.1


# Copied for each sample: to begin a hash anew is the larger part of the time that a short text takes.
_TEXT, _FILE, _ARRAY = _start("text"), _start("file"), _start("array")


def text_key(sample: Any) -> bytes | None:
    """Return the digest of a text, or None for an invalid text.

    Examples
    --------
    >>> text_key("a") == text_key("a"), text_key("a") == text_key("b"), text_key(None)
    (True, False, None)
    """
    if not isinstance(sample, str):
        return None
    digest = _TEXT.copy()
    try:
        digest.update(sample.encode())
    except UnicodeEncodeError:  # a lone surrogate, which is refused when it is read
        return None
    return digest.digest()


def content_key(sample: Any) -> bytes | None:
    """Return the digest of an image's or a recording's type and content.

    A file, its bytes, its path and a file object share one key: what is in the file decides, not where it is.

    Parameters
    ----------
    sample : str, PathLike, bytes, file object, ndarray, list of numbers, pair, dict, decoder, or PIL image
        As `ImageEmbedder` and `AudioEmbedder` take it. All forms of an array with its rate share one key.

    Returns
    -------
    bytes of length `KEY_SIZE`, or None
        None for samples that can be read only once (streams), cannot be read, or are of an unknown kind. They are
        computed each time.

    Examples
    --------
    >>> content_key(b"GIF89a") == content_key({"bytes": b"GIF89a", "path": "anywhere.gif"})
    True
    >>> content_key(np.zeros(3)) == content_key(np.zeros((3, 1)))
    False
    """
    try:
        recording = array_and_rate(sample)
        if isinstance(sample, dict) and recording is None:
            sample = file_in_dict(sample, "")
    except DecodeError:
        return None
    if recording is not None:
        array, rate = recording
        return array_key(array, repr(plain(rate))) if isinstance(rate, (Real, type(None))) else None
    if isinstance(sample, (str, os.PathLike)):
        return _file_key(sample)
    if isinstance(sample, (bytes, bytearray, memoryview)):
        digest = _FILE.copy()
        digest.update(sample)
        return digest.digest()
    if hasattr(sample, "read"):
        return _stream_key(sample)
    if is_decoder(sample):
        return _decoder_key(sample)
    if isinstance(sample, (np.ndarray, list)):
        return array_key(sample, "None")
    if hasattr(sample, "__array__") and not hasattr(sample, "getexif"):
        return array_key(sample, "None")
    if callable(tobytes := getattr(sample, "tobytes", None)) and hasattr(sample, "getexif"):
        return _picture_key(sample, tobytes)
    return None


def array_key(array: Any, note: str = "") -> bytes | None:
    """Return the digest of an array's type, shape and values, and of its sampling rate."""
    try:
        given = as_array(array)
        values, shape = np.ascontiguousarray(given), np.shape(given)
    except MemoryError:
        raise
    # The code of lazy arrays and tensors raises anything; the same sample is refused when it is read.
    except Exception:
        return None
    if values.dtype.hasobject:
        return None
    digest = _ARRAY.copy()
    # The lengths of what goes before the values are told by them, so that no two differing arrays read the same.
    digest.update(f"{values.dtype.str}|{shape}|{note}\0".encode())
    digest.update(values.data.cast("B") if values.size else b"")
    return digest.digest()


def _file_key(path: str | os.PathLike) -> bytes | None:
    try:
        with open_file(path) as file:
            return _digest_of(file)
    except (DecodeError, OSError):
        return None


def _stream_key(file: Any) -> bytes | None:
    """Return the digest of a file object, whose position is kept; None if it cannot seek."""
    with lock_of(file):
        return _position_kept(file)


def _position_kept(file: Any) -> bytes | None:
    try:
        if not getattr(file, "seekable", lambda: True)():
            return None
        position = file.tell()
        try:
            file.seek(0)
            return _digest_of(file)
        finally:
            file.seek(position)
    # Whatever a file object raises: it is read again, and refused, when its turn comes.
    except Exception:
        return None


def _digest_of(file: Any) -> bytes:
    digest = _FILE.copy()
    while part := file.read(1 << 20):
        digest.update(part)
    return digest.digest()


def _decoder_key(decoder: Any) -> bytes | None:
    """Return the digest of a decoder's source and settings, or of its samples.

    `datasets` keeps the source. Rate and channels can be asked for and are not kept, but seen at the samples.
    """
    source = getattr(decoder, "_hf_encoded", None)
    try:
        known = content_key(source) if isinstance(source, dict) else None
        if known is not None and hasattr(decoder, "get_samples_played_in_range"):
            start = decoder.get_samples_played_in_range(0, _SECONDS_SEEN)
            return array_key(start.data, f"{known.hex()}|{getattr(decoder, 'stream_index', None)}|{start.sample_rate}")
        if (declared_duration(decoder) or 0.0) > DEFAULT_MAX_DURATION:
            return None  # too much to be decoded twice
        whole = decode_start(decoder, DEFAULT_MAX_DURATION + 1)
        if whole.data.shape[-1] > DEFAULT_MAX_DURATION * whole.sample_rate:
            return None  # longer than its header says, and perhaps not decoded to its end
        return array_key(whole.data, f"decoder|{whole.sample_rate}")
    # Whatever the codec's library raises.
    except Exception:
        return None


def _picture_key(image: Any, tobytes: Callable[[], bytes]) -> bytes | None:
    """Return the digest of a PIL image, its pixels and how they are shown."""
    try:
        pixels = np.frombuffer(tobytes(), dtype=np.uint8)
        palette = image.getpalette("RGBA") if image.mode in ("P", "PA") else None
        shown = (image.mode, image.size, palette, image.info.get("transparency"), image.getexif().get(0x0112))
    # Pillow's plugins raise nearly anything on broken files, which are refused when they are read.
    except Exception:
        return None
    return array_key(pixels, repr(shown))
