"""RandAugment: a few operations out of fourteen, all at one strength."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from PIL import Image

from skembed.augment.image import Fill, ImageOperation, bilinear, check_fill, fill_colour, kernels
from skembed.augment.operation import check_number

__all__ = ["RandAugment"]

#: Strengths run from 0 to this.
STRONGEST = 30


@dataclass(frozen=True, repr=False, kw_only=True)
class RandAugment(ImageOperation):
    """Apply some of fourteen operations, drawn with replacement, at one strength [1]_.

    Ranges are those of torchvision.

    Parameters
    ----------
    n_operations : int, default=2
        Number of operations per image, from 1 to 14. One of the fourteen does nothing.
    magnitude : int, default=9
        Strength of the operations, from 0 to 30. At 30, images are sheared by 17 degrees, shifted by 45 % of their
        side, rotated by 30 degrees, or made nearly black or twice as bright.
    fill : "mean" or (int, int, int), default="mean"
        Color of the area outside of the image: its mean, or red, green and blue from 0 to 255.
    probability : float, default=1.0
        Share of the images that are changed.

    References
    ----------
    .. [1] Cubuk et al. (2020), RandAugment: Practical Automated Data Augmentation with a Reduced Search Space.

    Examples
    --------
    >>> import numpy as np
    >>> RandAugment(magnitude=15).on_sample(Image.new("RGB", (40, 20)), np.random.default_rng(0)).size
    (40, 20)
    """

    name: ClassVar[str] = "rand_augment"
    n_operations: int = 2
    magnitude: int = 9
    fill: Fill = "mean"

    def __post_init__(self):
        super().__post_init__()
        check_number(self, "n_operations", 1, len(CHANGES), whole=True)
        check_number(self, "magnitude", 0, STRONGEST, whole=True)
        check_fill(self, ("mean",))

    def _change(self, value: Image.Image, rng, sampling_rate):
        fill, strength = fill_colour(value, self.fill), int(self.magnitude) / STRONGEST
        names = list(CHANGES)
        for _ in range(self.n_operations):
            change = CHANGES[names[rng.integers(len(names))]]
            # The sign is drawn for all, so that one draw more or less does not shift those of the next operation.
            value = change(value, -strength if rng.random() < 0.5 else strength, fill)
        return value


def _affine(image: Image.Image, fill, *, shift=(0, 0), shear=(0.0, 0.0), centre=None) -> Image.Image:
    return kernels().affine(
        image, angle=0.0, translate=list(shift), scale=1.0, shear=list(shear), interpolation=bilinear(), fill=fill,
        center=centre,
    )  # fmt: skip


def _shear(strength: float) -> float:
    """Return degrees whose tangent is up to 0.3."""
    return math.degrees(math.atan(0.3 * strength))


def _shift(strength: float, side: int) -> int:
    """Return pixels, up to 150 of every 331."""
    return int(150 / 331 * side * strength)


#: Functions of an image, a strength from -1 to 1 and a fill color. Operations without two directions ignore the sign.
Change = Callable[[Image.Image, float, Any], Image.Image]

CHANGES: dict[str, Change] = {
    "identity": lambda image, s, fill: image,
    "shear_x": lambda image, s, fill: _affine(image, fill, shear=(_shear(s), 0.0), centre=[0, 0]),
    "shear_y": lambda image, s, fill: _affine(image, fill, shear=(0.0, _shear(s)), centre=[0, 0]),
    "translate_x": lambda image, s, fill: _affine(image, fill, shift=(_shift(s, image.width), 0)),
    "translate_y": lambda image, s, fill: _affine(image, fill, shift=(0, _shift(s, image.height))),
    "rotate": lambda image, s, fill: kernels().rotate(image, 30 * s, interpolation=bilinear(), fill=fill),
    "brightness": lambda image, s, fill: kernels().adjust_brightness(image, 1 + 0.9 * s),
    "color": lambda image, s, fill: kernels().adjust_saturation(image, 1 + 0.9 * s),
    "contrast": lambda image, s, fill: kernels().adjust_contrast(image, 1 + 0.9 * s),
    "sharpness": lambda image, s, fill: kernels().adjust_sharpness(image, 1 + 0.9 * s),
    "posterize": lambda image, s, fill: kernels().posterize(image, round(8 - 4 * abs(s))),
    "solarize": lambda image, s, fill: kernels().solarize(image, 255 * (1 - abs(s))),
    "autocontrast": lambda image, s, fill: kernels().autocontrast(image),
    "equalize": lambda image, s, fill: kernels().equalize(image),
}
