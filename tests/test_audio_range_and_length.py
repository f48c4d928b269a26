"""Recordings with floats out of range, and recordings that are long or have many channels."""

from __future__ import annotations

import io
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import soxr

from skembed import AudioEmbedder
from skembed.exceptions import DecodeError, DecodeWarning, TruncationWarning
from skembed.inputs import content_key, mono, read_audio
from tests.finetune.tuning import directory

RNG = np.random.default_rng(0)
TONE = np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)
PCM = (0.4 * TONE * 2**15).round()


def _file(samples, rate=8000, kind="WAV", subtype="FLOAT"):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


class Decoder:
    """A decoder as torchcodec has it, which counts the seconds that it decoded."""

    def __init__(self, samples, rate=8000):
        self.samples, self.rate, self.decoded = np.atleast_2d(samples), rate, 0.0
        self.metadata = SimpleNamespace(duration_seconds_from_header=self.samples.shape[1] / rate, sample_rate=rate)

    def get_samples_played_in_range(self, start_seconds=0.0, stop_seconds=None):
        stop = None if stop_seconds is None else round(stop_seconds * self.rate)
        part = self.samples[:, round(start_seconds * self.rate) : stop]
        self.decoded += part.shape[1] / self.rate
        return SimpleNamespace(data=part, sample_rate=self.rate)

    def get_all_samples(self):
        return self.get_samples_played_in_range()


# -- range --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        lambda samples: (samples, 8000),
        lambda samples: (samples.astype(np.float32), 8000),
        lambda samples: {"array": samples, "sampling_rate": 8000},
        lambda samples: (np.stack([samples, -samples]), 8000),  # whose mean is silence
        lambda samples: (list(samples), 8000),
        _file,
        lambda samples: {"bytes": _file(samples), "path": None},
        Decoder,
    ],
)
def test_integers_stored_as_floats_are_refused_in_every_form(form):
    with pytest.raises(DecodeError, match=r"samples reach 13107; .* \[-1, 1\].* int16 samples: divide by 32768"):
        read_audio(form(PCM), rate=16000)


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (TONE * 2**23, "24-bit samples: divide by 8388608"),
        (TONE * 2**31, "int32 samples: divide by 2147483648"),
        (TONE * 2**40, "highest value"),
        (np.round(30 * TONE), "int16"),  # a quiet recording
        (100.5 * TONE, "reach 100.5"),
    ],
)
def test_message_names_the_likely_format(samples, words):
    with pytest.raises(DecodeError, match=words):
        read_audio((samples, 8000), rate=8000)


@pytest.mark.parametrize(
    "samples", [1.2 * TONE, 12 * TONE, np.sign(TONE), RNG.normal(size=8000), np.where(TONE > 0.9, 2.5, TONE)]
)
def test_overshooting_and_standardized_recordings_are_read(samples):
    np.testing.assert_array_equal(read_audio((samples, 8000), rate=8000)[0], samples.astype(np.float32))


def test_range_is_checked_over_all_blocks(monkeypatch):
    monkeypatch.setattr(mono, "_BLOCK_VALUES", 1000)
    for late in (np.r_[TONE, PCM], np.r_[PCM, TONE]):
        with pytest.raises(DecodeError, match="divide by 32768"):
            read_audio((late, 8000), rate=8000)


def test_range_errors_follow_on_error():
    embedder = AudioEmbedder(directory("whisper"), sampling_rate=8000, device="cpu", cache=None, pad_to_window=False)
    with pytest.raises(DecodeError, match="sample 1: its floating samples reach 13107"):
        embedder.fit_transform([TONE, PCM])
    with pytest.warns(DecodeWarning, match="1 of 2 samples"):
        rows = embedder.set_params(on_error="warn").fit_transform([TONE, PCM])
    assert np.isfinite(rows[0]).all()
    assert np.isnan(rows[1]).all()


# -- length -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 11025.5])
@pytest.mark.parametrize("shape", ["mono", "channels first", "channels last"])
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64])
def test_blocks_give_the_samples_of_one_piece(monkeypatch, rate, shape, dtype):
    samples = np.clip(0.2 * RNG.normal(size=(30_000, 2)), -1, 1)
    samples = (samples * 2**15).astype(dtype) if dtype == np.int16 else samples.astype(dtype)
    scaled = samples / 2**15 if dtype == np.int16 else samples
    if shape == "mono":
        samples, expected = samples[:, 0], scaled[:, 0].astype(np.float32)
    else:
        expected = scaled.mean(axis=1).astype(np.float32)
        samples = samples.T if shape == "channels first" else samples
    if rate != 16000:
        expected = soxr.resample(expected, rate, 16000, quality="HQ")
    monkeypatch.setattr(mono, "_BLOCK_VALUES", 4096)
    np.testing.assert_array_equal(read_audio((samples, rate), rate=16000)[0], expected)


