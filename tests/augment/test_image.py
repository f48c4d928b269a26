"""Images: mode and size, geometry against arrays, colours against torchvision, frequencies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageStat
from torchvision.transforms import v2

from skembed.augment import OPERATIONS, ColorJitter, Flip, RandAugment, RandomErasing, RandomResizedCrop, Rotation
from skembed.augment.rand_augment import CHANGES
from tests.augment.cases import photograph, sure

RNG = np.random.default_rng
IMAGE_OPERATIONS = [name for name, cls in OPERATIONS.items() if cls.modality == "image"]


@pytest.mark.parametrize("size", [(48, 32), (31, 77), (1, 1), (1, 40), (3, 2)])
@pytest.mark.parametrize("name", IMAGE_OPERATIONS)
def test_rgb_stays_rgb_and_only_a_crop_changes_the_size(name, size):
    image = photograph(*size)
    for seed in range(15):
        result = sure(name).on_sample(image, RNG(seed))
        assert isinstance(result, Image.Image)
        assert result.mode == "RGB"
        if name == "random_resized_crop":
            assert all(0 < own <= limit for own, limit in zip(result.size, size, strict=True))
        else:
            assert result.size == size


def _located_crops(n, **parameters):
    """Boxes that crops were taken from, read off an image whose colours are its coordinates."""
    columns, rows = np.meshgrid(np.arange(256), np.arange(256))
    image = Image.fromarray(np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8))
    for seed in range(n):
        result = np.asarray(RandomResizedCrop(**parameters).on_sample(image, RNG(seed)))[..., :2].reshape(-1, 2)
        (left, top), (right, bottom) = result.min(axis=0).astype(float), result.max(axis=0).astype(float)
        yield left, top, right - left + 1, bottom - top + 1


def test_crops_have_the_areas_and_proportions_asked_for_and_lie_everywhere():
    boxes = np.array(list(_located_crops(300, scale=(0.1, 0.5), ratio=(0.5, 2.0))))
    share, ratio = boxes[:, 2] * boxes[:, 3] / 256**2, boxes[:, 2] / boxes[:, 3]
    assert 0.085 < share.min() < 0.13
    assert 0.45 < share.max() < 0.52
    assert share.mean() == pytest.approx(0.3, abs=0.03)
    assert 0.45 < ratio.min() < 0.6
    assert 1.7 < ratio.max() < 2.2
    assert np.log(ratio).mean() == pytest.approx(0, abs=0.08)  # as often wide as high
    centres = boxes[:, :2] + boxes[:, 2:] / 2
    assert np.allclose(centres.mean(axis=0), 128, atol=10)
    assert (boxes[:, :2].min(axis=0) < 5).all()
    assert ((boxes[:, :2] + boxes[:, 2:]).max(axis=0) > 250).all()


def test_a_large_part_gets_no_proportions_that_would_not_fit():
    """Cut to fit, it would be smaller than asked."""
    boxes = np.array(list(_located_crops(60, scale=(0.8, 0.8), ratio=(0.4, 2.5))))
    assert boxes[:, 2] * boxes[:, 3] / 256**2 == pytest.approx(0.8, abs=0.02)
    assert np.ptp(boxes[:, 2] / boxes[:, 3]) > 0.3


def test_a_crop_keeps_the_proportions_of_the_image_and_its_own_number_of_pixels():
    for seed in range(40):
        width, height = (
            RandomResizedCrop(scale=(0.25, 0.25), ratio=(0.5, 2)).on_sample(photograph(400, 200), RNG(seed)).size
        )
        assert width / height == pytest.approx(2, abs=0.05)
        assert width * height == pytest.approx(0.25 * 400 * 200, rel=0.02)


def test_the_whole_image_is_a_crop():
    image = photograph()
    assert np.array_equal(RandomResizedCrop(scale=(1, 1)).on_sample(image, RNG(0)), image)


def test_flips_mirror_and_are_as_frequent_as_asked():
    image, pixels = photograph(6, 4), np.asarray(photograph(6, 4))
    assert np.array_equal(Flip(horizontal=1).on_sample(image, RNG(0)), pixels[:, ::-1])
    assert np.array_equal(Flip(horizontal=0, vertical=1).on_sample(image, RNG(0)), pixels[::-1])
    assert np.array_equal(Flip(horizontal=1, vertical=1).on_sample(image, RNG(0)), pixels[::-1, ::-1])
    operation = Flip(horizontal=0.4, vertical=0.6)
    seen = [np.asarray(operation.on_sample(image, RNG(seed))) for seed in range(600)]
    sides = [any(np.array_equal(one, p) for p in (pixels[:, ::-1], pixels[::-1, ::-1])) for one in seen]
    tops = [any(np.array_equal(one, p) for p in (pixels[::-1], pixels[::-1, ::-1])) for one in seen]
    assert np.mean(sides) == pytest.approx(0.4, abs=0.06)
    assert np.mean(tops) == pytest.approx(0.6, abs=0.06)
    assert np.mean([side and top for side, top in zip(sides, tops, strict=True)]) == pytest.approx(0.24, abs=0.05)


@pytest.mark.parametrize("name", [name for name in IMAGE_OPERATIONS if name != "flip"])
def test_the_probability_is_respected(name):
    image = photograph(16, 16)
    strong = {"rand_augment": {"n_operations": 14, "magnitude": 20}, "rotation": {"degrees": 90}}
    operation = sure(name, **{**strong.get(name, {}), "probability": 0.3})
    touched = [not np.array_equal(operation.on_sample(image, RNG(seed)), image) for seed in range(600)]
    assert np.mean(touched) == pytest.approx(0.3, abs=0.06)


def _grey(level=100, size=8):
    return Image.new("RGB", (size, size), (level,) * 3)


def test_brightness_is_a_factor_within_its_range():
    only = ColorJitter(brightness=0.5, contrast=0, saturation=0, hue=0, probability=1)
    levels = [only.on_sample(_grey(), RNG(seed)).getpixel((0, 0))[0] for seed in range(300)]
    assert 50 <= min(levels) < 55
    assert 145 < max(levels) <= 150
    assert np.mean(levels) == pytest.approx(100, abs=4)


def test_each_part_of_the_jitter_does_what_it_says():
    """One at a time against torchvision's class, in what they can reach and what they cannot."""
    image, parts = photograph(), ("brightness", "contrast", "saturation", "hue")
    for part in parts:
        ours = ColorJitter(**{**dict.fromkeys(parts, 0), part: 0.4}, probability=1)
        theirs = v2.ColorJitter(**{part: 0.4})
        means = np.array([ImageStat.Stat(ours.on_sample(image, RNG(seed))).mean for seed in range(80)])
        torch.manual_seed(0)
        expected = np.array([ImageStat.Stat(theirs(image)).mean for _ in range(80)])
        spread = expected.std(axis=0).max()
        assert np.allclose(means.mean(axis=0), expected.mean(axis=0), atol=max(1, spread))
        assert np.allclose(means.min(axis=0), expected.min(axis=0), atol=max(2, 0.5 * spread))
        assert np.allclose(means.max(axis=0), expected.max(axis=0), atol=max(2, 0.5 * spread))


