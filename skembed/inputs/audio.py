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
from skembed.inputs.decode import is_missing, open_file, reason

__all__ = ["read_audio"]

#: Samples per second (Hz) that a recording may have. A header that says 1 Hz would make gigabytes of a small file.
_RATES = (100, 10_000_000)
#: Lengths of a WAV file's samples that mean "unknown": what ffmpeg, arecord and sox write into a pipe.
_STREAMED = (range(0x7FFF0000, 0x80000001), range(0xFFFF0000, 0x100000000))


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
        Samples per second (Hz) of a bare array; files, pairs and dicts carry their own.
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
    # Before resampling, which would smear each of them over its neighbourhood.
    _check_finite(waveform, path)
    if max_duration is not None and len(waveform) > (keep := round(max_duration * source_rate)):
        waveform, cut = waveform[:keep], True
    shortest = min_samples / rate
    if len(waveform) < shortest * source_rate:
        lasts = len(waveform) / source_rate * 1000
        raise DecodeError(f"the recording lasts {lasts:.1f} ms; at least {shortest * 1000:g} ms are needed.", path=path)
    if source_rate != rate:
        waveform = soxr.resample(waveform, source_rate, rate, quality="HQ")
        _check_finite(waveform, path)  # near the largest float, ringing overflows
    return np.ascontiguousarray(waveform, dtype=np.float32), cut


def _decode(sample, sampling_rate, max_duration) -> tuple[np.ndarray, float, bool, str | None]:
    """Samples of shape (n,) or (n, channels) or (channels, n), their rate, whether cut, and the path."""
    path = None
    if isinstance(sample, dict):
        path = sample.get("path")
        if sample.get("array") is not None:
            sample = (sample["array"], sample.get("sampling_rate"))
        else:
            sample = sample.get("bytes") or path
    if isinstance(sample, (str, os.PathLike)):
        with open_file(sample) as file:
            return (*_from_file(file, max_duration, file.name), file.name)
    if isinstance(sample, (bytes, bytearray, memoryview)):
        return (*_from_file(io.BytesIO(sample), max_duration, path), path)
    if hasattr(sample, "read"):
        return (*_from_file(sample, max_duration, None), None)
    if hasattr(sample, "get_all_samples"):
        return (*_from_decoder(sample), False, path)
    if isinstance(sample, tuple) and len(sample) == 2 and not isinstance(sample[0], Real):
        array, own_rate = sample
        return _scaled(array), _check_rate(sampling_rate if own_rate is None else own_rate), False, path
    if isinstance(sample, np.ndarray) or (isinstance(sample, list) and sample and isinstance(sample[0], Real)):
        return _scaled(sample), _check_rate(sampling_rate), False, None
    raise DecodeError(
        f"expected a path, bytes, an array or an (array, rate) pair, got {type(sample).__name__}"
        + (" (a missing value)." if is_missing(sample) else ".")
    )


def _from_decoder(decoder) -> tuple[np.ndarray, float]:
    try:
        decoded = decoder.get_all_samples()
        samples = np.asarray(decoded.data)
    # Whatever the codec's library raises.
    except Exception as error:
        raise DecodeError(f"the recording cannot be decoded: {reason(error)}.") from error
    return samples, _check_rate(decoded.sample_rate)


def _check_rate(rate, path=None) -> float:
    if rate is None:
        raise DecodeError(
            "an array carries no rate, and a wrong guess gives wrong features. Set sampling_rate= (Hz), or give "
            "(array, rate)."
        )
    if not isinstance(rate, Real) or not _RATES[0] <= float(rate) <= _RATES[1]:
        raise DecodeError(
            f"the rate {rate!r} is no number of samples per second. Recordings have {_RATES[0]} to {_RATES[1]} Hz.",
            path=path,
        )
    return float(rate)


def _check_finite(waveform: np.ndarray, path) -> None:
    if not np.isfinite(waveform).all():
        raise DecodeError(f"{int((~np.isfinite(waveform)).sum())} of its samples are NaN or infinite.", path=path)


def _scaled(array: Any) -> np.ndarray:
    """Integer samples in [-1, 1]; floats as they are."""
    try:
        samples = np.asarray(array)
    except ValueError as error:
        raise DecodeError("the channels have unequal lengths. Give one array of numbers.") from error
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype in (np.int16, np.int32):
        return samples.astype(np.float64) / -float(np.iinfo(samples.dtype).min)
    if samples.dtype.kind == "f":
        return samples
    raise DecodeError(f"audio arrays are floats, int16, int32 or uint8, got {samples.dtype}.")


def _to_mono(samples: np.ndarray, path) -> np.ndarray:
    if samples.size == 0:
        raise DecodeError("the recording is empty.", path=path)
    if samples.ndim == 2:
        if samples.shape[0] == samples.shape[1] != 1:
            raise DecodeError(
                f"shape {samples.shape} does not tell channels from samples. Give a mono array.", path=path
            )
        samples = samples.mean(axis=int(np.argmin(samples.shape)))
    if samples.ndim != 1:
        raise DecodeError(f"audio arrays have one or two dimensions, got shape {samples.shape}.", path=path)
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as that
        return samples.astype(np.float32)


def _from_file(file, max_duration, path) -> tuple[np.ndarray, float, bool]:
    try:
        file = _check_riff(file, path)
        file.seek(0)
        with soundfile.SoundFile(file) as sound:
            rate = _check_rate(sound.samplerate, path)
            frames = -1 if max_duration is None else round(max_duration * rate)
            samples = sound.read(frames, dtype="float32", always_2d=True)
            cut = 0 <= frames < sound.frames
    except DecodeError:
        raise
    # libsndfile's errors, and whatever a file object raises.
    except Exception as error:
        raise DecodeError(f"the recording cannot be decoded: {reason(error)}.", path=path) from error
    return samples.mean(axis=1), rate, cut


def _check_riff(file, path):
    """The file, unless it is a WAV file that is shorter than its header says; libsndfile reads the rest in silence.

    A writer that cannot seek back may leave the length 0, which libsndfile takes at its word: such a file comes
    back with its length filled in.
    """
    file.seek(0, os.SEEK_END)
    size = file.tell()
    file.seek(0)
    if file.read(4) != b"RIFF":
        return file
    whole = int.from_bytes(file.read(4), "little")
    position = 12
    while position + 8 <= size:
        file.seek(position)
        header = file.read(8)
        length = int.from_bytes(header[4:], "little")
        position += 8
        if header[:4] == b"data":
            there = size - position
            # A file with no samples on purpose knows its own size.
            if length == 0 and there > 0 and whole != size - 8:
                return _with_length(file, position - 4, there)
            if length > there and not any(length in unknown for unknown in _STREAMED):
                raise DecodeError(
                    f"the WAV file is truncated: its header promises {length} bytes of samples, {there} are there. "
                    "Copy it again, or leave it out.",
                    path=path,
                )
            return file
        position += length + length % 2
    return file


def _with_length(file, position: int, length: int) -> io.BytesIO:
    file.seek(0)
    content = bytearray(file.read())
    content[position : position + 4] = min(length, 0xFFFFFFFF).to_bytes(4, "little")
    return io.BytesIO(content)
