"""What is particular to recordings: hidden states, padding, checkpoints as the hub has them, torchaudio's bundles."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torchaudio
import transformers as tf
from safetensors.torch import load_file, save_file
from torchaudio.pipelines import Wav2Vec2Bundle

from skembed.backbones.base import AudioOptions
from skembed.backbones.models.audio_torchaudio import prepare_bundle, torchaudio_bundles
from skembed.exceptions import BackboneNotFoundError
from tests.backbones.tiny import (
    AUDIO,
    FRONT_END,
    SIZES,
    STABLE,
    _build,
    _torchaudio,
    _waveform,
    ast,
    samples,
    torchaudio_arguments,
    wav2vec2,
)
from tests.backbones.tiny_audio import NOISE, PACKED, embed, mean, opened, run, whole_window


@pytest.fixture(scope="module")
def wav2vec2_directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("wav2vec2")
    return directory, wav2vec2(directory)


@pytest.mark.parametrize("family", AUDIO)
def test_layers_are_the_library_s_own_hidden_states(family, tmp_path):
    """Not only the last: hidden states as transformers and torchaudio themselves report them."""
    AUDIO[family](tmp_path)
    backbone = opened(tmp_path)
    clip = NOISE[:12_000]
    batch = backbone.collate(backbone.preprocess([clip], AudioOptions())[0])
    layers = range(len(backbone.blocks))
    with torch.no_grad():
        found = [tokens.values for tokens in backbone.forward_blocks(batch, layers)]
        if family.startswith("torchaudio"):
            # torchaudio reports what leaves each layer, without the last norm of those that normalise first.
            expected = [None, *backbone.module.extract_features(batch["waveforms"])[0]]
            if family == "torchaudio_wav2vec2_large":
                expected[-1] = backbone.module(batch["waveforms"])[0]
        else:
            network_input = whole_window(batch["mel"]) if "mel" in batch else next(iter(batch.values()))
            output = backbone.module(network_input, output_hidden_states=True)
            expected = [*output.hidden_states[:-1], output.last_hidden_state]
    assert len(expected) == len(found) == 4
    for ours, theirs in zip(found, expected, strict=True):
        if theirs is not None:
            # Of 30 s with Whisper only the clip comes back.
            assert ours.shape[1] == (38 if family == "whisper" else theirs.shape[1])
            np.testing.assert_allclose(ours.numpy(), theirs[:, : ours.shape[1]].numpy(), atol=1e-5)


@pytest.mark.parametrize("family", AUDIO)
def test_parameters_outside_the_layers_first_show_in_the_layer_of_their_block(family, tmp_path):
    """One at a time: a final norm counted to the stem would pass where whole blocks are disturbed."""
    AUDIO[family](tmp_path)
    backbone = opened(tmp_path)
    options, layers = AudioOptions(pad_to_window=False), range(len(backbone.blocks))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        before = [tokens.values.clone() for tokens in run(backbone, [NOISE[:6000]], layers, options)]
        for name, parameter in backbone.module.named_parameters():
            if "layers." in name and not name.startswith("feature_extractor"):
                continue
            own = [block.owns(name) for block in backbone.blocks].index(True)
            saved = parameter.clone()
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
            after = [tokens.values for tokens in run(backbone, [NOISE[:6000]], layers, options)]
            parameter.copy_(saved)
            changed = [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]
            assert changed == [layer >= own for layer in layers], name


@pytest.mark.parametrize("family", AUDIO)
def test_training_mode_masks_and_drops_nothing(family, tmp_path):
    """With dropout at zero, SpecAugment and dropped layers would be all that is left of chance."""
    AUDIO[family](tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"layerdrop": 0.9, "encoder_layerdrop": 0.9, "mask_time_prob": 0.9, "apply_spec_augment": True}
    if "args" in config:
        config["args"]["encoder_layer_drop"] = 0.9
    (tmp_path / "config.json").write_text(json.dumps(config))
    backbone = opened(tmp_path)
    for module in backbone.module.modules():
        for name in ("p", "dropout", "activation_dropout", "dropout_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    with torch.no_grad():
        calm = run(backbone, [NOISE[:12_000]], [1, 3])
        backbone.module.train()
        torch.manual_seed(0)
        busy = run(backbone, [NOISE[:12_000]], [1, 3])
    for before, after in zip(calm, busy, strict=True):
        np.testing.assert_allclose(after.values.numpy(), before.values.numpy(), atol=1e-5)


@pytest.mark.parametrize("family", PACKED)
def test_padding_is_never_part_of_a_gradient(family, tmp_path):
    """A batch of unequal clips gives the gradients of its clips one by one."""
    AUDIO[family](tmp_path)
    backbone = opened(tmp_path)
    backbone.module.requires_grad_(True)
    options = AudioOptions(pad_to_window=False)
    clips = [NOISE[:12_000], NOISE[12_000:17_000]]

    def gradients(*batches):
        backbone.module.zero_grad()
        for batch in batches:
            tokens = run(backbone, batch, [3], options)[0]
            tokens.values[tokens.mask].square().sum().backward()
        return {n: p.grad.clone() for n, p in backbone.module.named_parameters() if p.grad is not None}

    together, alone = gradients(clips), gradients(clips[:1], clips[1:])
    assert len(together) == len(alone) > 20
    for name, gradient in together.items():
        scale = max(1.0, float(alone[name].abs().max()))
        np.testing.assert_allclose(gradient.numpy() / scale, alone[name].numpy() / scale, atol=1e-4, err_msg=name)


# -- wav2vec 2.0, HuBERT, WavLM, AST ----------------------------------------------------------------------


def test_a_padded_batch_would_be_wrong_for_a_group_norm(wav2vec2_directory, monkeypatch):
    """Why the front end runs at each clip's own length: the mutant that pads it is far off."""
    directory, plain = wav2vec2_directory
    clips = samples("audio")[:2]
    expected = np.stack([plain(clip) for clip in clips])
    np.testing.assert_allclose(mean(opened(directory), clips), expected, atol=1e-4)
    monkeypatch.setattr("skembed.backbones.packing._prefers_one_group", lambda device: True)
    mutant = opened(directory)
    np.testing.assert_allclose(mean(mutant, clips), expected, atol=1e-4)
    mutant.sees_padding = False
    assert np.abs(mean(mutant, clips)[0] - expected[0]).max() > 1e-3


