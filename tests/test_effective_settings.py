"""A parameter left at None and the backbone's own value written out share cached rows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from skembed import AudioEmbedder, EmbeddingCache, ImageEmbedder, TextEmbedder
from tests.backbones import tiny

EMBEDDERS = {"text": TextEmbedder, "image": ImageEmbedder, "audio": AudioEmbedder}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Build a family's directory once per module."""
    built: dict[str, Path] = {}

    def build(family: str) -> Path:
        if family not in built:
            built[family] = tmp_path_factory.mktemp(family)
            tiny.BUILDERS[family](built[family])
        return built[family]

    return build


def _rows(directory, modality, cache, **parameters):
    rate = {"sampling_rate": 16_000} if modality == "audio" else {}
    embedder = EMBEDDERS[modality](directory, cache=cache, device="cpu", precision="float32", **rate, **parameters)
    return embedder.fit_transform(tiny.samples(modality)[:2])


@pytest.mark.filterwarnings("ignore::skembed.exceptions.TruncationWarning")
@pytest.mark.parametrize(
    ("family", "parameter", "written_out", "other"),
    [
        ("bert", "max_length", 64, 8),  # positions
        ("sentence_transformers", "max_length", np.int64(40), 8),  # sentence_bert_config.json
        ("timm_vit", "image_size", 64, 96),
        ("timm_efficientnet", "image_size", 64, 96),
        ("hf_clip", "image_size", np.int64(32), 48),
        ("hf_convnext", "image_size", 48, 64),
        ("wav2vec2", "window", 30, 0.2),
        ("whisper", "window", 30, 0.2),
        ("ast", "window", 1.28, 0.2),
    ],
)
def test_a_default_written_out_shares_rows(directory, family, parameter, written_out, other):
    cache, modality = EmbeddingCache(), tiny.MODALITY[family]
    default = _rows(directory(family), modality, cache)
    assert cache.info().entries == 2
    _rows(directory(family), modality, cache, **{parameter: written_out})
    assert cache.info().entries == 2
    # Rows may be shared only because they are the same.
    computed = _rows(directory(family), modality, None, **{parameter: written_out})
    np.testing.assert_array_equal(computed, default)
    _rows(directory(family), modality, cache, **{parameter: other})
    assert cache.info().entries == 4


@pytest.mark.parametrize("family", ["wav2vec2", "ast"])
def test_padding_to_the_window_is_part_of_the_key_only_where_it_changes_rows(directory, family):
    cache = EmbeddingCache()
    default = _rows(directory(family), "audio", cache)
    np.testing.assert_array_equal(_rows(directory(family), "audio", None, pad_to_window=False), default)
    _rows(directory(family), "audio", cache, pad_to_window=False)
    assert cache.info().entries == 2


def test_padding_to_the_window_of_whisper_is_part_of_the_key(directory):
    cache = EmbeddingCache()
    for pad_to_window in (True, np.True_, False):
        _rows(directory("whisper"), "audio", cache, pad_to_window=pad_to_window)
    assert cache.info().entries == 4


def test_a_rectangular_input_has_no_size_written_out(directory, tmp_path):
    """A network for 64 x 96 pixels and one for 64 x 64 are not the same."""
    shutil.copytree(directory("timm_efficientnet"), tmp_path / "wide")
    path = tmp_path / "wide" / "config.json"
    config = json.loads(path.read_text())
    config["pretrained_cfg"]["input_size"] = [3, 64, 96]
    path.write_text(json.dumps(config))
    cache = EmbeddingCache()
    for image_size in (None, 64, 96):
        _rows(tmp_path / "wide", "image", cache, image_size=image_size)
    assert cache.info().entries == 6
