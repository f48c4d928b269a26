"""Recordings: speed, loudness, noise, shifts. Float32 in, float32 out, at the same sampling rate, never empty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import soxr

from skembed.augment.operation import SampleOperation, check_interval, check_number

__all__ = ["Gain", "Noise", "SpeedPerturbation", "TimeShift"]


@dataclass(frozen=True, repr=False, kw_only=True)
class AudioOperation(SampleOperation):
    """An operation on a mono waveform."""

    modality: ClassVar[str] = "audio"


@dataclass(frozen=True, repr=False, kw_only=True)
class SpeedPerturbation(AudioOperation):
    """Play faster or slower by resampling [1]_, which changes length and pitch together.

    The sampling rate stays. Do not use it if pitch carries the label, as for machines and musical notes.

    Parameters
    ----------
    factors : tuple of float, default=(0.9, 1.0, 1.1)
        Factors from 0.5 to 2, of which one is drawn with equal probability. With 1.1 a recording takes 1 / 1.1 of its
        time, and 440 Hz become 484 Hz.
    probability : float, default=1.0
        Share of the recordings for which a factor is drawn.

    References
    ----------
    .. [1] Ko et al. (2015), Audio Augmentation for Speech Recognition.

    Examples
    --------
    >>> waveform = np.zeros(16000, dtype=np.float32)
    >>> len(SpeedPerturbation(factors=(1.25,)).on_sample(waveform, np.random.default_rng(0)))
    12800
    """

    name: ClassVar[str] = "speed_perturbation"
    factors: tuple[float, ...] = (0.9, 1.0, 1.1)

    def __post_init__(self):
        super().__post_init__()
        factors = self.factors
        numbers = isinstance(factors, (tuple, list)) and all(isinstance(f, (int, float, np.number)) for f in factors)
        if not numbers or not factors or not all(0.5 <= factor <= 2 for factor in factors):
            raise ValueError(f"{self.name}: factors={factors!r} is out of range. Use a tuple of numbers from 0.5 to 2.")
        object.__setattr__(self, "factors", tuple(factors))

    def _change(self, value: np.ndarray, rng, sampling_rate):
        factor = float(self.factors[rng.integers(len(self.factors))])
        if factor == 1:
            return value
        # Only the ratio of the rates matters: samples taken at `factor` times the rate are played at the rate.
        return np.asarray(soxr.resample(value, factor, 1.0, quality="HQ"), dtype=np.float32)


@dataclass(frozen=True, repr=False, kw_only=True)
class Gain(AudioOperation):
    """Play louder or softer, without clipping.

    It has no effect on networks that normalize their input, such as most of wav2vec 2.0's kind.

    Parameters
    ----------
    decibels : (float, float), default=(-6.0, 6.0)
        Smallest and largest change of the level in dB, from -60 to 60, drawn uniformly. 6 dB double the amplitude.
    probability : float, default=1.0
        Share of the recordings that are changed.

    Examples
    --------
    >>> Gain(decibels=(20, 20)).on_sample(np.ones(2, dtype=np.float32), np.random.default_rng(0))
    array([10., 10.], dtype=float32)
    """

    name: ClassVar[str] = "gain"
    decibels: tuple[float, float] = (-6.0, 6.0)

    def __post_init__(self):
        super().__post_init__()
        check_interval(self, "decibels", -60, 60)

    def _change(self, value: np.ndarray, rng, sampling_rate):
        return value * np.float32(10 ** (rng.uniform(*self.decibels) / 20))


@dataclass(frozen=True, repr=False, kw_only=True)
class Noise(AudioOperation):
    """Add noise at an exact signal-to-noise ratio over the whole recording [1]_.

    Parameters
    ----------
    snr : (float, float), default=(10.0, 30.0)
        Smallest and largest ratio in dB of the recording's mean power to that of the noise, from -20 to 100, drawn
        uniformly. Speech at 30 dB sounds clean; at 0 dB it is hard to follow. Silence stays silent.
    kind : {"white", "pink"}, default="white"
        Spectrum of the noise: equal power at all frequencies, or power that falls with the frequency, as in the noise
        of rooms and engines.
    probability : float, default=0.5
        Share of the recordings that are changed.

    References
    ----------
    .. [1] Hannun et al. (2014), Deep Speech: Scaling up End-to-end Speech Recognition.

    Examples
    --------
    >>> tone = np.sin(np.arange(8000, dtype=np.float32))
    >>> noisy = Noise(snr=(20, 20), probability=1.0).on_sample(tone, np.random.default_rng(0))
    >>> print(f"{10 * np.log10(np.mean(tone**2) / np.mean((noisy - tone) ** 2)):.2f} dB")
    20.00 dB
    """

    name: ClassVar[str] = "noise"
    snr: tuple[float, float] = (10.0, 30.0)
    kind: str = "white"
    probability: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        check_interval(self, "snr", -20, 100)
        if self.kind not in ("white", "pink"):
            raise ValueError(f"{self.name}: kind={self.kind!r} is not known. Use 'white' or 'pink'.")

    def _change(self, value: np.ndarray, rng, sampling_rate):
        snr, noise = rng.uniform(*self.snr), rng.normal(size=len(value))
        if self.kind == "pink":
            noise = _pink(noise)
        signal_power, noise_power = _power(value), _power(noise)
        if not signal_power or not noise_power:
            return value
        scale = np.sqrt(signal_power / noise_power / 10 ** (snr / 10))
        return (value + scale * noise).astype(np.float32)


@dataclass(frozen=True, repr=False, kw_only=True)
class TimeShift(AudioOperation):
    """Shift the recording in time; silence fills the gap, and the length stays.

    Parameters
    ----------
    seconds : float, default=0.1
        Largest shift in seconds, from 0 to 60, in both directions. It is at most half of the recording.
    probability : float, default=1.0
        Share of the recordings that are shifted.

    Examples
    --------
    >>> clip = np.arange(1, 7, dtype=np.float32)
    >>> TimeShift(seconds=1).on_sample(clip, np.random.default_rng(4), sampling_rate=2)
    array([0., 0., 1., 2., 3., 4.], dtype=float32)
    """

    name: ClassVar[str] = "time_shift"
    seconds: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        check_number(self, "seconds", 0, 60)

    def _change(self, value: np.ndarray, rng, sampling_rate):
        if not sampling_rate:
            raise ValueError(
                f"{self.name}: sampling_rate={sampling_rate!r} is not a rate. Give the samples per second (Hz)."
            )
        limit = min(round(self.seconds * sampling_rate), len(value) // 2)
        offset = int(rng.integers(-limit, limit + 1))
        if offset == 0:
            return value
        shifted = np.zeros_like(value)
        if offset > 0:
            shifted[offset:] = value[:-offset]
        else:
            shifted[:offset] = value[-offset:]
        return shifted


def _power(waveform: np.ndarray) -> float:
    return float(np.mean(np.square(waveform, dtype=np.float64)))


def _pink(white: np.ndarray) -> np.ndarray:
    """Return noise whose power is inversely proportional to the frequency, without a constant part."""
    spectrum = np.fft.rfft(white)
    spectrum[0] = 0
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    return np.fft.irfft(spectrum, len(white))
