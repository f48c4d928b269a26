"""Read one recording from files, bytes or arrays, as mono float32 at one rate."""

from __future__ import annotations

import io
import os
from numbers import Real
from typing import Any

import numpy as np
import soundfile

from skembed.exceptions import DecodeError
from skembed.inputs.arrays import as_array
from skembed.inputs.decode import is_missing, open_file, reason
from skembed.inputs.decoders import declared_duration, decode_start, is_decoder
from skembed.inputs.file_kinds import explain, kind_of, read_start
from skembed.inputs.mono import DEFAULT_MAX_DURATION, MonoBuilder
from skembed.inputs.recordings import array_and_rate, file_in_dict
from skembed.inputs.streams import CheckedFile, as_seekable, lock_of

__all__ = ["read_audio"]

#: libsndfile's code for a file in none of its formats.
_UNRECOGNIZED = 1
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
    """Read a recording as a mono waveform.

    Channels are averaged, integers are scaled to [-1, 1], and soxr converts the rate at high quality. All of this
    happens block by block, so that memory depends on the waveform and not on the source's rate and channels.

    Parameters
    ----------
    sample : str, PathLike, bytes, file object, ndarray, list of numbers, pair, dict, or decoder
        A pair is (array, rate) or (rate, array). A dict has "bytes" or "path", or "array", "raw" or "waveform" and
        "sampling_rate", "sample_rate", "rate" or "sr"; an object may have `data` and `sample_rate` instead. A decoder
        has `get_all_samples`, as torchcodec's does. Arrays have shape (n,), (n, channels) or (channels, n): floats in
        [-1, 1], int16, int32 or uint8. File objects are open for bytes; a stream that cannot seek is read into
        memory, up to 512 MB, and only once.
    rate : int
        Samples per second (Hz) of the result.
    sampling_rate : float, optional
        Samples per second (Hz) of a bare array; files, pairs and dicts carry their own.
    max_duration : float, optional
        Seconds to keep from the start. None keeps all, and refuses recordings of more than 30 minutes.
    min_samples : int, default=400
        Fewest samples of the result; 400 are 25 ms at 16 kHz, one frame of every usual front end.

    Returns
    -------
    waveform : ndarray of shape (n_samples,), float32
    cut : bool
        True if something after `max_duration` was left out.

    Raises
    ------
    DecodeError
        If the recording cannot be read, has no rate, is not finite, is too short or too long, or has floating samples
        far outside [-1, 1]. The error has the path, if there is one.
    """
    builder = MonoBuilder(rate, max_duration, min_samples)
    _decode(sample, sampling_rate, builder)
    return builder.finish()


def _decode(sample: Any, sampling_rate: float | None, builder: MonoBuilder) -> None:
    """Add the sample's blocks to a builder, whatever form the sample has."""
    if isinstance(sample, dict):
        builder.path = sample.get("path")
    recording = array_and_rate(sample)
    if recording is not None:
        array, own_rate = recording
        _add_array(array, sampling_rate if own_rate is None else own_rate, builder)
        return
    if isinstance(sample, dict):
        sample = file_in_dict(sample, '"bytes" or "path", or "array" and "sampling_rate"')
    sample = as_array(sample)
    if isinstance(sample, (str, os.PathLike)):
        with open_file(sample) as file:
            builder.path = file.name
            _add_file(file, builder)
    elif isinstance(sample, (bytes, bytearray, memoryview)):
        _add_file(io.BytesIO(sample), builder)
    elif hasattr(sample, "read"):
        with lock_of(sample):
            _add_file(as_seekable(sample), builder)
    elif is_decoder(sample):
        _add_decoder(sample, builder)
    elif isinstance(sample, np.ndarray) or (isinstance(sample, list) and sample and isinstance(sample[0], Real)):
        _add_array(sample, sampling_rate, builder)
    else:
        missing = " (a missing value)" if is_missing(sample) else ""
        advice = " Use ImageEmbedder() for images." if hasattr(sample, "getexif") else ""
        raise DecodeError(
            f"expected a path, bytes, an array or an (array, rate) pair, got {type(sample).__name__}{missing}.{advice}"
        )


