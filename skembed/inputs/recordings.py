"""Recordings in memory, as arrays with a rate in the forms of other libraries."""

from __future__ import annotations

import os
from numbers import Real
from typing import Any

from skembed.exceptions import DecodeError
from skembed.inputs.decoders import is_decoder

__all__ = ["array_and_rate", "file_in_dict", "is_recording"]

#: Keys of dicts: "array" is what `datasets` writes, "raw" pipelines of transformers, "waveform" torchaudio's users.
_ARRAY_KEYS = ("array", "raw", "waveform")
_RATE_KEYS = ("sampling_rate", "sample_rate", "rate", "sr")


def array_and_rate(sample: Any) -> tuple[Any, Any] | None:
    """Return the array of a recording in memory and its rate, or None for any other sample.

    Parameters
    ----------
    sample : object
        (array, rate) as soundfile, librosa and torchaudio return it, (rate, array) as scipy and gradio do, a dict
        with "array", "raw" or "waveform" and "sampling_rate", "sample_rate", "rate" or "sr", or an object with `data`
        and `sample_rate` as torchcodec's.

    Returns
    -------
    (array, rate) or None
        The array is not looked into. The rate is None for one that is not stated.

    Raises
    ------
    DecodeError
        If it is not clear which is the array and which is the rate.

    Examples
    --------
    >>> array_and_rate(([0.5, 0.25], 8000)) == array_and_rate((8000, [0.5, 0.25]))
    True
    >>> array_and_rate({"raw": [0.5], "sampling_rate": 8000}), array_and_rate("a.wav")
    (([0.5], 8000), None)
    """
    if isinstance(sample, dict):
        return _from_dict(sample)
    if isinstance(sample, (tuple, list)):
        return _from_pair(sample)
    if hasattr(sample, "sample_rate") and hasattr(sample, "data") and not is_decoder(sample):
        return _checked(sample.data, sample.sample_rate)
    return None


def is_recording(sample: Any) -> bool:
    """Return True for an array with its rate, and for a decoder."""
    try:
        return is_decoder(sample) or array_and_rate(sample) is not None
    except DecodeError:
        return False


def file_in_dict(sample: dict, expected: str) -> Any:
    """Return the bytes or else the path in a dict; None if both values are missing.

    Raises
    ------
    DecodeError
        If it has neither key; `expected` are the keys to name.
    """
    if "bytes" not in sample and "path" not in sample:
        keys = ", ".join(repr(key) for key in list(sample)[:5]) or "none"
        raise DecodeError(f"the keys of this dict are unknown: {keys}. Give a dict with {expected}.")
    return sample.get("path") if sample.get("bytes") is None else sample["bytes"]


def _from_dict(sample: dict) -> tuple[Any, Any] | None:
    arrays = [key for key in _ARRAY_KEYS if sample.get(key) is not None]
    if not arrays:
        return None
    rates = {key: _scalar(sample[key]) for key in _RATE_KEYS if sample.get(key) is not None}
    if len(arrays) > 1:
        raise DecodeError(f"this dict has several arrays: {', '.join(arrays)}. Give one of them.")
    if len({float(rate) if isinstance(rate, Real) else repr(rate) for rate in rates.values()}) > 1:
        named = ", ".join(f"{key}={rate!r}" for key, rate in rates.items())
        raise DecodeError(f"this dict has several rates: {named}. Give one of them.")
    return _checked(sample[arrays[0]], next(iter(rates.values()), None))


def _from_pair(sample: tuple | list) -> tuple[Any, Any] | None:
    if len(sample) != 2:
        return None
    first, second = map(_scalar, sample)
    numbers = isinstance(first, Real), isinstance(second, Real)
    # A list is a pair only if it cannot be an array.
    if isinstance(sample, list) and numbers not in ((True, False), (False, True)):
        return None
    if all(numbers):
        raise DecodeError(f"expected an array and its rate, got two numbers: {first!r} and {second!r}.")
    return _checked(second, first) if numbers[0] else _checked(first, second)


def _checked(array: Any, rate: Any) -> tuple[Any, Any]:
    """Return the array and the rate if they may be that."""
    if isinstance(array, (str, os.PathLike)):
        raise DecodeError(f"expected an array and its rate, got a {type(array).__name__}. A file is given alone.")
    if isinstance(array, (bytes, bytearray, memoryview)):
        raise DecodeError(
            "expected an array and its rate, got bytes. The bytes of a file are given alone; bytes of samples become "
            "an array with np.frombuffer(content, dtype=np.int16)."
        )
    if hasattr(rate, "__len__") and not isinstance(rate, str):
        raise DecodeError(
            f"expected an array and its rate, got {type(array).__name__} and {type(rate).__name__}. Channels are "
            "one array: np.stack(channels)."
        )
    return array, rate


def _scalar(value: Any) -> Any:
    """Return an array or tensor without dimensions as a number."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value
