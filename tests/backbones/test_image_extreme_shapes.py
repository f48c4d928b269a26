"""Images of extreme proportions cost no more than ordinary ones, and ordinary ones keep their pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import skembed.backbones.models.image_prepare as image_prepare
from skembed import ImageEmbedder
from skembed.backbones.models.image_prepare import ImagePreparation
from skembed.exceptions import BackboneNotFoundError

FILTERS = [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS]


def _noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, size=(height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (3, 50_000)])
@pytest.mark.parametrize("fit", ["short side", "cover"])
def test_extreme_proportions_resize_only_what_is_kept(monkeypatch, size, fit):
    resized = []
    resize = Image.Image.resize

    def record(self, size, *args, **kwargs):
        resized.append(size[0] * size[1])
        return resize(self, (min(size[0], 5000), min(size[1], 5000)), *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", record)
    side = 256 if fit == "short side" else (256, 256)
    fit = "exact" if fit == "short side" else fit
    assert ImagePreparation(side, (224, 224), fit=fit).pixels(Image.new("RGB", size)).shape == (224, 224, 3)
    assert max(resized) <= 256 * 256


@pytest.mark.parametrize("rounding", ["timm", "transformers"])
@pytest.mark.parametrize("resampling", FILTERS)
@pytest.mark.parametrize("size", [(7, 391), (391, 7), (900, 333), (64, 65), (20, 20)])
def test_kept_part_equals_the_crop_of_the_whole(monkeypatch, size, resampling, rounding):
    prepare = ImagePreparation(64, (56, 57), resampling=resampling, rounding=rounding)
    whole = prepare.pixels(_noise(*size)).astype(int)
    monkeypatch.setattr(image_prepare, "_MAX_RESIZED_PIXELS", 0)
    assert np.abs(prepare.pixels(_noise(*size)).astype(int) - whole).max() <= 1


@pytest.mark.parametrize("rounding", ["timm", "transformers"])
def test_long_narrow_image_is_cut_before_it_is_padded(monkeypatch, rounding):
    created = []
    new = Image.new

    def record(mode, size, *args):
        created.append(size)
        return new(mode, size, *args)

    image = _noise(3001, 5)
    monkeypatch.setattr(Image, "new", record)
    pixels = ImagePreparation(None, (20, 20), rounding=rounding).pixels(image)
    assert created == [(20, 20)]
    top = 7 if rounding == "timm" else 8
    np.testing.assert_array_equal(pixels[top : top + 5], np.asarray(image)[:, 1490:1510])
    assert pixels.sum() == pixels[top : top + 5].sum()


@pytest.mark.parametrize(
    "config",
    [
        {"size": {"height": 10**9, "width": 10**9}},
        {"size": {"shortest_edge": 10**9}, "do_center_crop": True, "crop_size": 224},
        {"size": 224, "crop_pct": 1e-9},
        {"size": 224, "crop_pct": -1},
    ],
)
def test_sizes_of_a_configuration_are_bounded(config):
    with pytest.raises(BackboneNotFoundError, match=r"is out of range: sides have 1 to 8192 pixels"):
        ImagePreparation.from_transformers(config)


def test_image_size_is_bounded():
    with pytest.raises(ValueError, match=r"'image_size' .* range \[1, 8192\]"):
        ImageEmbedder(image_size=10**6).fit([np.zeros((8, 8), np.uint8)])
