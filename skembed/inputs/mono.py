"""Mix recordings down to mono at one rate, block by block, in bounded memory."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import soxr

from skembed.exceptions import DecodeError

__all__ = ["DEFAULT_MAX_DURATION", "MAX_RATE", "MIN_RATE", "MonoBuilder", "check_rate"]

#: Seconds of a recording that are read where `max_duration` is None; longer recordings are refused.
DEFAULT_MAX_DURATION = 1800.0
#: Samples per second (Hz) that a recording may have. A header that says 1 Hz would make gigabytes of a small file.
MIN_RATE, MAX_RATE = 100, 10_000_000
#: Values of a block, at the source's or the result's rate, whichever is higher. 2^20 float32 values are 4 MB.
_BLOCK_VALUES = 2**20
#: Highest peak of floating samples. Mixes that overshoot reach 4 (+12 dB), recordings scaled to unit variance rarely
#: exceed 30, and 16-bit integers up to 64 are at -54 dB, hardly above a microphone's noise.
_HIGHEST_PEAK = 64.0
#: Peaks of integer formats, and what their samples are divided by.
_INTEGER_SCALES = {"int16": 2**15, "24-bit": 2**23, "int32": 2**31}


def check_rate(rate: Any, path: str | None = None) -> float:
    """Return a sampling rate in Hz as a float, or raise DecodeError."""
    if rate is None:
        raise DecodeError("the rate of this array is unknown. Set sampling_rate= (Hz), or give (array, rate).")
    if not isinstance(rate, Real) or not MIN_RATE <= float(rate) <= MAX_RATE:
        raise DecodeError(
            f"the rate {rate!r} is not a number of samples per second. Use a number from {MIN_RATE} to {MAX_RATE} Hz.",
            path=path,
        )
    return float(rate)


class MonoBuilder:
    """Collect blocks of a recording as one mono waveform.

    Parameters
    ----------
    rate : int
        Samples per second (Hz) of the waveform.
    max_duration : float or None
        Seconds to keep from the start. None keeps the whole recording and refuses one that lasts longer than
        `DEFAULT_MAX_DURATION`.
    min_samples : int
        Fewest samples of the waveform.
    """

    def __init__(self, rate: int, max_duration: float | None, min_samples: int):
        self.rate, self.max_duration, self.min_samples = rate, max_duration, min_samples
        self.path: str | None = None
        self.source_rate = float(rate)
        self._parts: list[np.ndarray] = []
        self._resampler: Any = None
        self._limit = np.inf
        self._n_read = self._n_unusable = 0
        self._peak, self._is_whole = 0.0, True

    def begin(self, source_rate: Any, n_frames: int | None = None) -> None:
        """Set the source's rate (Hz), and the samples per channel if they are known."""
        self.source_rate = check_rate(source_rate, self.path)
        if n_frames is not None:
            self.check_duration(n_frames / self.source_rate)
        seconds = DEFAULT_MAX_DURATION if self.max_duration is None else self.max_duration
        self._limit = round(seconds * self.source_rate) if np.isfinite(seconds) else np.inf
        if self.source_rate != self.rate:
            self._resampler = soxr.ResampleStream(self.source_rate, self.rate, 1, dtype="float32", quality="HQ")

    def check_duration(self, seconds: float) -> None:
        """Refuse a recording that lasts longer than is read where `max_duration` is None."""
        if self.max_duration is None and seconds > DEFAULT_MAX_DURATION:
            raise self._too_long(f"{seconds:.0f} s")

    def block_size(self, n_channels: int) -> int:
        """Return how many samples of each channel make a block."""
        return max(1, int(_BLOCK_VALUES / max(n_channels, self.rate / self.source_rate)))

    def add(self, block: np.ndarray) -> bool:
        """Add a block of shape (n_samples[, n_channels]); return True if more is needed."""
        room = self._limit - self._n_read
        self._n_read += len(block)
        if self.max_duration is None and self._n_read > self._limit:
            raise self._too_long(f"more than {DEFAULT_MAX_DURATION:.0f} s")
        block = block[: int(min(room, len(block)))]
        if not len(block):
            return False
        self._note_range(block)
        # What is too large for float32 becomes infinite, and is refused as that.
        with np.errstate(over="ignore"):
            mono = (block.mean(axis=1) if block.ndim == 2 else block).astype(np.float32)
        self._n_unusable += int((~np.isfinite(mono)).sum())
        self._parts.append(mono if self._resampler is None else self._resampler.resample_chunk(mono))
        return self._n_read <= self._limit

    def finish(self) -> tuple[np.ndarray, bool]:
        """Return the waveform, float32, and whether something after `max_duration` was left out."""
        if not self._n_read:
            raise DecodeError("the recording is empty.", path=self.path)
        # Resampling smears what is not finite over its neighborhood, so it was counted before.
        self._refuse_unusable()
        self._check_length(int(min(self._n_read, self._limit)))
        if self._resampler is not None:
            self._parts.append(self._resampler.resample_chunk(np.zeros(0, np.float32), last=True))
        waveform = self._parts[0] if len(self._parts) == 1 else np.concatenate(self._parts)
        self._n_unusable = int((~np.isfinite(waveform)).sum())  # near the largest float, ringing overflows
        self._refuse_unusable()
        self._check_range()
        return np.ascontiguousarray(waveform), self._n_read > self._limit

    def _too_long(self, duration: str) -> DecodeError:
        return DecodeError(
            f"the recording lasts {duration}, and max_duration=None reads at most {DEFAULT_MAX_DURATION:.0f} s "
            "(30 minutes). Set max_duration= (seconds) to read its start, or as many seconds as you need.",
            path=self.path,
        )

    def _refuse_unusable(self) -> None:
        if self._n_unusable:
            raise DecodeError(f"{self._n_unusable} of its samples are NaN or infinite.", path=self.path)

    def _check_length(self, n_samples: int) -> None:
        shortest = self.min_samples / self.rate
        if n_samples < shortest * self.source_rate:
            lasts = n_samples / self.source_rate * 1000
            raise DecodeError(
                f"the recording lasts {lasts:.1f} ms; at least {shortest * 1000:g} ms are needed.", path=self.path
            )

    def _note_range(self, block: np.ndarray) -> None:
        """Record the peak of the samples before mixing, and if they are whole numbers."""
        self._peak = max(self._peak, float(block.max()), -float(block.min()))
        self._is_whole = self._is_whole and bool((block == np.rint(block)).all())

    def _check_range(self) -> None:
        is_integer = self._is_whole and self._peak >= 2
        if self._peak <= _HIGHEST_PEAK and not is_integer:
            return
        hint = "Divide by the highest value that its format allows."
        for name, scale in _INTEGER_SCALES.items():
            if self._peak <= scale:
                hint = f"They look like {name} samples: divide by {scale}, or give integers."
                break
        raise DecodeError(
            f"its floating samples reach {self._peak:g}; the range is [-1, 1], or a little beyond. {hint}",
            path=self.path,
        )