def test_silence_and_the_shortest_clip_give_numbers(wav2vec2_directory):
    rows = embed(wav2vec2_directory[0], [np.zeros(8000, dtype=np.float32), NOISE[:400]])
    assert np.isfinite(rows).all()


@pytest.mark.parametrize("name", ["Wav2Vec2", "Hubert", "WavLM"])
def test_fine_tuned_checkpoints_as_the_hub_has_them(name, tmp_path):
    """A head that is left out, no vector for masked time, and the older names of weight normalisation."""
    config = getattr(tf, f"{name}Config")(**SIZES, **FRONT_END, vocab_size=10)
    module = _build(getattr(tf, f"{name}ForCTC"), config, tmp_path)
    extractor = tf.Wav2Vec2FeatureExtractor()
    extractor.save_pretrained(tmp_path)
    state = {
        key.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for key, value in load_file(tmp_path / "model.safetensors").items()
        if not key.endswith("masked_spec_embed")
    }
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    values = extractor(NOISE, sampling_rate=16000, return_tensors="pt")["input_values"]
    with torch.no_grad():
        expected = module.base_model(values).last_hidden_state
        found = run(opened(tmp_path), [NOISE], [3])[0].values
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)


def test_a_batch_norm_before_the_positions_sees_padding(tmp_path):
    """As mHuBERT has one: it turns the zeros of padding into its bias."""
    plain = _waveform(tmp_path, tf.HubertModel, tf.HubertConfig, **STABLE, conv_pos_batch_norm=True)
    expected = np.stack([plain(clip) for clip in samples("audio")])
    np.testing.assert_allclose(embed(tmp_path, samples("audio")), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["Wav2Vec2", "WavLM"])
