"""Backbones that another embedder reads: it is named, and the backbone is called what the user called it."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from skembed import AudioEmbedder, ImageEmbedder, TextEmbedder
from skembed.backbones.loading.modality import other_reader, refuse_other_reader
from skembed.backbones.spec import BackboneSpec
from skembed.exceptions import BackboneNotFoundError

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
EFFICIENTNET = "tf_efficientnet_lite0.in1k"


@pytest.mark.parametrize(
    ("embedder", "name", "right"),
    [
        (TextEmbedder, "resnet50", "ImageEmbedder"),
        (TextEmbedder, "resnet50.a1_in1k", "ImageEmbedder"),
        (AudioEmbedder, "facebook/dinov2-small", "ImageEmbedder"),
        (ImageEmbedder, "WAV2VEC2_BASE", "AudioEmbedder"),
        (AudioEmbedder, "openai/clip-vit-base-patch32", "ImageEmbedder or TextEmbedder"),
    ],
)
def test_a_name_of_another_modality_that_is_not_installed(embedder, name, right):
    with pytest.raises(BackboneNotFoundError) as caught:
        embedder(name).fit(["sample"])
    assert str(caught.value).startswith(f"backbone={name!r} is an ")
    assert str(caught.value).endswith(f"Use {right}.")


@pytest.mark.bundled
@pytest.mark.parametrize(
    ("embedder", "name", "told"),
    [
        (ImageEmbedder, MINILM, "a text backbone, and ImageEmbedder reads images. Use TextEmbedder."),
        (AudioEmbedder, MINILM, "a text backbone, and AudioEmbedder reads recordings. Use TextEmbedder."),
        (TextEmbedder, EFFICIENTNET, "an image backbone, and TextEmbedder reads texts. Use ImageEmbedder."),
        (TextEmbedder, "openai/whisper-tiny.en", "an audio backbone, and TextEmbedder reads texts. Use AudioEmbedder."),
    ],
)
def test_a_backbone_of_another_modality_that_is_installed(embedder, name, told):
    """Fails when its directory is shown, or only the family that is not supported."""
    with pytest.raises(BackboneNotFoundError) as caught:
        embedder(name).fit(["sample"])
    assert str(caught.value) == f"backbone={name!r} is {told}"


@pytest.mark.parametrize(
    ("config", "reads"),
    [
        ({"architecture": "resnet18"}, {"image"}),
        ({"library_name": "torchaudio"}, {"audio"}),
        ({"model_type": "whisper"}, {"audio"}),
        ({"model_type": "vit"}, {"image"}),
        ({"model_type": "gpt2"}, {"text"}),
        ({"model_type": "t5"}, {"text"}),
        ({"model_type": "clip"}, {"image", "text"}),
        ({"model_type": "siglip"}, {"image", "text"}),
        ({"model_type": "of my own"}, {"image", "text", "audio"}),
        ({}, {"image", "text", "audio"}),
    ],
)
def test_the_configuration_tells(tmp_path, config, reads):
    (tmp_path / "config.json").write_text(json.dumps(config))
    for modality in ("image", "text", "audio"):
        if modality in reads:
            refuse_other_reader(BackboneSpec(modality, "mine"), tmp_path)
        else:
            with pytest.raises(BackboneNotFoundError, match=r"backbone='mine' is an? "):
                refuse_other_reader(BackboneSpec(modality, "mine"), tmp_path)


def test_unknown_names_are_not_guessed_at():
    assert other_reader("someone/something", "text") == other_reader("gpt2", "text") == ""
    assert other_reader("resnet50", "image") == ""


@pytest.mark.bundled
@pytest.mark.parametrize("parameters", [{"layers": 99}, {"layers": []}, {"truncate_dim": 9999}, {"pooling": "cls"}])
def test_errors_show_the_name_that_was_given(parameters):
    """Fails when a name comes from what an earlier process wrote of the same weights in a directory of another name."""
    from skembed.backbones.loading.card import locate

    directory = locate(BackboneSpec("image", EFFICIENTNET))
    image = np.zeros((32, 32, 3), np.uint8)
    ImageEmbedder(directory).fit([image])
    with pytest.raises(ValueError, match=re.escape(EFFICIENTNET)) as caught:
        ImageEmbedder(EFFICIENTNET, **parameters).fit([image])
    assert str(directory) not in str(caught.value)
