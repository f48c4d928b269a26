"""Paths below the home directory, and strings that are given as paths and are none."""

from __future__ import annotations

import base64

import numpy as np
import pytest
import soundfile
from PIL import Image

from skembed import EmbeddingCache, FineTuneClassifier, TextEmbedder
from skembed.exceptions import DecodeError
from skembed.inputs import content_key, read_audio, read_image
from skembed.testing import ArrayEmbedder
from tests.backbones.tiny import bert


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "home"


def test_samples_below_the_home_directory_are_read(home):
    Image.new("RGB", (4, 4), "red").save(home / "x.png")
    soundfile.write(home / "x.wav", np.zeros(8000), 8000)
    assert read_image("~/x.png").size == (4, 4)
    assert content_key("~/x.png") == content_key(str(home / "x.png"))
    assert len(read_audio("~/x.wav", rate=8000)[0]) == 8000


def test_directories_below_the_home_directory_are_used(home):
    bert(home)
    TextEmbedder("~").fit(["a cat"])
    EmbeddingCache("~/cache").put_many("n", [b"k" * 20], np.ones((1, 3), np.float32))
    X = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    FineTuneClassifier(ArrayEmbedder(), checkpoint_dir="~/fits", random_state=0).fit(X, [0, 1] * 6)
    assert (home / "cache").is_dir()
    assert (home / "fits").is_dir()
    assert not list((home.parent / "elsewhere").iterdir())


@pytest.mark.parametrize("read", [read_image, lambda sample: read_audio(sample, rate=8000)])
def test_addresses_and_data_uris_are_named(read):
    with pytest.raises(DecodeError, match="Download it first"):
        read("https://example.org/x.png")
    uri = "data:image/png;base64," + base64.b64encode(bytes(3000)).decode()
    with pytest.raises(DecodeError, match="data URI") as caught:
        read(uri)
    assert len(str(caught.value)) < 400