def test_hue_leaves_grey_alone_and_nothing_is_rounded_without_a_reach():
    hue = ColorJitter(brightness=0, contrast=0, saturation=0, hue=0.5, probability=1)
    assert np.array_equal(hue.on_sample(_grey(), RNG(0)), _grey())
    nothing = ColorJitter(brightness=0, contrast=0, saturation=0, hue=0, probability=1)
    assert np.array_equal(nothing.on_sample(photograph(), RNG(0)), photograph())


def test_the_order_of_the_jitter_changes():
    """Contrast after brightness is another image than brightness after contrast."""
    image = photograph()

    class Same:
        """A generator whose draws are alike, but for the order."""

        def __init__(self, order):
            self.order = order

        def random(self):
            return 0.0

        def uniform(self, low, high, size):
            return np.full(size, 0.9)

        def permutation(self, n):
            return np.array(self.order)

    jitter = ColorJitter(brightness=0.9, contrast=0.9)
    first, second = (np.asarray(jitter.on_sample(image, Same(order))) for order in ([0, 1, 2, 3], [1, 0, 2, 3]))
    assert not np.array_equal(first, second)


def test_rotations_turn_by_up_to_the_angle_either_way():
    """A white line through the centre of a black image: where it ends, it was turned to."""
    pixels = np.zeros((101, 101, 3), dtype=np.uint8)
    pixels[49:52, 50:] = 255
    angles = []
    for seed in range(120):
        turned = np.asarray(Rotation(degrees=40, fill=(0, 0, 0)).on_sample(Image.fromarray(pixels), RNG(seed)))
        rows, columns = np.nonzero(turned[..., 0] > 128)
        angles.append(math.degrees(math.atan2(50 - rows.mean(), columns.mean() - 50)))
    assert -41 < min(angles) < -35
    assert 35 < max(angles) < 41
    assert np.mean(angles) == pytest.approx(0, abs=6)