def test_the_adapter_of_a_translator_is_left_out(name, tmp_path):
    """It shortens time, and the encoder's layers would no longer be as long as their mask."""
    cls, config = getattr(tf, f"{name}Model"), getattr(tf, f"{name}Config")
    _waveform(tmp_path, cls, config, **STABLE, add_adapter=True)
    module = cls.from_pretrained(tmp_path).eval()
    module.adapter = None
    values = tf.Wav2Vec2FeatureExtractor()(NOISE, sampling_rate=16000, return_tensors="pt")["input_values"]
    with torch.no_grad():
        expected = module(values).last_hidden_state
        tokens = run(opened(tmp_path), [NOISE], [3])[0]
    assert tokens.mask.all()
    np.testing.assert_allclose(tokens.values.numpy(), expected.numpy(), atol=1e-5)


def test_ast_reads_clips_shorter_than_one_analysis_window(tmp_path):
    ast(tmp_path)
    backbone = opened(tmp_path)
    clips = [NOISE[:1], NOISE[:399], np.pad(NOISE[:399], (0, 1)), NOISE[:3000]]
    with torch.no_grad():
        pooled = run(backbone, clips, [3])[0].pooled
    assert pooled.isfinite().all()
    assert torch.equal(pooled[1], pooled[2])


def test_ast_of_a_classifier_without_its_head(tmp_path):
    module = _build(tf.ASTForAudioClassification, tf.ASTConfig(max_length=128, num_mel_bins=32, **SIZES), tmp_path)
    extractor = tf.ASTFeatureExtractor(max_length=128, num_mel_bins=32)
    extractor.save_pretrained(tmp_path)
    values = extractor(NOISE[:9000], sampling_rate=16000, return_tensors="pt")["input_values"]
    with torch.no_grad():
        expected = module.base_model(values).pooler_output[0].numpy()
    np.testing.assert_allclose(embed(tmp_path, [NOISE[:9000]])[0], expected, atol=1e-5)


def test_other_networks_are_refused_by_name(tmp_path):
    tf.BertConfig(**SIZES).save_pretrained(tmp_path)
    with pytest.raises(BackboneNotFoundError, match=r"is a text backbone, and AudioEmbedder .*Use TextEmbedder"):
        opened(tmp_path)
    tf.SEWConfig().save_pretrained(tmp_path)
    with pytest.raises(BackboneNotFoundError, match="is a 'sew'; supported are wav2vec2"):
        opened(tmp_path)


# -- torchaudio's bundles ---------------------------------------------------------------------------------


def test_bundles_of_the_three_families_are_known():
    assert {"WAV2VEC2_BASE", "HUBERT_BASE", "WAVLM_BASE", "WAV2VEC2_XLSR_300M"} <= set(torchaudio_bundles())


def test_torchaudio_s_large_wavlm_takes_unequal_lengths(tmp_path):
    """Its own attention takes no mask, and says so with an assertion."""
    plain = _torchaudio(tmp_path, "wavlm_model", "layer_norm")
    expected = np.stack([plain(clip) for clip in samples("audio")])
    np.testing.assert_allclose(embed(tmp_path, samples("audio")), expected, atol=1e-4)


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
    backbone = opened(directory)
    items = backbone.preprocess([NOISE], AudioOptions())[0]
    with torch.no_grad():
        values = backbone.forward_blocks(backbone.collate(items), [2])[0].values
    middle = module.extract_features(torch.from_numpy(NOISE)[None])[0][1]
    np.testing.assert_allclose(values.numpy(), middle.detach().numpy(), atol=1e-5)


def test_a_bundle_by_name(tiny_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("SKEMBED_HOME", str(tmp_path))
    assert embed("TINY", [NOISE]).shape == (1, 16)


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
        opened(tmp_path)
