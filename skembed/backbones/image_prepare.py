"""From an RGB image to the square that a network sees: resize, crop, scale. Pillow and NumPy only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["ImagePreparation"]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


@dataclass(frozen=True)
class ImagePreparation:
    """A deterministic preparation of images.

    Parameters
    ----------
    resize : int or (int, int)
        Length of the shorter side, the other keeping the proportions; or (height, width) exactly.
    crop : (int, int)
        Height and width of the centre that is kept; the image is padded with black where it is smaller.
    resampling : Image.Resampling
        Pillow's filter.
    mean, std : tuple of 3 float
        By channel, of pixels scaled to [0, 1].

    Examples
    --------
    >>> from PIL import Image
    >>> ImagePreparation(8, (6, 6))(Image.new("RGB", (32, 16), "white")).shape
    (3, 6, 6)
    """

    resize: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    resampling: Image.Resampling = Image.Resampling.BICUBIC
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    #: Which of its rows an odd margin falls to differs between timm and transformers.
    round_crop: bool = True

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Prepare one RGB image.

        Returns
        -------
        ndarray of shape (3, height, width), float32
        """
        if self.resize is not None:
            image = image.resize(self._size(image), self.resampling)
        if self.crop is not None:
            image = self._centre(image)
        scaled = np.asarray(image, dtype=np.float32) / np.float32(255)
        pixels = (scaled - np.asarray(self.mean, dtype=np.float32)) / np.asarray(self.std, dtype=np.float32)
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def _size(self, image: Image.Image) -> tuple[int, int]:
        """Width and height after resizing."""
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        assert self.resize is not None
        width, height = image.size
        short, long = min(width, height), max(width, height)
        other = int(self.resize * long / short)
        return (self.resize, other) if width <= height else (other, self.resize)

    def _centre(self, image: Image.Image) -> Image.Image:
        assert self.crop is not None
        height, width = self.crop
        if width > image.width or height > image.height:
            canvas = Image.new("RGB", (max(width, image.width), max(height, image.height)))
            canvas.paste(image, ((canvas.width - image.width) // 2, (canvas.height - image.height) // 2))
            image = canvas
        left, top = (image.width - width) / 2, (image.height - height) / 2
        left, top = (round(left), round(top)) if self.round_crop else (int(left), int(top))
        return image.crop((left, top, left + width, top + height))

    @classmethod
    def from_timm(cls, config: Mapping[str, Any], image_size: int | None = None) -> ImagePreparation:
        """What timm's evaluation transform does for a `pretrained_cfg`."""
        height, width = config["input_size"][1:] if image_size is None else (image_size, image_size)
        ratio = config.get("crop_pct") or 0.875
        exact = config.get("crop_mode") == "squash" or height != width
        size = (math.floor(height / ratio), math.floor(width / ratio))
        return cls(
            resize=size if exact else size[0],
            crop=(height, width),
            resampling=_RESAMPLING[config.get("interpolation") or "bicubic"],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
        )

    @classmethod
    def from_transformers(cls, config: Mapping[str, Any], image_size: int | None = None) -> ImagePreparation:
        """What the image processor of a preprocessor_config.json does."""
        size, crop = _size_of(config.get("size") or 224), None
        if config.get("do_center_crop"):
            side = _size_of(config.get("crop_size") or config.get("size") or 224)
            crop = side if isinstance(side, tuple) else (side, side)
        if ratio := config.get("crop_pct"):
            # ConvNeXt: below 384 pixels, resized a little larger and cropped; above, squeezed.
            side = size if isinstance(size, int) else size[0]
            size, crop = (int(side / ratio), (side, side)) if side < 384 else ((side, side), None)
        if image_size is not None:
            old = crop[0] if crop else size if isinstance(size, int) else size[0]
            if crop:
                crop = (image_size, image_size)
            size = round(size * image_size / old) if isinstance(size, int) else (image_size, image_size)
        scale = config.get("rescale_factor", 1 / 255) * 255 if config.get("do_rescale", True) else 255.0
        normalise = config.get("do_normalize", True)
        mean = tuple(config.get("image_mean") or (0.0,) * 3) if normalise else (0.0,) * 3
        std = tuple(config.get("image_std") or (1.0,) * 3) if normalise else (1.0,) * 3
        return cls(
            resize=size if config.get("do_resize", True) else None,
            crop=crop,
            resampling=Image.Resampling(config.get("resample", Image.Resampling.BILINEAR)),
            mean=tuple(m / scale for m in mean),
            std=tuple(s / scale for s in std),
            round_crop=False,
        )


def _size_of(size: Any) -> int | tuple[int, int]:
    """An int for the shorter side, (height, width) for an exact size."""
    if isinstance(size, int):
        return (size, size)
    if "shortest_edge" in size:
        return size["shortest_edge"]
    return (size["height"], size["width"])
