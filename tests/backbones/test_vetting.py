"""Damaged and hostile backbone directories: one error that names the file, and nothing fetched or run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from skembed import AudioEmbedder, ImageEmbedder, TextEmbedder
from skembed.backbones.loading.load import loaded
from skembed.exceptions import BackboneReadError
from tests.backbones import tiny

EMBEDDERS = {"text": TextEmbedder, "image": ImageEmbedder, "audio": AudioEmbedder}
#: One of each adapter.
FAMILIES = ("bert", "gpt2", "hf_vit", "timm_vit", "wav2vec2")


def _edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    content = change(content) or content
    path.write_text(json.dumps(content))


def _rows(directory: Path, family: str):
    modality = tiny.MODALITY[family]
    arguments = {"sampling_rate": 16000} if modality == "audio" else {}
    embedder = EMBEDDERS[modality](str(directory), device="cpu", precision="float32", cache=None, **arguments)
    samples = tiny.samples(modality)[:2]
    try:
        return embedder.fit(samples).transform(samples)
    finally:
        loaded.clear()


# -- foreign code -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "hf_vit", "wav2vec2", "clip_text"])
@pytest.mark.parametrize(
    "entry",
    [
        {"attn_implementation": "owner/kernel"},
        {"_attn_implementation": "owner/kernel@main:function"},
        {"attn_implementation": {"": "owner/kernel"}},
        {"attn_implementation": "unknown"},
        {"attn_implementation": 3},
        {"experts_implementation": "owner/kernel"},
        {"text_config": {"attn_implementation": "owner/kernel"}},
        {"quantization_config": {"quant_method": "mxfp4"}},
    ],
    ids=str,
)
def test_requests_for_foreign_kernels_are_refused(copy, family, entry):
    directory = copy(family)

    def add(config):
        for key, value in entry.items():
            config[key] = {**config.get(key, {}), **value} if key == "text_config" else value

    _edit(directory / "config.json", add)
    with pytest.raises(BackboneReadError, match=r"config\.json (asks for|has a) .*(implementation|quantization)"):
        _rows(directory, family)


@pytest.mark.parametrize("name", [None, "eager", "sdpa", "flash_attention_2", "flex_attention"])
def test_known_attention_implementations_change_no_rows(copy, originals, name):
    """They name what is fastest elsewhere, and may not be installed here."""
    directory = copy("bert")
    _edit(directory / "config.json", lambda config: config.update(attn_implementation=name))
    np.testing.assert_array_equal(_rows(directory, "bert"), _rows(originals("bert"), "bert"))


def _plant_code(directory: Path, family: str) -> None:
    """Code beside the weights that leaves a trace when it runs."""
    (directory / "planted.py").write_text(f"open({str(directory / 'ran')!r}, 'w')\nclass Planted: pass\n")
    names = ("AutoConfig", "AutoModel", "AutoTokenizer", "AutoFeatureExtractor", "AutoImageProcessor")
    entry = {
        "auto_map": dict.fromkeys(names, "planted.Planted"),
        "custom_pipelines": {"a": {"impl": "planted.Planted"}},
    }
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        if (directory / name).is_file():
            _edit(directory / name, lambda config: config.update(entry))


@pytest.mark.parametrize("family", ["bert", "hf_vit", "wav2vec2"])
def test_code_beside_the_weights_is_never_run(copy, originals, family, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers asks at the terminal
    directory = copy(family)
    _plant_code(directory, family)
    np.testing.assert_array_equal(_rows(directory, family), _rows(originals(family), family))
    _edit(directory / "config.json", lambda config: config.update(model_type="planted"))
    with pytest.raises(BackboneReadError, match="config"):
        _rows(directory, family)
    assert not (directory / "ran").exists()


def test_adapters_that_name_another_network_are_refused(copy):
    directory = copy("bert")
    entry = {"base_model_name_or_path": "owner/other", "peft_type": "LORA"}
    (directory / "adapter_config.json").write_text(json.dumps(entry))
    with pytest.raises(BackboneReadError, match=r"adapter_config\.json .*merge_and_unload"):
        _rows(directory, "bert")


@pytest.mark.parametrize("key", ["checkpoint_path", "pretrained_cfg_overlay", "pretrained_cfg", "pretrained"])
def test_other_sources_of_timm_weights_are_refused(copy, key):
    directory = copy("timm_vit")
    _edit(directory / "config.json", lambda config: config["model_args"].update({key: {"hf_hub_id": "owner/other"}}))
    with pytest.raises(BackboneReadError, match=f"config.json: model_args .*{key}"):
        _rows(directory, "timm_vit")