def test_corners_get_the_fill():
    image = photograph(40, 40)
    angle = next(seed for seed in range(50) if abs(RNG(seed).uniform(-1, 1, 2)[1]) > 0.9)
    mean = tuple(round(part) for part in ImageStat.Stat(image).mean)
    assert Rotation(degrees=45).on_sample(image, RNG(angle)).getpixel((0, 0)) == mean
    assert Rotation(degrees=45, fill=(1, 2, 3)).on_sample(image, RNG(angle)).getpixel((0, 0)) == (1, 2, 3)


def test_one_rectangle_is_erased_of_the_area_asked_for():
    image, shares, ratios = _grey(100, 100), [], []
    for seed in range(300):
        operation = RandomErasing(scale=(0.1, 0.3), ratio=(0.5, 2), fill=(200, 0, 0), probability=1)
        erased = np.asarray(operation.on_sample(image, RNG(seed)))[..., 0] == 200
        rows, columns = np.flatnonzero(erased.any(axis=1)), np.flatnonzero(erased.any(axis=0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert erased.sum() == height * width  # one whole rectangle
        shares.append(erased.mean())
        ratios.append(height / width)
    assert 0.09 < min(shares) < 0.12
    assert 0.28 < max(shares) < 0.31
    assert 0.45 < min(ratios) < 0.6
    assert 1.7 < max(ratios) < 2.2


def test_erasing_fills_with_noise_or_the_mean():
    image = _grey(100, 64)
    parameters = {"scale": (0.25, 0.25), "ratio": (1, 1), "probability": 1}
    noise = np.asarray(RandomErasing(**parameters).on_sample(image, RNG(0)))
    erased = noise[(noise != 100).any(axis=2)]
    assert len(erased) == pytest.approx(32 * 32, rel=0.01)
    assert len(np.unique(erased, axis=0)) > 0.9 * len(erased)  # each pixel its own
    assert erased.std() == pytest.approx(256 / math.sqrt(12), rel=0.05)
    photo = photograph(64, 64)
    mean = np.asarray(RandomErasing(**parameters, fill="mean").on_sample(photo, RNG(0)))
    wanted = [round(part) for part in ImageStat.Stat(photo).mean]
    assert (mean == wanted).all(axis=2).sum() >= 32 * 32


def test_rand_augment_has_torchvision_s_fourteen_at_its_strengths():
    """Each result of its class, at one operation, is the result of one of ours; and each of ours is met."""
    image, fill, met = photograph(60, 44), (10, 20, 30), set()
    torch.manual_seed(0)
    for magnitude in (4, 9, 17):
        theirs = v2.RandAugment(num_ops=1, magnitude=magnitude, interpolation=v2.InterpolationMode.BILINEAR, fill=fill)
        ours = {
            (name, sign): np.asarray(change(image, sign * magnitude / 30, list(fill)))
            for name, change in CHANGES.items()
            for sign in (-1, 1)
        }
        for _ in range(150):
            result = np.asarray(theirs(image))
            # Strengths are float32 there: a pixel here and there falls on the other side of a threshold.
            alike = {key for key, own in ours.items() if (np.abs(own.astype(int) - result) > 1).mean() < 0.01}
            assert alike, f"magnitude {magnitude}: none of ours"
            met |= alike
    assert met == {(name, sign) for name in CHANGES for sign in (-1, 1)}


def test_rand_augment_draws_all_of_them_alike_and_as_many_as_asked(monkeypatch):
    drawn = []

    def recorded(name):
        return lambda image, strength, fill: drawn.append((name, strength)) or image

    monkeypatch.setattr("skembed.augment.rand_augment.CHANGES", {name: recorded(name) for name in CHANGES})
    for seed in range(700):
        RandAugment(n_operations=2, magnitude=15).on_sample(_grey(), RNG(seed))
    assert len(drawn) == 1400
    counts = {name: sum(one == name for one, _ in drawn) for name in CHANGES}
    assert 60 < min(counts.values()) <= max(counts.values()) < 145  # 100 each
    assert {strength for _, strength in drawn} == {-0.5, 0.5}
    assert np.mean([strength > 0 for _, strength in drawn]) == pytest.approx(0.5, abs=0.05)
