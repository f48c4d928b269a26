"""Waveforms: speed by ear (a tone's pitch), levels and ratios by computing them, shifts by looking."""

from __future__ import annotations

import numpy as np
import pytest

from skembed.augment import OPERATIONS, Gain, Noise, SpeedPerturbation, TimeShift
from tests.augment.cases import RATE, recording, sure

RNG = np.random.default_rng
ON_SAMPLES = ["speed_perturbation", "gain", "noise", "time_shift"]


def _change(operation, waveform, seed=0):
    return operation.on_sample(waveform, RNG(seed), sampling_rate=RATE)


@pytest.mark.parametrize("n_samples", [1, 2, 3, 401, 8000])
@pytest.mark.parametrize("name", ON_SAMPLES)
def test_float32_one_dimension_finite_and_never_empty(name, n_samples):
    waveform = recording()[1 : n_samples + 1]
    for seed in range(10):
        result = _change(sure(name), waveform, seed)
        assert result.dtype == np.float32
        assert result.ndim == 1
        assert len(result) > 0
        assert np.isfinite(result).all()
        if name != "speed_perturbation":
            assert len(result) == len(waveform)


@pytest.mark.parametrize("name", ON_SAMPLES)
def test_silence_stays_silence(name):
    assert not _change(sure(name), np.zeros(4000, dtype=np.float32)).any()


def _pitch(waveform):
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return np.argmax(spectrum) * RATE / len(waveform)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1, 2.0])
def test_faster_is_shorter_and_higher_at_the_same_rate(factor):
    """A rate that was mixed up, or a factor turned round, changes the pitch the other way."""
    result = _change(SpeedPerturbation(factors=(factor,)), recording(2.0, hertz=1000))
    assert len(result) == pytest.approx(2 * RATE / factor, abs=1)
    assert _pitch(result) == pytest.approx(1000 * factor, rel=0.005)
    middle = result[len(result) // 4 : -len(result) // 4]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.01)  # and as loud


def test_no_frequencies_are_folded_by_playing_faster():
    """7 kHz at double speed would be 14 kHz, beyond what 16 kHz can hold: it must go, and not come back as 2 kHz."""
    result = _change(SpeedPerturbation(factors=(2.0,)), recording(1.0, hertz=7000))
    assert np.abs(result[500:-500]).max() < 0.005


@pytest.mark.parametrize("factor", [0.5, 1.25, 2.0])
def test_the_shortest_recording_is_not_lost(factor):
    assert len(_change(SpeedPerturbation(factors=(factor,)), np.ones(1, dtype=np.float32))) >= 1


def test_all_factors_are_drawn_alike():
    waveform, factors = recording(0.1), (0.8, 1.0, 1.25)
    lengths = [len(_change(SpeedPerturbation(factors=factors), waveform, seed)) for seed in range(600)]
    for factor in factors:
        assert np.mean([n == round(len(waveform) / factor) for n in lengths]) == pytest.approx(1 / 3, abs=0.06)


def test_gain_is_in_decibels_over_its_range():
    waveform = recording()
    levels = [20 * np.log10(_change(Gain(decibels=(-6, 12)), waveform, s).max() / waveform.max()) for s in range(300)]
    assert -6 <= min(levels) < -5.7
    assert 11.7 < max(levels) <= 12.001
    assert np.mean(levels) == pytest.approx(3, abs=1)
    loud = _change(Gain(decibels=(20, 20)), waveform)
    assert np.allclose(loud, 10 * waveform)  # not clipped


@pytest.mark.parametrize("kind", ["white", "pink"])
@pytest.mark.parametrize("snr", [-10, 0, 20])
def test_the_ratio_of_signal_to_noise_is_met(snr, kind):
    waveform = recording() * np.linspace(0, 1, 8000, dtype=np.float32)
    noise = _change(Noise(snr=(snr, snr), kind=kind, probability=1), waveform).astype(float) - waveform
    ratio = 10 * np.log10(np.mean(waveform.astype(float) ** 2) / np.mean(noise**2))
    assert ratio == pytest.approx(snr, abs=0.01)


@pytest.mark.parametrize("kind", ["white", "pink"])
def test_a_single_sample_has_no_pink_noise(kind):
    result = _change(Noise(kind=kind, probability=1), np.ones(1, dtype=np.float32))
    assert np.isfinite(result).all()
    assert (result != 1) == (kind == "white")


def test_ratios_are_drawn_from_their_range():
    waveform, ratios = recording(0.1), []
    for seed in range(300):
        noise = _change(Noise(snr=(5, 25), probability=1), waveform, seed) - waveform
        ratios.append(10 * np.log10(np.mean(waveform**2) / np.mean(noise**2)))
    assert 5 <= min(ratios) + 0.01 < 6
    assert 24 < max(ratios) - 0.01 <= 25
    assert np.mean(ratios) == pytest.approx(15, abs=1)


def test_white_noise_is_even_and_pink_falls_with_the_frequency():
    def octaves(kind):
        """Power at 500 to 1000 Hz by that at 4 to 8 kHz, by Hz."""
        waveform = recording(2.0, hertz=50)
        noise = _change(Noise(snr=(0, 0), kind=kind, probability=1), waveform) - waveform
        power = np.abs(np.fft.rfft(noise)) ** 2
        hertz = np.fft.rfftfreq(len(noise), 1 / RATE)
        return power[(hertz > 500) & (hertz < 1000)].mean() / power[(hertz > 4000) & (hertz < 8000)].mean()

    noise = _change(Noise(snr=(0, 0), kind="pink", probability=1), recording()) - recording()
    assert abs(noise.mean()) < 1e-3  # no constant part, which would take all of the power
    assert octaves("white") == pytest.approx(1, rel=0.15)
    assert octaves("pink") == pytest.approx(8, rel=0.2)


def test_shifts_move_by_up_to_the_seconds_and_fill_with_silence():
    waveform, offsets = recording() + np.float32(1), []
    for seed in range(300):
        result = _change(TimeShift(seconds=0.05), waveform, seed)
        offset = int(np.flatnonzero(result)[0]) or int(np.flatnonzero(result)[-1]) + 1 - len(result)
        offsets.append(offset)
        moved = waveform[max(0, -offset) : len(waveform) - max(0, offset)]
        assert np.array_equal(result[max(0, offset) : len(result) + min(0, offset)], moved)
        assert (result == 0).sum() == abs(offset)
    assert -800 <= min(offsets) < -750
    assert 750 < max(offsets) <= 800
    assert abs(np.mean(offsets)) < 80


def test_no_shift_loses_more_than_half():
    for seed in range(50):
        result = TimeShift(seconds=60).on_sample(np.ones(11, dtype=np.float32), RNG(seed), sampling_rate=RATE)
        assert result.sum() >= 6


def test_a_shift_needs_the_rate_and_the_rest_does_not():
    with pytest.raises(ValueError, match="time_shift: sampling_rate=None is not a rate"):
        TimeShift().on_sample(recording(), RNG(0))
    for name in ("speed_perturbation", "gain", "noise"):
        assert OPERATIONS[name](probability=1).on_sample(recording(), RNG(0)) is not None
    at_8, at_16 = (TimeShift(seconds=0.1).on_sample(recording(), RNG(4), sampling_rate=r) for r in (8000, 16000))
    assert not np.array_equal(at_8, at_16)


@pytest.mark.parametrize("name", ON_SAMPLES)
def test_the_probability_is_respected(name):
    waveform = recording(0.05)
    changed = [_change(sure(name, probability=0.3), waveform, seed) is not waveform for seed in range(600)]
    assert np.mean(changed) == pytest.approx(0.3, abs=0.06)
