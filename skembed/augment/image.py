"""Operations on RGB images: crops, flips, colors, rotations, erased rectangles.

Pixels are computed by the functions of torchvision.transforms.v2 on PIL images. Its transform classes are not used,
because they draw from torch's global generator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageStat

from skembed.augment.operation import SampleOperation, check_interval, check_number

__all__ = ["ColorJitter", "Flip", "RandomErasing", "RandomResizedCrop", "Rotation"]

Fill = str | tuple[int, int, int]


@dataclass(frozen=True, repr=False, kw_only=True)
class ImageOperation(SampleOperation):
    """An operation on an RGB image."""

    modality: ClassVar[str] = "image"


@dataclass(frozen=True, repr=False, kw_only=True)
class RandomResizedCrop(ImageOperation):
    """Cut out a part of the image and stretch it a little [1]_.

    The part is stretched to the proportions of the image and keeps its own number of pixels; the backbone's preparation
    enlarges it to the size of the network. For square images this equals torchvision's transform. Other images keep
    their proportions, where torchvision squeezes them into a square.

    Parameters
    ----------
    scale : (float, float), default=(0.35, 1.0)
        Smallest and largest share of the area that is kept, above 0 and up to 1. A smaller share changes the image
        more; training from scratch uses (0.08, 1.0).
    ratio : (float, float), default=(0.75, 1.33)
        Smallest and largest ratio of width to height of the part, relative to that of the image: from 0.1 to 1, and
        from 1 to 10.
    probability : float, default=1.0
        Share of the images that are cropped.

    References
    ----------
    .. [1] Szegedy et al. (2015), Going Deeper with Convolutions.

    Examples
    --------
    >>> image = Image.new("RGB", (40, 20))
    >>> RandomResizedCrop(scale=(0.25, 0.25)).on_sample(image, np.random.default_rng(0)).size
    (20, 10)
    """

    name: ClassVar[str] = "random_resized_crop"
    scale: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (0.75, 1.33)

    def __post_init__(self):
        super().__post_init__()
        check_interval(self, "scale", 1e-4, 1)
        check_interval(self, "ratio", 0.1, 10)
        if not self.ratio[0] <= 1 <= self.ratio[1]:
            # The whole image has a ratio of 1, and a scale of 1 leaves no other.
            raise ValueError(f"{self.name}: ratio={self.ratio!r} does not include 1. Use one such as (0.75, 1.33).")

    def _change(self, value: Image.Image, rng, sampling_rate):
        width, height = value.size
        share = rng.uniform(*self.scale)
        # The range of ratios with which a part of this area fits into the image.
        ratio = _log_uniform(max(self.ratio[0], share), min(self.ratio[1], 1 / share), rng)
        part_width = _within(width * math.sqrt(share * ratio), width)
        part_height = _within(height * math.sqrt(share / ratio), height)
        left, top = (int(rng.integers(0, n + 1)) for n in (width - part_width, height - part_height))
        shrink = math.sqrt(part_width * part_height / (width * height))
        size = [_within(height * shrink, height), _within(width * shrink, width)]
        return kernels().resized_crop(value, top, left, part_height, part_width, size)


@dataclass(frozen=True, repr=False, kw_only=True)
class Flip(ImageOperation):
    """Mirror the image [1]_, unless sides carry the label as in texts, digits and hands.

    Parameters
    ----------
    horizontal : float, default=0.5
        Probability to swap left and right.
    vertical : float, default=0.0
        Probability to swap top and bottom. Use it for images without an upright, such as those from a microscope.
    probability : float, default=1.0
        Share of the images for which the two are drawn.

    References
    ----------
    .. [1] Krizhevsky, Sutskever & Hinton (2012), ImageNet Classification with Deep Convolutional Neural Networks.

    Examples
    --------
    >>> image = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], dtype=np.uint8))
    >>> Flip(horizontal=1.0).on_sample(image, np.random.default_rng(0)).getpixel((0, 0))
    (0, 0, 255)
    """

    name: ClassVar[str] = "flip"
    horizontal: float = 0.5
    vertical: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check_number(self, "horizontal", 0, 1)
        check_number(self, "vertical", 0, 1)

    def _change(self, value: Image.Image, rng, sampling_rate):
        horizontal, vertical = rng.random(2) < (self.horizontal, self.vertical)
        if horizontal:
            value = kernels().horizontal_flip(value)
        return kernels().vertical_flip(value) if vertical else value


@dataclass(frozen=True, repr=False, kw_only=True)
class ColorJitter(ImageOperation):
    """Change brightness, contrast, saturation and hue, in random order [1]_.

    Parameters
    ----------
    brightness, contrast, saturation : float, default=0.3
        Largest relative change, from 0 to 1: each is multiplied by a factor from 1 minus to 1 plus this value.
    hue : float, default=0.05
        Largest shift of hues as a share of the color circle, from 0 to 0.5. Use 0 if color carries the label.
    probability : float, default=0.8
        Share of the images that are changed.

    References
    ----------
    .. [1] Howard (2013), Some Improvements on Deep Convolutional Neural Network Based Image Classification.

    Examples
    --------
    >>> jitter = ColorJitter(brightness=0.5, contrast=0, saturation=0, hue=0, probability=1.0)
    >>> jitter.on_sample(Image.new("RGB", (4, 4), (100, 100, 100)), np.random.default_rng(0)).getpixel((0, 0))
    (76, 76, 76)
    """

    name: ClassVar[str] = "color_jitter"
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    hue: float = 0.05
    probability: float = 0.8

    def __post_init__(self):
        super().__post_init__()
        for parameter in ("brightness", "contrast", "saturation"):
            check_number(self, parameter, 0, 1)
        check_number(self, "hue", 0, 0.5)

    def _change(self, value: Image.Image, rng, sampling_rate):
        parts = ("brightness", "contrast", "saturation", "hue")
        draws = rng.uniform(-1, 1, size=4)
        for i in rng.permutation(4):
            reach = getattr(self, parts[i])
            # A change by nothing would still round the pixels, and hue the most: it goes through another color space.
            if reach:
                middle = 0 if parts[i] == "hue" else 1
                value = getattr(kernels(), f"adjust_{parts[i]}")(value, float(middle + draws[i] * reach))
        return value


@dataclass(frozen=True, repr=False, kw_only=True)
class Rotation(ImageOperation):
    """Rotate the image about its center; its size stays, and its corners are cut off [1]_.

    Parameters
    ----------
    degrees : float, default=15
        Largest angle in degrees, from 0 to 180, in both directions.
    fill : "mean" or (int, int, int), default="mean"
        Color of the area outside of the image: its mean, or red, green and blue from 0 to 255.
    probability : float, default=1.0
        Share of the images that are rotated.

    References
    ----------
    .. [1] Simard, Steinkraus & Platt (2003), Best Practices for Convolutional Neural Networks Applied to Visual
       Document Analysis.

    Examples
    --------
    >>> Rotation(degrees=90).on_sample(Image.new("RGB", (40, 20)), np.random.default_rng(0)).size
    (40, 20)
    """

    name: ClassVar[str] = "rotation"
    degrees: float = 15
    fill: Fill = "mean"

    def __post_init__(self):
        super().__post_init__()
        check_number(self, "degrees", 0, 180)
        check_fill(self, ("mean",))

    def _change(self, value: Image.Image, rng, sampling_rate):
        angle = rng.uniform(-1, 1) * self.degrees
        return kernels().rotate(value, float(angle), interpolation=bilinear(), fill=fill_colour(value, self.fill))


@dataclass(frozen=True, repr=False, kw_only=True)
class RandomErasing(ImageOperation):
    """Paint over a rectangle, so that the model does not rely on a single part [1]_.

    Parameters
    ----------
    scale : (float, float), default=(0.02, 0.2)
        Smallest and largest share of the area that is painted over, above 0 and up to 0.9.
    ratio : (float, float), default=(0.3, 3.3)
        Smallest and largest ratio of height to width of the rectangle, from 0.1 to 10. It is cut at the borders of the
        image.
    fill : "noise", "mean" or (int, int, int), default="noise"
        Color of the rectangle: random pixels, the mean of the image, or red, green and blue from 0 to 255.
    probability : float, default=0.5
        Share of the images that are changed.

    References
    ----------
    .. [1] Zhong et al. (2020), Random Erasing Data Augmentation.

    Examples
    --------
    >>> erasing = RandomErasing(scale=(0.25, 0.25), ratio=(1, 1), fill=(255, 255, 255), probability=1.0)
    >>> np.asarray(erasing.on_sample(Image.new("RGB", (8, 8)), np.random.default_rng(0))).mean()
    np.float64(63.75)
    """

    name: ClassVar[str] = "random_erasing"
    scale: tuple[float, float] = (0.02, 0.2)
    ratio: tuple[float, float] = (0.3, 3.3)
    fill: Fill = "noise"
    probability: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        check_interval(self, "scale", 1e-4, 0.9)
        check_interval(self, "ratio", 0.1, 10)
        check_fill(self, ("noise", "mean"))

    def _change(self, value: Image.Image, rng, sampling_rate):
        width, height = value.size
        area, ratio = rng.uniform(*self.scale) * width * height, _log_uniform(*self.ratio, rng)
        part_width, part_height = _within(math.sqrt(area / ratio), width), _within(math.sqrt(area * ratio), height)
        left, top = (int(rng.integers(0, n + 1)) for n in (width - part_width, height - part_height))
        # In NumPy: torchvision's kernel for PIL images copies them to a tensor and back.
        pixels = np.array(value)
        part = pixels[top : top + part_height, left : left + part_width]
        if self.fill == "noise":
            part[:] = rng.integers(0, 256, size=part.shape, dtype=np.uint8)
        else:
            part[:] = fill_colour(value, self.fill)
        return Image.fromarray(pixels)


def kernels() -> Any:
    """Return torchvision's functions on images, imported at the first use because they import torch."""
    from torchvision.transforms.v2 import functional

    return functional


