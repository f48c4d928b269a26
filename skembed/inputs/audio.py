"""Reading one recording: files, bytes and arrays become mono float32 at one rate, or a DecodeError."""

from __future__ import annotations

import io
import os
from numbers import Real
from typing import Any

import numpy as np
import soundfile
import soxr

from skembed.exceptions import DecodeError
from skembed.inputs.decode import check_file, is_missing

__all__ = ["read_audio"]


def read_audio(
    sample: Any,
    *,
    rate: int,
    sampling_rate: float | None = None,
    max_duration: float | None = None,
    min_samples: int = 400,
) -> tuple[np.ndarray, bool]:
    """A recording as a mono waveform.

    Channels are averaged; integers are scaled to [-1, 1]; the rate is converted by soxr at high quality.

    Parameters
    ----------
    sample : str, PathLike, bytes, file object, ndarray, (ndarray, rate), dict, or decoder
        A dict has "array" and "sampling_rate", or "bytes" or "path", as columns of `datasets` do; a decoder has
        `get_all_samples`, as torchcodec's does. Arrays have shape (n,), (n, channels) or (channels, n).
    rate : int
        Samples per second (Hz) of the result.
    sampling_rate : float, optional
        Samples per second (Hz) of a bare array.
    max_duration : float, optional
        Seconds to keep from the start.
    min_samples : int, default=400
        Fewest samples of the result; 400 are 25 ms at 16 kHz, one frame of every usual front end.

    Returns
    -------
    waveform : ndarray of shape (n_samples,), float32
    cut : bool
        Whether something after `max_duration` was left out.

    Raises
    ------
    DecodeError
        If it cannot be read, has no rate, is not finite, or is too short; knows the path where there is one.
    """
    samples, source_rate, cut, path = _decode(sample, sampling_rate, max_duration)
    waveform = _to_mono(samples, path)
    if not np.isfinite(waveform).all():
        # Resampling would smear each of them over its neighbourhood.
        raise DecodeError(f"{int((~np.isfinite(waveform)).sum())} of its samples are NaN or infinite.", path=path)
    if max_duration is not None and len(waveform) > (keep := round(max_duration * source_rate)):
        waveform, cut = waveform[:keep], True
    shortest = min_samples / rate
    if len(waveform) < shortest * source_rate:
        lasts = len(waveform) / source_rate * 1000
        raise DecodeError(f"the recording lasts {lasts:.1f} ms; at least {shortest * 1000:g} ms are needed.", path=path)
    if source_rate != rate:
        waveform = soxr.resample(waveform, source_rate, rate, quality="HQ")
    return np.ascontiguousarray(waveform, dtype=np.float32), cut


def _decode(sample, sampling_rate, max_duration) -> tuple[np.ndarray, float, bool, str | None]:
    """Samples of shape (n,) or (n, channels) or (channels, n), their rate, whether cut, and the path."""
    if isinstance(sample, dict):
        if sample.get("array") is not None:
            return _decode((sample["array"], sample.get("sampling_rate")), sampling_rate, max_duration)
        sample = sample.get("bytes") or sample.get("path")
    if isinstance(sample, (str, os.PathLike)):
        path = check_file(sample)
        with open(path, "rb") as file:
            return (*_from_file(file, max_duration, path), path)
    if isinstance(sample, (bytes, bytearray, memoryview)):
        return (*_from_file(io.BytesIO(sample), max_duration, None), None)
    if hasattr(sample, "read"):
        return (*_from_file(sample, max_duration, None), None)
    if hasattr(sample, "get_all_samples"):
        decoded = sample.get_all_samples()
        return np.asarray(decoded.data), _check_rate(decoded.sample_rate), False, None
    if isinstance(sample, tuple) and len(sample) == 2 and not isinstance(sample[0], Real):
        array, own_rate = sample
        return (
            _scaled(np.asarray(array)),
            _check_rate(sampling_rate if own_rate is None else own_rate),
            False,
            None,
        )
    if isinstance(sample, np.ndarray) or (isinstance(sample, list) and sample and isinstance(sample[0], Real)):
        return _scaled(np.asarray(sample)), _check_rate(sampling_rate), False, None
    raise DecodeError(
        f"expected a path, bytes, an array or an (array, rate) pair, got {type(sample).__name__}"
        + (" (a missing value)." if is_missing(sample) else ".")
    )


def _check_rate(rate) -> float:
    if rate is None:
        raise DecodeError(
            "an array carries no rate, and a wrong guess gives wrong features. Set sampling_rate= (Hz), or give "
            "(array, rate)."
        )
    if not isinstance(rate, Real) or not 0 < float(rate) <= 10_000_000:
        raise DecodeError(f"the rate {rate!r} is no number of samples per second. Give a positive number (Hz).")
    return float(rate)


def _scaled(samples: np.ndarray) -> np.ndarray:
    """Integer samples in [-1, 1]; floats as they are."""
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype in (np.int16, np.int32):
        return samples.astype(np.float64) / -float(np.iinfo(samples.dtype).min)
    if samples.dtype.kind == "f":
        return samples
    raise DecodeError(f"audio arrays are floats, int16, int32 or uint8, got {samples.dtype}.")


def _to_mono(samples: np.ndarray, path) -> np.ndarray:
    if samples.ndim == 2:
        if samples.shape[0] == samples.shape[1] != 1:
            raise DecodeError(
                f"shape {samples.shape} does not tell channels from samples. Give a mono array.", path=path
            )
        samples = samples.mean(axis=int(np.argmin(samples.shape)))
    if samples.ndim != 1:
        raise DecodeError(f"audio arrays have one or two dimensions, got shape {samples.shape}.", path=path)
    if len(samples) == 0:
        raise DecodeError("the recording is empty.", path=path)
    return samples.astype(np.float32)


def _from_file(file, max_duration, path) -> tuple[np.ndarray, float, bool]:
    try:
        _check_riff(file, path)
        file.seek(0)
        with soundfile.SoundFile(file) as sound:
            rate = sound.samplerate
            frames = -1 if max_duration is None else round(max_duration * rate)
            samples = sound.read(frames, dtype="float32", always_2d=True)
            cut = 0 <= frames < sound.frames
    except DecodeError:
        raise
    # libsndfile's errors, and whatever a file object raises.
    except Exception as error:
        raise DecodeError(f"the recording cannot be decoded: {error}.", path=path) from error
    return samples.mean(axis=1), float(rate), cut


def _check_riff(file, path) -> None:
    """Refuse a WAV file that is shorter than its header says; libsndfile reads the rest in silence."""
    file.seek(0, os.SEEK_END)
    size = file.tell()
    file.seek(0)
    if file.read(4) != b"RIFF":
        return
    position = 12
    while position + 8 <= size:
        file.seek(position)
        header = file.read(8)
        length = int.from_bytes(header[4:], "little")
        if header[:4] == b"data":
            # Streaming writers that cannot seek back leave 0 or the largest number.
            if 0 < length < 0xFFFFFFFF - 1024 and position + 8 + length > size:
                raise DecodeError(
                    f"the WAV file is truncated: its header promises {length} bytes of samples, "
                    f"{size - position - 8} are there. Copy it again, or leave it out.",
                    path=path,
                )
            return
        position += 8 + length + length % 2
