"""Whisper's encoder: the padded window, a clip's own length, windows, checkpoints, the real weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tf

from skembed.backbones.base import AudioOptions
from tests.backbones.tiny import _build, whisper
from tests.backbones.tiny_audio import NOISE, embed, opened, run, whole_window
from tests.conftest import data_directory


@pytest.fixture(scope="module")
def whisper_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whisper")
    return directory, whisper(directory)


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
    np.testing.assert_allclose(embed(directory, [clip], pad_to_window=False)[0], expected, atol=1e-5)


def test_whisper_never_pools_its_padding(whisper_directory):
    directory, plain = whisper_directory
    clips = [NOISE[:n] for n in (3201, 16_000, 40_000)]
    rows = embed(directory, clips)
    np.testing.assert_allclose(rows, np.stack([plain(clip) for clip in clips]), atol=1e-4)
    encoder = tf.WhisperForConditionalGeneration.from_pretrained(directory).model.encoder
    features = tf.WhisperFeatureExtractor(feature_size=80)(clips[0], sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        over_padding = encoder(features["input_features"]).last_hidden_state[0].mean(0).numpy()
    assert np.abs(rows[0] - over_padding).max() > 0.01


@pytest.mark.parametrize("pad_to_window", [True, False])
def test_long_recordings_are_read_in_windows_weighted_by_length(whisper_directory, pad_to_window):
    directory, _ = whisper_directory
    whole = embed(directory, [NOISE], window=1.0, pad_to_window=pad_to_window)[0]
    # 2.5 s in windows of at most 1 s: three of nearly equal length.
    parts = [NOISE[a:b] for a, b in ((0, 13_333), (13_333, 26_667), (26_667, 40_000))]
    rows = embed(directory, parts, pad_to_window=pad_to_window)
    lengths = [-(-len(part) // 320) for part in parts]
    np.testing.assert_allclose(whole, np.average(rows, axis=0, weights=lengths), atol=1e-5)


@pytest.mark.parametrize("n_samples", [1, 100, 16_000, 479_599, 479_601, 479_999, 480_000])
def test_the_silence_of_a_padded_window_is_what_the_extractor_makes_of_it(whisper_directory, n_samples):
    """Only the clip's own frames are computed; beyond 30 s minus an analysis window nothing is left to repeat."""
    backbone = opened(whisper_directory[0])
    clip = (0.1 * np.random.default_rng(2).normal(size=n_samples)).astype(np.float32)
    items = backbone.preprocess([clip], AudioOptions())[0]
    expected = tf.WhisperFeatureExtractor(feature_size=80)(clip, sampling_rate=16000, return_tensors="np")
    np.testing.assert_allclose(
        whole_window(backbone.collate(items)["mel"]).numpy(), expected["input_features"], atol=1e-6
    )
    assert len(items) == 1
    assert items[0].length == -(-n_samples // 320)


def test_silence_that_repeats_is_not_convolved(whisper_directory):
    """The stem of 30 s from a few frames of silence: the library's own, to the last frame beside the end."""
    backbone = opened(whisper_directory[0])
    encoder = backbone.module
    for clips in ([NOISE[:3000]], [NOISE[:16_000], NOISE[:3000]], [np.tile(NOISE, 12)[:478_000], NOISE[:3000]]):
        batch = backbone.collate([windows[0] for windows in backbone.preprocess(clips, AudioOptions())])
        whole = whole_window(batch["mel"])
        with torch.no_grad():
            hidden = torch.nn.functional.gelu(encoder.conv2(torch.nn.functional.gelu(encoder.conv1(whole))))
            expected = hidden.transpose(1, 2) + encoder.embed_positions.weight
            found = backbone._stem(batch["mel"], batch["attended"].tolist()).unflatten(0, (len(clips), 1500))
        np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("pad_to_window", [True, False])
@pytest.mark.parametrize("rows", [1, 200, 10**6])
def test_how_many_clips_run_at_once_does_not_matter(whisper_directory, monkeypatch, pad_to_window, rows):
    backbone, options = opened(whisper_directory[0]), AudioOptions(pad_to_window=pad_to_window)
    clips = [NOISE[:n] for n in (40_000, 20_000, 20_000, 3000)]
    with torch.no_grad():
        expected = run(backbone, clips, range(4), options)
        monkeypatch.setattr("skembed.backbones.models.audio_whisper._CPU_ROWS", rows)
        found = run(backbone, clips, range(4), options)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.values.numpy(), theirs.values.numpy(), atol=1e-5)


def test_a_short_clip_does_not_hold_30_s_of_spectrogram(whisper_directory):
    item = opened(whisper_directory[0]).preprocess([NOISE[:16_000]], AudioOptions())[0][0]
    assert item.data["mel"].shape[1] < 120


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("cls", ["WhisperForConditionalGeneration", "WhisperModel", "WhisperEncoder"])
def test_whisper_of_the_whole_model_or_of_the_encoder_alone(cls, n_mels, tmp_path):
    config = tf.WhisperConfig(
        vocab_size=60, d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_target_positions=20,
        num_mel_bins=n_mels, pad_token_id=1, bos_token_id=2, eos_token_id=3, decoder_start_token_id=2,
    )  # fmt: skip
    module = _build(getattr(tf, cls, tf.models.whisper.modeling_whisper.WhisperEncoder), config, tmp_path)
    encoder = module if cls == "WhisperEncoder" else module.get_encoder()
    extractor = tf.WhisperFeatureExtractor(feature_size=n_mels)
    extractor.save_pretrained(tmp_path)
    features = extractor(NOISE, sampling_rate=16000, return_tensors="pt")["input_features"]
    with torch.no_grad():
        expected = encoder(features).last_hidden_state[:, :125]
        found = run(opened(tmp_path), [NOISE], [2])[0].values
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)


@pytest.mark.realdata
@pytest.mark.parametrize("pad_to_window", [True, False])
def test_real_whisper_weights_are_those_of_transformers(pad_to_window):
    data = data_directory()
    directory = (data or Path("nowhere")).parent / "models" / "whisper-tiny-en-encoder"
    if not directory.is_dir():
        pytest.skip(f"no {directory.name} beside the real data")
    backbone = opened(directory)
    encoder = tf.models.whisper.modeling_whisper.WhisperEncoder.from_pretrained(directory, dtype=torch.float32).eval()
    clips = [NOISE, NOISE[:16_000]]
    top = len(backbone.blocks) - 1
    with torch.inference_mode():
        together = run(backbone, clips, [top], AudioOptions(pad_to_window=pad_to_window))[0]
        assert together.mask.sum(1).tolist() == [125, 50]
        for row, clip in enumerate(clips):
            if pad_to_window:
                extractor = tf.WhisperFeatureExtractor.from_pretrained(directory)
                features = extractor(clip, sampling_rate=16000, return_tensors="pt")["input_features"]
                expected = encoder(features).last_hidden_state
            else:
                expected = run(backbone, [clip], [top], AudioOptions(pad_to_window=False))[0].values
            n_frames = int(together.mask[row].sum())
            found, expected = together.values[row, :n_frames], expected[:, :n_frames]
            np.testing.assert_allclose(found.numpy(), expected[0].numpy(), atol=1e-4 * float(expected.abs().max()))


def test_windows_beyond_what_the_network_reads_are_refused(whisper_directory):
    with pytest.raises(ValueError, match=r"window=31 is longer than the 30 s"):
        embed(whisper_directory[0], [NOISE], window=31)
    with pytest.raises(ValueError, match=r"window=0\.01"):
        embed(whisper_directory[0], [NOISE], window=0.01)
