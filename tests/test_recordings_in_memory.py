"""Recordings in memory: the forms of an array with its rate, and what is taken for neither."""

from __future__ import annotations

import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.io.wavfile
import soundfile
import torch
from PIL import Image

from skembed import AudioEmbedder, ImageEmbedder, TextEmbedder
from skembed.exceptions import DecodeError
from skembed.inputs import as_samples, content_key, read_audio, read_image
from skembed.inputs.describing import describe
from tests.finetune.tuning import directory

TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)).astype(np.float32)
INT16 = (TONE * 32767).astype(np.int16)
PIXELS = np.random.default_rng(0).integers(0, 256, size=(24, 32, 3), dtype=np.uint8)


def _waveform(sample, **parameters):
    return read_audio(sample, rate=8000, **parameters)[0]


FORMS = {
    "soundfile": (TONE, 8000),
    "scipy": (8000, TONE),
    "gradio": (8000, INT16),
    "gradio, two channels": (8000, np.stack([INT16, INT16], axis=1)),
    "int32": (8000, INT16.astype(np.int32) * 65536),
    "uint8": (8000, ((TONE + 1) * 127.5).round().astype(np.uint8)),
    "NumPy's rate": (np.int64(8000), TONE),
    "floating rate": (8000.0, TONE),
    "rate as a tensor": (torch.tensor(TONE), torch.tensor(8000)),
    "list": [8000, TONE.tolist()],
    "datasets": {"array": TONE, "sampling_rate": 8000, "path": "a.wav"},
    "transformers": {"raw": TONE, "sampling_rate": 8000},
    "torchaudio": {"waveform": torch.tensor(TONE)[None], "sample_rate": 8000},
    "equal rates": {"array": INT16, "rate": 8000, "sr": 8000.0},
    "torchcodec": SimpleNamespace(data=torch.tensor(TONE)[None], sample_rate=8000),
}


@pytest.mark.parametrize("sample", FORMS.values(), ids=FORMS)
def test_every_form_of_an_array_with_its_rate_is_read(sample):
    # The rate of the sample, not that of the parameter. 8 bits are the coarsest of the forms.
    np.testing.assert_allclose(_waveform(sample, sampling_rate=16_000), TONE, atol=0.02)
    assert content_key(sample) is not None


@pytest.mark.parametrize("name", ["soundfile", "scipy", "datasets", "transformers"])
def test_a_slow_recording_is_described_by_its_array(name):
    assert describe(FORMS[name]) == "an array of shape (8000,)"


def test_forms_of_one_recording_share_a_key():
    names = ("soundfile", "scipy", "NumPy's rate", "floating rate", "rate as a tensor", "datasets", "transformers")
    assert len({content_key(FORMS[name]) for name in names}) == 1
    assert content_key((8000, TONE)) != content_key((16000, TONE))
    assert content_key({"raw": TONE}) == content_key(TONE)


def test_a_file_read_by_scipy_is_embedded_as_the_file(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, INT16, 8000)
    embedder = AudioEmbedder(directory("whisper"), device="cpu", pad_to_window=False, cache="memory")
    rows = embedder.fit_transform([path, scipy.io.wavfile.read(path)])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-5)


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ((TONE, TONE), r"ndarray and ndarray\. Channels are one array: np\.stack"),
        ((8000, 8000), "two numbers: 8000 and 8000"),
        (("a.wav", 8000), "got a str. A file is given alone"),
        ((8000, "a.wav"), "got a str. A file is given alone"),
        ((b"RIFF", 8000), r"bytes of samples become an array with np\.frombuffer"),
        ({"raw": INT16.tobytes(), "sampling_rate": 8000}, r"np\.frombuffer"),
        ({"array": TONE, "raw": TONE, "sampling_rate": 8000}, "several arrays: array, raw"),
        ({"array": TONE, "sampling_rate": 8000, "sample_rate": 16000}, "several rates: sampling_rate=8000, sample_r"),
        ({"waveform": TONE}, "Set sampling_rate="),
        ({"url": "a.wav", "label": 3}, '\'url\', \'label\'. Give a dict with "bytes" or "path", or "array"'),
        ({}, "unknown: none"),
        ({"bytes": None, "path": None}, "missing value"),
        ((TONE, 8000, 1), "got tuple"),
        ((np.array(0.5), 8000), "two numbers"),
        ({"array": np.array(0.5), "sampling_rate": 8000}, r"shape \(\)"),
        ((8000, [1, 2, 3] * 3000), "int64. Convert the array"),
        (Image.fromarray(PIXELS), r"Use ImageEmbedder\(\) for images"),
        (PIXELS, r"Use ImageEmbedder\(\) for images"),
    ],
)
def test_what_is_no_array_with_a_rate_is_named(sample, words):
    with pytest.raises(DecodeError, match=words):
        read_audio(sample, rate=8000)


@pytest.mark.parametrize("sample", [(8000, TONE), (TONE, 8000), FORMS["datasets"], FORMS["torchcodec"], TONE])
def test_a_recording_given_as_an_image_is_named(sample):
    with pytest.raises(DecodeError, match=r"[Uu]se AudioEmbedder\(\)"):
        read_image(sample)


def test_an_image_s_dict_without_its_keys_is_named():
    with pytest.raises(DecodeError, match=r"'image'\. Give a dict with .bytes. or .path.\.$"):
        read_image({"image": PIXELS})


@pytest.mark.parametrize("X", [(8000, TONE), [TONE, 8000], scipy.io.wavfile.read])
def test_one_recording_is_no_collection_of_samples(X):
    if callable(X):
        file = io.BytesIO()
        soundfile.write(file, INT16, 8000, format="WAV")
        file.seek(0)
        X = X(file)
    with pytest.raises(TypeError, match=r"single recording, an array and its rate. Wrap it in a list: \[X\]"):
        AudioEmbedder(directory("whisper"), device="cpu").fit_transform(X)


@pytest.mark.parametrize("X", [["a", 5], [TONE, float("nan")], [TONE, 3], [TONE, TONE], [8000, 16000], [TONE, 8000, 1]])
def test_two_samples_are_two_samples(X):
    assert len(as_samples(X)) == len(X)


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
@pytest.mark.parametrize("size", [(24, 32), (120, 120)])  # as long as a path, and longer than a path can be
def test_base64_text_of_a_file_is_no_path(encode, size):
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "PNG")
    for read in (read_image, lambda sample: read_audio(sample, rate=8000)):
        with pytest.raises(DecodeError, match=r"base64 text of a PNG image, not a path.*base64\.b64decode"):
            read(encode(file.getvalue()).decode())


def test_texts_are_not_taken_for_recordings():
    embedder = TextEmbedder(directory("bert"), device="cpu")
    with pytest.raises(DecodeError, match=r"sample 0: expected a text, got tuple.*AudioEmbedder"):
        embedder.fit_transform([(8000, TONE)])


def test_images_are_embedded_beside_a_recording_by_policy():
    embedder = ImageEmbedder(directory("timm_resnet"), device="cpu", on_error="nan", cache="memory")
    rows = embedder.fit_transform([PIXELS, (8000, TONE)])
    assert np.isnan(rows).all(axis=1).tolist() == [False, True]
