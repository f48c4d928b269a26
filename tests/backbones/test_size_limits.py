"""Impossible sizes in a backbone's files: refused by name, before any memory is taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from skembed import AudioEmbedder, ImageEmbedder, TextEmbedder
from skembed.backbones.loading.load import loaded
from skembed.backbones.weights.size_limits import limit_network, read_headers
from skembed.exceptions import BackboneReadError
from tests.backbones import tiny

EMBEDDERS = {"text": TextEmbedder, "image": ImageEmbedder, "audio": AudioEmbedder}


def _fit(directory: Path, family: str):
    modality = tiny.MODALITY[family]
    arguments = {"sampling_rate": 16000} if modality == "audio" else {}
    try:
        samples = tiny.samples(modality)[:2]
        return EMBEDDERS[modality](str(directory), device="cpu", cache=None, **arguments).fit_transform(samples)
    finally:
        loaded.clear()


def _set(path: Path, value, *keys: str) -> None:
    content = json.loads(path.read_text())
    section = content
    for key in keys[:-1]:
        section = section.setdefault(key, {})
    section[keys[-1]] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("family", "keys", "value"),
    [
        ("bert", ("num_hidden_layers",), 10_000_000),
        ("bert", ("hidden_size",), 10**9),
        ("bert", ("vocab_size",), 10**9),
        ("bert", ("vocab_size",), 90_000_000),  # small enough for the configuration, too large for the weights
        ("bert", ("num_attention_heads",), 0),
        ("bert", ("hidden_size",), "sixteen"),
        ("gpt2", ("n_head",), -1),
        ("hf_vit", ("image_size",), 10**9),
        ("hf_vit", ("patch_size",), 0),
        ("timm_vit", ("model_args", "depth"), 10**9),
        ("timm_vit", ("model_args", "embed_dim"), 80_000_000),
        ("timm_vit", ("model_args", "num_heads"), 0),
        ("timm_vit", ("pretrained_cfg", "input_size"), [3, 10**6, 10**6]),
        ("wav2vec2", ("conv_dim",), [10**9, 16]),
        ("torchaudio_wav2vec2", ("args", "encoder_num_layers"), 10_000_000),
        ("torchaudio_wav2vec2", ("args", "encoder_embed_dim"), 90_000_000),
        ("torchaudio_wav2vec2", ("args", "encoder_num_heads"), 0),
    ],
    ids=str,
)
def test_impossible_sizes_are_refused_by_the_name_of_the_file(copy, family, keys, value):
    directory = copy(family)
    _set(directory / "config.json", value, *keys)
    with pytest.raises(BackboneReadError, match=r"config\.json (has|describes)"):
        _fit(directory, family)


@pytest.mark.parametrize(
    ("family", "key", "value"),
    [
        ("whisper", "n_fft", 10**9),
        ("whisper", "feature_size", 0),
        ("whisper", "hop_length", "160"),
        ("whisper", "sampling_rate", -16000),
        ("hf_vit", "size", {"height": 10**6, "width": 10**6}),
        ("hf_vit", "size", {"height": 0, "width": 32}),
    ],
    ids=str,
)
def test_impossible_sizes_of_inputs_are_refused(copy, family, key, value):
    directory = copy(family)
    _set(directory / "preprocessor_config.json", value, key)
    with pytest.raises(BackboneReadError, match=r"preprocessor_config\.json has .*positive integer of at most"):
        _fit(directory, family)


@pytest.mark.parametrize("family", ["bert", "timm_vit", "wav2vec2"])
@pytest.mark.parametrize("share", [0, 0.1, 0.9])
def test_truncated_weights_are_refused_by_the_name_of_the_file(copy, family, share):
    path = copy(family) / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(BackboneReadError, match=r"model\.safetensors is not a complete safetensors file"):
        _fit(path.parent, family)


@pytest.mark.parametrize("entry", [3, {"shape": [10**12], "data_offsets": [0, 4]}, {"shape": [2]}, {"shape": None}])
def test_impossible_headers_are_refused(tmp_path, entry):
    header = json.dumps({"weight": entry}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(BackboneReadError, match="not a complete safetensors file"):
        read_headers(tmp_path)


def test_headers_are_counted(originals):
    from safetensors.torch import load_file

    tensors = load_file(originals("bert") / "model.safetensors")
    assert read_headers(originals("bert")) == (len(tensors), sum(value.numel() for value in tensors.values()))


def test_networks_of_other_threads_and_replaced_tensors_are_not_counted(originals):
    import threading

    def build():
        layer = torch.nn.Linear(2000, 1000, device="meta")
        for _ in range(5):
            layer.weight = torch.nn.Parameter(layer.weight.detach())

    with limit_network(originals("bert")):
        torch.nn.Linear(10, 10)
        layer = torch.nn.Linear(900, 1000, device="meta")
        for _ in range(5):
            layer.weight = torch.nn.Parameter(layer.weight.detach())
        thread = threading.Thread(target=build)
        thread.start()
        thread.join()
        with pytest.raises(BackboneReadError, match=r"more than .* values"):
            build()
    build()  # nothing is limited afterwards


@pytest.mark.parametrize("arguments", [[1], "depth", 3])
def test_arguments_of_timm_that_are_no_dict_are_refused(copy, arguments):
    directory = copy("timm_vit")
    _set(directory / "config.json", arguments, "model_args")
    with pytest.raises(BackboneReadError, match=r"config\.json: model_args must be a dict"):
        _fit(directory, "timm_vit")