def bilinear() -> Any:
    """Return torchvision's name of bilinear interpolation."""
    from torchvision.transforms.v2 import InterpolationMode

    return InterpolationMode.BILINEAR


def check_fill(operation: Any, names: tuple[str, ...]) -> None:
    """Raise ValueError unless `fill` is one of the names or a color; store a tuple."""
    fill = operation.fill
    if isinstance(fill, str) and fill in names:
        return
    colour = tuple(fill) if isinstance(fill, (tuple, list)) else ()
    if len(colour) != 3 or not all(isinstance(part, Integral) and 0 <= int(part) <= 255 for part in colour):
        known = ", ".join(map(repr, names))
        raise ValueError(
            f"{operation.name}: fill={fill!r} is not a color. Use {known}, or red, green and blue from 0 to 255."
        )
    object.__setattr__(operation, "fill", colour)


def fill_colour(image: Image.Image, fill: Fill) -> list[int]:
    """Return red, green and blue of a color, or of the image's mean."""
    return [round(part) for part in (ImageStat.Stat(image).mean if isinstance(fill, str) else fill)]


def _within(length: float, limit: int) -> int:
    """Return a whole number of pixels, at least one and at most as many as there are."""
    return min(max(1, round(length)), limit)


def _log_uniform(low: float, high: float, rng: np.random.Generator) -> float:
    """Draw a ratio, so that twice as wide is as likely as twice as high."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))
