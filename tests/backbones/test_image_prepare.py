"""The preparation of images: that of timm to the bit, that of transformers to the rounding of a float."""

from __future__ import annotations

import itertools
import json
import shutil

import numpy as np
import pytest
import timm
import transformers as tf
from PIL import Image

from skembed.backbones.models.image_prepare import ImagePreparation
from skembed.exceptions import BackboneNotFoundError
from tests.backbones.tiny_images import IMAGES, noise, opened, smooth

COLOURS = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """A ViT and a full CLIP, whose preparation is to be replaced."""
    found = {family: tmp_path_factory.mktemp(family) for family in ("hf_vit", "hf_clip")}
    for family, directory in found.items():
        IMAGES[family](directory)
    return found


@pytest.fixture
def copied(directories, tmp_path):
    def get(family):
        return shutil.copytree(directories[family], tmp_path / family)

    return get


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos", "nearest"])
def test_timm_s_transform_to_the_bit(mode, interpolation):
    for size, share in itertools.product([(64, 64), (63, 63), (48, 64)], [0.875, 0.9, 1.0]):
        config = {
            "input_size": (3, *size), "crop_pct": share, "crop_mode": mode, "interpolation": interpolation, **COLOURS,
        }  # fmt: skip
        transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=config))
        prepare = ImagePreparation.from_timm(config)
        assert prepare.output_size == size
        for image in noise():
            np.testing.assert_array_equal(prepare(image), transform(image).numpy())


def test_timm_s_defaults_and_another_size():
    config = {"input_size": [3, 224, 224]}
    data = timm.data.resolve_data_config({"img_size": 48}, pretrained_cfg=config)
    transform = timm.data.create_transform(**data)
    prepare = ImagePreparation.from_timm(config, image_size=48)
    for image in noise():
        np.testing.assert_array_equal(prepare(image), transform(image).numpy())


PROCESSORS = {
    "vit": ("ViT", {"size": {"height": 48, "width": 40}}),
    "bare number is a square": ("ViT", {"size": 48}),
    "bare number is the shorter side": ("CLIP", {"size": 48, "crop_size": 40}),
    "crop of an odd margin": ("CLIP", {"size": {"shortest_edge": 47}, "crop_size": {"height": 40, "width": 40}}),
    "crop larger than the image": ("CLIP", {"size": {"shortest_edge": 40}, "crop_size": {"height": 47, "width": 45}}),
    "dinov2": ("Bit", {"size": {"shortest_edge": 55}, "crop_size": {"height": 48, "width": 48}}),
    "deit": ("DeiT", {"size": 55, "crop_size": 48}),
    "siglip": ("Siglip", {"size": {"height": 48, "width": 48}}),
    "convnext, cropped": ("ConvNext", {"size": {"shortest_edge": 50}, "crop_pct": 0.9}),
    "convnext, by default": ("ConvNext", {"size": {"shortest_edge": 48}}),
    "convnext, squeezed": ("ConvNext", {"size": {"shortest_edge": 384}}),
    "only cropped": ("CLIP", {"do_resize": False, "crop_size": {"height": 37, "width": 38}}),
    "not scaled": ("ViT", {"size": 48, "do_rescale": False}),
    "scaled to [-1, 1] by halves": ("ViT", {"size": 48, "rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3}),
    "not normalised": ("ViT", {"size": 48, "do_normalize": False}),
    "lanczos": ("ViT", {"size": 48, "resample": 1}),
}


@pytest.mark.parametrize("case", PROCESSORS)
def test_transformers_processors(case, copied):
    """Through the directory, so that what its file leaves unsaid is the processor's own default."""
    name, config = PROCESSORS[case]
    directory = copied("hf_vit")
    config = {"image_processor_type": f"{name}ImageProcessor", **config}
    (directory / "preprocessor_config.json").write_text(json.dumps(config))
    prepare = opened(directory).prepare
    pil = getattr(tf, f"{name}ImageProcessorPil").from_dict(config)
    tensors = getattr(tf, f"{name}ImageProcessor").from_dict(config)
    level = 1.0 if config.get("do_rescale", True) else 255.0
    for rough, fine in zip(noise(), smooth(), strict=True):
        expected = pil(rough, return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(prepare(rough), expected, atol=2e-6 * level)
        # torchvision resizes tensors in another arithmetic: one level of 255 in a channel, not more than two.
        difference = np.abs(prepare(fine) - tensors(fine, return_tensors="np")["pixel_values"][0])
        step = level / 255 / min(prepare.std)
        if "squeezed" not in case and not case.startswith(("crop larger", "only cropped")):
            assert difference.max() < 2.5 * step
            assert difference.mean() < 0.5 * step


def test_names_of_older_files(copied):
    """A feature extractor of 2021, and a file that names no class at all."""
    for kind in ({"feature_extractor_type": "CLIPFeatureExtractor"}, {}):
        family = "hf_clip" if not kind else "hf_vit"
        directory = copied(family)
        (directory / "preprocessor_config.json").write_text(json.dumps({"size": 40, "crop_size": 32, **kind}))
        prepare = opened(directory).prepare
        expected = tf.CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
        for image in noise():
            values = expected(image, return_tensors="np")["pixel_values"][0]
            np.testing.assert_allclose(prepare(image), values, atol=2e-6)


@pytest.mark.parametrize(
    ("config", "larger"),
    [
        ({"size": {"height": 32, "width": 32}}, {"size": {"height": 48, "width": 48}}),
        (
            {"size": {"shortest_edge": 36}, "do_center_crop": True, "crop_size": 32},
            {"size": {"shortest_edge": 54}, "do_center_crop": True, "crop_size": 48},
        ),
        (
            {"size": {"height": 36, "width": 36}, "do_center_crop": True, "crop_size": 32},
            {"size": {"height": 54, "width": 54}, "do_center_crop": True, "crop_size": 48},
        ),
        ({"size": {"shortest_edge": 32}, "crop_pct": 0.9}, {"size": {"shortest_edge": 48}, "crop_pct": 0.9}),
    ],
)
def test_another_size_keeps_the_share_that_is_cropped(config, larger):
    prepare, expected = ImagePreparation.from_transformers(config, 48), ImagePreparation.from_transformers(larger)
    assert prepare == expected
    assert prepare.output_size == (48, 48)


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"size": {"shortest_edge": 32}}, "unequal size"),
        ({"size": {"height": 32, "width": 32}, "do_resize": False}, "unequal size"),
        ({"size": {"shortest_edge": 32, "longest_edge": 64}}, "size=.* not supported"),
        ({}, "size=None"),
    ],
)
def test_sizes_that_cannot_share_a_batch_are_refused(config, match):
    with pytest.raises(BackboneNotFoundError, match=match):
        ImagePreparation.from_transformers(config)


def test_networks_for_other_images_are_refused():
    with pytest.raises(BackboneNotFoundError, match="4 channels"):
        ImagePreparation.from_timm({"input_size": (4, 32, 32)})


def test_a_pixel_in_each_corner_is_where_it_was():
    """Rows stay rows and colours stay colours, which agreement on noise of one library would not show."""
    image = Image.new("RGB", (4, 2))
    image.putpixel((3, 0), (255, 0, 0))
    image.putpixel((0, 1), (0, 0, 255))
    array = ImagePreparation((2, 4), None)(image)
    assert array.shape == (3, 2, 4)
    assert array.dtype == np.float32
    assert np.argwhere(array).tolist() == [[0, 0, 3], [2, 1, 0]]
