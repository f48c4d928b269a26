"""Images: crops, flips, colours, rotations, erased rectangles. RGB in, RGB out.

Pixels are computed by the kernels of torchvision.transforms.v2 on PIL images; its transform classes are not used, since
they draw from torch's global generator.
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
    """Cut out a part, stretch it a little [1]_.

    The part gets the proportions of the image back and keeps its own number of pixels: the backbone's preparation,
    which knows the size that the network wants, enlarges it. For square images this is torchvision's transform; of
    others, which that one squeezes into a square, the proportions stay what the backbone was trained to prepare.

    Parameters
    ----------
    scale : (float, float), default=(0.35, 1.0)
        Least and largest share of the area that is kept, above 0 to 1. Training from scratch uses (0.08, 1.0).
    ratio : (float, float), default=(0.75, 1.33)
        Least and largest width by height of the part, relative to the image's own; 0.1 to 1, and 1 to 10.
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
        # Of the wanted ratios those at which a part of that area fits in.
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
        Probability that left and right change places.
    vertical : float, default=0.0
        Probability that top and bottom do: for images that have no upright, such as those from a microscope.
    probability : float, default=1.0
        Share of the images for which the two are drawn at all.

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
        Each is multiplied by a factor between 1 minus and 1 plus this; 0 to 1.
    hue : float, default=0.05
        Hues are turned by up to this share of the colour circle, either way; 0 to 0.5. Use 0 where colour carries the
        label.
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
            # A change by nothing would still round the pixels, and hue the most: it goes through another colour space.
            if reach:
                middle = 0 if parts[i] == "hue" else 1
                value = getattr(kernels(), f"adjust_{parts[i]}")(value, float(middle + draws[i] * reach))
        return value


@dataclass(frozen=True, repr=False, kw_only=True)
class Rotation(ImageOperation):
    """Turn the image about its centre; its size stays, its corners are cut off [1]_.

    Parameters
    ----------
    degrees : float, default=15
        Largest angle, either way, in degrees; 0 to 180.
    fill : "mean" or (int, int, int), default="mean"
        Colour of what was outside: the image's mean, or red, green and blue from 0 to 255.
    probability : float, default=1.0
        Share of the images that are turned.

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
    """Paint over a rectangle, so that no single part of an object is relied on [1]_.

    Parameters
    ----------
    scale : (float, float), default=(0.02, 0.2)
        Least and largest share of the area that is painted over, above 0 to 0.9.
    ratio : (float, float), default=(0.3, 3.3)
        Least and largest height by width of the rectangle, 0.1 to 10. One that would not fit is cut.
    fill : "noise", "mean" or (int, int, int), default="noise"
        Pixels of random colours, the image's mean colour, or red, green and blue from 0 to 255.
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
    """torchvision's functions on images; imported at the first use, since they import torch."""
    from torchvision.transforms.v2 import functional

    return functional


def bilinear() -> Any:
    """Bilinear interpolation, by torchvision's name for it."""
    from torchvision.transforms.v2 import InterpolationMode

    return InterpolationMode.BILINEAR


def check_fill(operation: Any, names: tuple[str, ...]) -> None:
    """Raise ValueError unless `fill` is one of the names or a colour; store a tuple."""
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
    """Red, green and blue of a colour, or of the image's mean."""
    return [round(part) for part in (ImageStat.Stat(image).mean if isinstance(fill, str) else fill)]


def _within(length: float, limit: int) -> int:
    """Whole pixels, at least one and at most as many as there are."""
    return min(max(1, round(length)), limit)


def _log_uniform(low: float, high: float, rng: np.random.Generator) -> float:
    """So that twice as wide is as likely as twice as high."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))