def _add_decoder(decoder: Any, builder: MonoBuilder) -> None:
    """Add the samples of a torchcodec or `datasets` decoder, without decoding the unused rest."""
    duration = declared_duration(decoder)
    if duration is not None:
        builder.check_duration(duration)
    # A second more, by which the builder sees that the recording goes on.
    seconds = 1 + (DEFAULT_MAX_DURATION if builder.max_duration is None else builder.max_duration)
    try:
        decoded = decode_start(decoder, seconds)
        samples = np.asarray(decoded.data)
    # Whatever the codec's library raises.
    except Exception as error:
        raise DecodeError(f"the recording cannot be decoded: {reason(error)}.", path=builder.path) from error
    _add_array(samples, decoded.sample_rate, builder)


def _add_array(array: Any, rate: Any, builder: MonoBuilder) -> None:
    samples = _channels_last(array, builder.path)
    builder.begin(rate, n_frames=len(samples))
    size = builder.block_size(samples.shape[1] if samples.ndim == 2 else 1)
    for start in range(0, len(samples), size):
        if not builder.add(_scaled(samples[start : start + size], builder.path)):
            break


def _channels_last(array: Any, path: str | None) -> np.ndarray:
    """Return samples of shape (n,) or (n, channels), as they are stored."""
    try:
        samples = np.asarray(as_array(array))
    except DecodeError:
        raise
    except ValueError as error:
        raise DecodeError("the channels have unequal lengths. Give one array of numbers.", path=path) from error
    if samples.ndim not in (1, 2):
        advice = " Use ImageEmbedder() for images." if samples.ndim == 3 and samples.shape[2] in (1, 3, 4) else ""
        raise DecodeError(f"audio arrays have one or two dimensions, got shape {samples.shape}.{advice}", path=path)
    _scaled(samples[:0], path)  # refuses types
    if not samples.size:
        return samples.reshape(0)
    if samples.ndim == 2 and samples.shape[0] == samples.shape[1] != 1:
        raise DecodeError(f"shape {samples.shape} does not tell channels from samples. Give a mono array.", path=path)
    return samples.T if samples.ndim == 2 and np.argmin(samples.shape) == 0 else samples


def _scaled(samples: np.ndarray, path: str | None) -> np.ndarray:
    """Return integer samples in [-1, 1], and floats as they are."""
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype in (np.int16, np.int32):
        return samples.astype(np.float64) / -float(np.iinfo(samples.dtype).min)
    if samples.dtype.kind == "f":
        return samples
    raise DecodeError(
        f"audio arrays are floats, int16, int32 or uint8, got {samples.dtype}. Convert the array to the type that the "
        "samples were recorded with.",
        path=path,
    )


def _add_file(file: Any, builder: MonoBuilder) -> None:
    checked = CheckedFile(file)
    try:
        _add_blocks(_check_riff(checked, builder.path), builder)
    except DecodeError:
        checked.raise_error(builder.path)
        raise
    except MemoryError:
        raise
    # libsndfile's errors.
    except Exception as error:
        checked.raise_error(builder.path)
        raise DecodeError(_explained(file, error), path=builder.path) from error
    checked.raise_error(builder.path)


def _add_blocks(file: Any, builder: MonoBuilder) -> None:
    file.seek(0)
    with soundfile.SoundFile(file) as sound:
        # Some formats do not store their length, for which libsndfile returns its largest number.
        builder.begin(sound.samplerate, n_frames=sound.frames if 0 <= sound.frames < 2**62 else None)
        size = builder.block_size(sound.channels)
        while builder.add(sound.read(size, dtype="float32", always_2d=True)):
            pass


def _explained(file: Any, error: Exception) -> str:
    """Return what the file is if it is no recording, or else what is wrong with the recording."""
    start = read_start(file)
    kind = kind_of(start or b"")
    # libsndfile also reads formats whose first bytes are not known here.
    if (isinstance(error, soundfile.LibsndfileError) and error.code == _UNRECOGNIZED) or kind is not None:
        explanation = explain(start, "recording")
        if explanation:
            return explanation
    return f"the recording cannot be decoded: {reason(error)}. Save it again, or leave it out."


def _check_riff(file, path):
    """Return the file; raise DecodeError for a WAV file shorter than its header says.

    libsndfile would read the missing part without an error.

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
                    f"the WAV file is truncated: its header promises {length} bytes of samples, and it has {there}. "
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