@pytest.mark.parametrize("max_duration", [None, 1.5])
def test_files_read_in_blocks_are_read_whole(monkeypatch, max_duration):
    samples = (0.1 * RNG.normal(size=(88_200, 3))).astype(np.float32)
    expected = samples[: None if max_duration is None else 66_150].mean(axis=1)
    expected = soxr.resample(expected, 44100, 16000, quality="HQ")
    monkeypatch.setattr(mono, "_BLOCK_VALUES", 4096)
    waveform, cut = read_audio(_file(samples, 44100), rate=16000, max_duration=max_duration)
    np.testing.assert_array_equal(waveform, expected)
    assert cut is (max_duration is not None)


def test_memory_does_not_grow_with_channels_and_rate():
    content = _file(np.zeros((40 * 48_000, 8), dtype=np.int16), 48_000, "FLAC", "PCM_16")
    read_audio(content, rate=16000, max_duration=1)
    tracemalloc.start()
    waveform, _ = read_audio(content, rate=16000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert waveform.shape == (40 * 16000,)
    assert peak < 25e6  # all samples of all channels as float32 are 61 MB


def _silence(seconds, rate=100):
    return np.zeros(seconds * rate, dtype=np.int16)


@pytest.mark.parametrize(
    "form", [lambda s: (s, 100), lambda s: _file(s, 100, "WAV", "PCM_16"), lambda s: Decoder(s, 100)]
)
def test_recordings_above_half_an_hour_need_max_duration(form):
    assert read_audio(form(_silence(1800)), rate=200)[0].shape == (360_000,)
    with pytest.raises(DecodeError, match=r"lasts 1801 s, and max_duration=None .* 1800 s .*Set max_duration="):
        read_audio(form(_silence(1801)), rate=200)
    for seconds in (1801, 7200.0, float("inf")):
        waveform, cut = read_audio(form(_silence(1801)), rate=200, max_duration=seconds)
        assert (waveform.shape, cut) == ((360_200,), False)
    assert read_audio(form(_silence(1801)), rate=200, max_duration=1800)[1] is True


def test_the_limit_holds_where_a_header_does_not_tell_the_length():
    builder = mono.MonoBuilder(200, None, 400)
    builder.begin(100)
    assert builder.add(_silence(1800) / 2**15)
    with pytest.raises(DecodeError, match="lasts more than 1800 s"):
        builder.add(_silence(1) / 2**15)


def test_too_long_recordings_are_named_by_index():
    embedder = AudioEmbedder(directory("whisper"), sampling_rate=100, device="cpu", cache=None, pad_to_window=False)
    clips = [_silence(1), _silence(2000)]
    with pytest.raises(DecodeError, match=r"sample 1: the recording lasts 2000 s.*max_duration="):
        embedder.fit_transform(clips)
    with pytest.warns(TruncationWarning, match="1 of 2 recordings"):
        assert np.isfinite(embedder.set_params(max_duration=1.0).fit_transform(clips)).all()


def test_decoders_decode_no_more_than_is_kept():
    decoder = Decoder(_silence(2000), 100)
    with pytest.raises(DecodeError, match="lasts 2000 s"):
        read_audio(decoder, rate=200)
    assert decoder.decoded == 0
    waveform, cut = read_audio(decoder, rate=200, max_duration=10)
    assert (len(waveform), cut) == (2000, True)
    assert decoder.decoded <= 11


@pytest.mark.parametrize("declared", [None, 1.0])
def test_decoders_whose_header_does_not_tell_the_length_decode_no_more_than_is_kept(declared):
    decoder = Decoder(_silence(7200), 100)
    decoder.metadata.duration_seconds_from_header = declared
    with pytest.raises(DecodeError, match=r"lasts 1801 s, and max_duration=None"):
        read_audio(decoder, rate=200)
    assert decoder.decoded <= 1801
    decoder.decoded = 0
    waveform, cut = read_audio(decoder, rate=200, max_duration=10)
    assert (len(waveform), cut) == (2000, True)
    assert decoder.decoded <= 11
    assert len(read_audio(decoder, rate=200, max_duration=float("inf"))[0]) == 1_440_000


def test_keys_of_decoders_decode_no_more_than_half_an_hour():
    decoder = Decoder(_silence(7200), 100)
    decoder.metadata.duration_seconds_from_header = None
    assert content_key(decoder) is None
    assert decoder.decoded <= 1801
    short = Decoder(_silence(5), 100)
    short.metadata.duration_seconds_from_header = None
    assert content_key(short) == content_key(Decoder(_silence(5), 100))


def test_a_declared_length_counts_where_a_decoder_decodes_everything_at_once():
    def decode():
        raise AssertionError("decoded")

    header = SimpleNamespace(duration_seconds_from_header=7200.0)
    with pytest.raises(DecodeError, match="lasts 7200 s"):
        read_audio(SimpleNamespace(get_all_samples=decode, metadata=header), rate=200)
