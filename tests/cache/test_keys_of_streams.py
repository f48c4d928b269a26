"""File objects and audio decoders have keys, so that each of them is embedded once."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skembed import AudioEmbedder, EmbeddingCache, ImageEmbedder
from skembed.inputs import content_key
from tests.finetune.tuning import directory

RNG = np.random.default_rng(0)


def _wav(samples, rate=8000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


CLIPS = [_wav(0.1 * RNG.normal(size=1600)) for _ in range(12)]


class Decoder:
    """A decoder as `datasets` returns it, without the codec's library."""

    def __init__(self, content, *, path=None, sample_rate=None, num_channels=1, stream_index=0):
        self.content, self.stream_index, self.n_decoded = content, stream_index, 0
        samples, rate = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
        step = 1 if sample_rate is None else rate // sample_rate
        self.samples = torch.from_numpy(np.repeat(samples[::step].T, num_channels, axis=0))
        self.rate = rate if sample_rate is None else sample_rate
        self.metadata = SimpleNamespace(duration_seconds_from_header=len(samples) / rate)
        self._hf_encoded = {"path": path, "bytes": content}

    def get_samples_played_in_range(self, start_seconds=0.0, stop_seconds=None):
        stop = None if stop_seconds is None else round(stop_seconds * self.rate)
        part = self.samples[:, round(start_seconds * self.rate) : stop]
        self.n_decoded += part.shape[1]
        return SimpleNamespace(data=part, sample_rate=self.rate)

    def get_all_samples(self):
        return self.get_samples_played_in_range()


class PlainDecoder(Decoder):
    """A decoder of torchcodec, which does not tell its source."""

    def __init__(self, content, **options):
        super().__init__(content, **options)
        del self._hf_encoded


def _png(color) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), color).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_file_object_has_the_key_of_its_content_and_keeps_its_position(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(CLIPS[0])
    with open(path, "rb") as file, open(path, "rb") as moved:
        moved.seek(7)
        streams = [file, moved, io.BytesIO(CLIPS[0])]
        assert {content_key(stream) for stream in streams} == {content_key(CLIPS[0])}
        assert [stream.tell() for stream in streams] == [0, 7, 0]
    assert content_key(io.BytesIO(CLIPS[1])) != content_key(io.BytesIO(CLIPS[0]))


class Pipe(io.RawIOBase):
    """A stream that can be read once."""

    def readable(self):
        return True

    def readinto(self, buffer):
        raise AssertionError("was read for its key")


def test_streams_that_cannot_be_read_twice_have_no_key():
    closed = io.BytesIO(b"x")
    closed.close()
    for stream in (Pipe(), io.StringIO("x"), closed):
        assert content_key(stream) is None


@pytest.mark.parametrize("kind", [Decoder, PlainDecoder])
def test_decoders_of_equal_sources_have_equal_keys(kind):
    assert content_key(kind(CLIPS[0])) == content_key(kind(CLIPS[0])) is not None
    others = [
        kind(CLIPS[1]),
        kind(CLIPS[0], sample_rate=4000),
        kind(CLIPS[0], num_channels=2),
        CLIPS[0],  # libsndfile and torchcodec need not decode alike
    ]
    keys = [content_key(each) for each in (kind(CLIPS[0]), *others)]
    assert None not in keys
    assert len(set(keys)) == 5


def test_a_decoder_whose_source_is_known_is_not_decoded_for_its_key(tmp_path):
    decoder = Decoder(_wav(np.zeros(80_000)))
    assert content_key(decoder) is not None
    assert decoder.n_decoded <= 1600
    (tmp_path / "a.wav").write_bytes(decoder.content)
    by_path = Decoder(decoder.content)
    by_path._hf_encoded = {"path": str(tmp_path / "a.wav"), "bytes": None}
    assert content_key(by_path) == content_key(decoder)
    assert content_key(Decoder(decoder.content, stream_index=1)) != content_key(decoder)


def test_a_decoder_whose_source_is_gone_is_known_by_its_samples():
    decoder, other = Decoder(CLIPS[0]), Decoder(CLIPS[0])
    for each in (decoder, other):
        each._hf_encoded = {"path": "hf://datasets/a/b.wav", "bytes": None}
    assert content_key(decoder) == content_key(other) is not None


def test_decoders_that_fail_or_are_too_long_have_no_key():
    class Failing:
        def get_all_samples(self):
            raise RuntimeError("no stream found")

    long = PlainDecoder(CLIPS[0])
    long.metadata.duration_seconds_from_header = 7200.0
    assert content_key(Failing()) is content_key(long) is None
    assert long.n_decoded == 0


class CountingAudio(AudioEmbedder):
    n_computed = 0

    def _compute(self, samples, **options):
        CountingAudio.n_computed += len(samples)
        return super()._compute(samples, **options)


@pytest.mark.parametrize("form", [Decoder, PlainDecoder, io.BytesIO])
def test_a_search_embeds_each_recording_once(monkeypatch, form):
    monkeypatch.setattr(CountingAudio, "n_computed", 0)
    embedder = CountingAudio(directory("whisper"), device="cpu", pad_to_window=False, cache=EmbeddingCache())
    pipeline = make_pipeline(embedder, LogisticRegression())
    X = np.array([form(clip) for clip in CLIPS], dtype=object)
    GridSearchCV(pipeline, {"logisticregression__C": [0.1, 1.0]}, cv=3).fit(X, [0, 1] * 6)
    assert CountingAudio.n_computed == len(CLIPS)


def test_images_in_file_objects_are_embedded_once():
    embedder = ImageEmbedder(directory("hf_vit"), device="cpu", cache=EmbeddingCache()).fit([_png("red")])
    expected = embedder.transform([_png("red"), _png("blue")])
    stored = embedder.cache.info()
    np.testing.assert_array_equal(embedder.transform([io.BytesIO(_png("red")), io.BytesIO(_png("blue"))]), expected)
    assert embedder.cache.info().hits == stored.hits + 2
