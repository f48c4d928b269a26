"""What is particular to recordings: windows, padding, Whisper's own length, torchaudio's bundles."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torchaudio
import transformers as tf
from torchaudio.pipelines import Wav2Vec2Bundle

from skembed import AudioEmbedder
from skembed.backbones.audio_torchaudio import prepare_bundle, torchaudio_bundles
from skembed.backbones.base import AudioOptions, BackboneSpec
from skembed.backbones.loading import open_spec
from skembed.exceptions import BackboneNotFoundError
from tests.backbones.tiny import _torchaudio, samples, torchaudio_arguments, wav2vec2, whisper

NOISE = (0.1 * np.random.default_rng(1).normal(size=40_000)).astype(np.float32)


@pytest.fixture(scope="module")
def whisper_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whisper")
    return directory, whisper(directory)


@pytest.fixture(scope="module")
def wav2vec2_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("wav2vec2")
    return directory, wav2vec2(directory)


def _rows(directory, clips, **parameters):
    return AudioEmbedder(str(directory), sampling_rate=16000, device="cpu", **parameters).fit_transform(clips)


def test_whisper_on_a_clip_s_own_length_is_the_network_of_that_length(whisper_directory, tmp_path):
    """transformers' encoder refuses other lengths; one configured for the clip's length is independent of us."""
    directory, _ = whisper_directory
    clip = NOISE[:16_000]
    features = tf.WhisperFeatureExtractor(feature_size=80)(
        clip, sampling_rate=16000, padding="do_not_pad", return_tensors="pt"
    )["input_features"]
    config = tf.WhisperConfig.from_pretrained(directory)
    long = tf.WhisperForConditionalGeneration.from_pretrained(directory).model.encoder
    config.max_source_positions = features.shape[2] // 2
    short = tf.models.whisper.modeling_whisper.WhisperEncoder(config).eval()
    state = long.state_dict()
    state["embed_positions.weight"] = state["embed_positions.weight"][: config.max_source_positions]
    short.load_state_dict(state)
    with torch.no_grad():
        expected = short(features).last_hidden_state[0].mean(0).numpy()
    np.testing.assert_allclose(_rows(directory, [clip], pad_to_window=False)[0], expected, atol=1e-5)


def test_whisper_never_pools_its_padding(whisper_directory):
    directory, plain = whisper_directory
    clips = [NOISE[:n] for n in (3201, 16_000, 40_000)]
    rows = _rows(directory, clips)
    np.testing.assert_allclose(rows, np.stack([plain(clip) for clip in clips]), atol=1e-4)
    encoder = tf.WhisperForConditionalGeneration.from_pretrained(directory).model.encoder
    features = tf.WhisperFeatureExtractor(feature_size=80)(clips[0], sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        over_padding = encoder(features["input_features"]).last_hidden_state[0].mean(0).numpy()
    assert np.abs(rows[0] - over_padding).max() > 0.01


@pytest.mark.parametrize("pad_to_window", [True, False])
def test_long_recordings_are_read_in_windows_weighted_by_length(whisper_directory, pad_to_window):
    directory, _ = whisper_directory
    whole = _rows(directory, [NOISE], window=1.0, pad_to_window=pad_to_window)[0]
    # 2.5 s in windows of at most 1 s: three of nearly equal length.
    parts = [NOISE[a:b] for a, b in ((0, 13_333), (13_333, 26_667), (26_667, 40_000))]
    rows = _rows(directory, parts, pad_to_window=pad_to_window)
    lengths = [-(-len(part) // 320) for part in parts]
    np.testing.assert_allclose(whole, np.average(rows, axis=0, weights=lengths), atol=1e-5)


def test_windows_beyond_what_the_network_reads_are_refused(whisper_directory):
    with pytest.raises(ValueError, match=r"window=31 is longer than the 30 s"):
        _rows(whisper_directory[0], [NOISE], window=31)
    with pytest.raises(ValueError, match=r"window=0\.01"):
        _rows(whisper_directory[0], [NOISE], window=0.01)


def test_a_padded_batch_would_be_wrong_for_a_group_norm(wav2vec2_directory):
    """Why clips of unequal length do not share a batch: the mutant that lets them is far off."""
    directory, plain = wav2vec2_directory
    backbone = open_spec(BackboneSpec("audio", str(directory)))
    assert not backbone.pads
    clips = samples("audio")[:2]
    items = [windows[0] for windows in backbone.preprocess(clips, AudioOptions())]
    with torch.no_grad():
        padded = backbone.forward_blocks(backbone.collate(items), [len(backbone.blocks) - 1])[0]
    frames = int(padded.mask[0].sum())
    mutant = padded.values[0, :frames].mean(0).numpy()
    assert np.abs(mutant - plain(clips[0])).max() > 1e-3
    np.testing.assert_allclose(_rows(directory, clips)[0], plain(clips[0]), atol=1e-4)


def test_silence_and_the_shortest_clip_give_numbers(wav2vec2_directory):
    rows = _rows(wav2vec2_directory[0], [np.zeros(8000, dtype=np.float32), NOISE[:400]])
    assert np.isfinite(rows).all()


# -- torchaudio's bundles ---------------------------------------------------------------------------------


def test_bundles_of_the_three_families_are_known():
    assert {"WAV2VEC2_BASE", "HUBERT_BASE", "WAVLM_BASE", "WAV2VEC2_XLSR_300M"} <= set(torchaudio_bundles())


@pytest.fixture
def tiny_bundle(monkeypatch):
    """A bundle whose download is answered here; counts and remembers how it was asked."""
    torch.manual_seed(0)
    arguments = torchaudio_arguments("wav2vec2_model", "group_norm")
    module = torchaudio.models.wav2vec2_model(**{**arguments, "aux_num_out": 7}).eval()
    bundle = Wav2Vec2Bundle("tiny.pth", arguments, 16000, False, "Wav2Vec2")
    calls = []

    def download(url, **kwargs):
        calls.append((url, kwargs))
        return module.state_dict()

    monkeypatch.setattr(torchaudio.pipelines._wav2vec2.utils, "load_state_dict_from_url", download)
    monkeypatch.setattr(torchaudio.pipelines, "TINY", bundle, raising=False)
    return module, calls


def test_a_bundle_is_downloaded_once_without_running_code(tiny_bundle, tmp_path):
    module, calls = tiny_bundle
    directory = prepare_bundle("TINY", tmp_path)
    assert prepare_bundle("TINY", tmp_path) == directory
    assert len(calls) == 1
    assert calls[0][1]["weights_only"] is True
    assert json.loads((directory / "config.json").read_text())["sampling_rate"] == 16000
    backbone = open_spec(BackboneSpec("audio", str(directory)))
    items = backbone.preprocess([NOISE], AudioOptions())[0]
    with torch.no_grad():
        values = backbone.forward_blocks(backbone.collate(items), [2])[0].values
    middle = module.extract_features(torch.from_numpy(NOISE)[None])[0][1]
    np.testing.assert_allclose(values.numpy(), middle.detach().numpy(), atol=1e-5)


def test_a_bundle_by_name(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("SKEMBED_HOME", str(tmp_path))
    assert _rows("TINY", [NOISE]).shape == (1, 16)


def test_a_bundle_that_cannot_be_downloaded(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torchaudio.pipelines._wav2vec2.utils, "load_state_dict_from_url", refuse)
    with pytest.raises(BackboneNotFoundError, match="WAV2VEC2_BASE are not on this machine"):
        prepare_bundle("WAV2VEC2_BASE", tmp_path)


def test_torchaudio_directories_of_another_builder_are_refused(tmp_path):
    _torchaudio(tmp_path, "wav2vec2_model", "group_norm")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "builder": "conformer"}))
    with pytest.raises(BackboneNotFoundError, match="builder='conformer'"):
        open_spec(BackboneSpec("audio", str(tmp_path)))
