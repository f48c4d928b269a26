"""Preparation of RGB images for a network: resizing, cropping and scaling.

Libraries agree on the steps and differ in the roundings, so the rounding is part of a preparation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from skembed.exceptions import BackboneNotFoundError

__all__ = ["ImagePreparation"]

#: Times the resized sides, for `ImagePreparation.least_size`.
_ROOM = 2.9

#: Longest side in pixels that a configuration may ask for: 805 MB as float32.
_MAX_SIDE = 8192

#: Pixels of a whole resized image, 64 MB; of larger ones only the part that the crop keeps is computed.
_MAX_RESIZED_PIXELS = 2**24

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class ImagePreparation:
    """Deterministic preparation of images.

    Parameters
    ----------
    resize : int or (int, int), optional
        Length in pixels of the shorter side, the other keeping the proportions; or a height and width, met as
        `fit` says. None leaves images at their size.
    crop : (int, int), optional
        Height and width in pixels of the center that is kept; smaller images are padded with `fill`.
    fit : {"exact", "cover", "contain"}
        How a (height, width) is met: by squeezing, or keeping the proportions so that the image is at least, or
        at most, of that size.
    resampling : Image.Resampling
        Pillow's filter.
    mean, std : tuple of 3 float
        By channel, of pixels scaled to [0, 1].
    fill : tuple of 3 int
        Color of the padding, 0 to 255.
    rounding : {"timm", "transformers"}
        To which side the odd pixel of a margin falls: timm rounds half to even when it cuts and down when it
        pads, transformers down when it cuts and up when it pads.

    Examples
    --------
    >>> from PIL import Image
    >>> ImagePreparation(8, (6, 6))(Image.new("RGB", (32, 16), "white")).shape
    (3, 6, 6)
    """

    resize: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    fit: Literal["exact", "cover", "contain"] = "exact"
    resampling: Image.Resampling = Image.Resampling.BICUBIC
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    fill: tuple[int, int, int] = (0, 0, 0)
    rounding: Literal["timm", "transformers"] = "timm"

    def __post_init__(self):
        if self.crop is None and not (isinstance(self.resize, tuple) and self.fit == "exact"):
            raise BackboneNotFoundError(
                f"resize={self.resize!r} without a crop gives images of unequal size, which cannot share a batch. "
                "Set do_center_crop and crop_size, or an exact size, in the backbone's preprocessor_config.json."
            )
        for name, size in (("resize", self.resize), ("crop", self.crop)):
            if size is not None and not all(1 <= side <= _MAX_SIDE for side in _pair(size)):
                raise BackboneNotFoundError(
                    f"{name}={size!r} is out of range: sides have 1 to {_MAX_SIDE} pixels. Correct the size in the "
                    "backbone's preprocessor_config.json, or image_size."
                )

    @property
    def output_size(self) -> tuple[int, int]:
        """Height and width of prepared images in pixels."""
        if self.crop is not None:
            return self.crop
        assert isinstance(self.resize, tuple)
        return self.resize

    @property
    def least_size(self) -> tuple[int, int] | None:
        """Smallest width and height to decode an image file at; None for its own size.

        Both sides are to be at least so long, with their proportions kept exactly. A decoder that is asked for less
        averages in blocks, so it is given room: with EfficientNet-Lite0 at 224 and at 96 pixels, and JPEG files
        of 1024 and 2048, the embeddings' cosine to those of the full size was at least 0.9987, 0.9989 and
        0.9994 with 1.5, 2 and 3 times the resized side. 2.9 lets cameras' 3000 and 3024 pixels
        be decoded at a fourth for the usual 256.
        """
        if self.resize is None:
            return None
        height, width = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
        return math.ceil(_ROOM * width), math.ceil(_ROOM * height)

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Prepare one RGB image.

        Returns
        -------
        ndarray of shape (3, height, width), float32
        """
        return np.ascontiguousarray(self.normalise([self.pixels(image)])[0].numpy())

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Resize and crop one RGB image.

        Returns
        -------
        ndarray of shape (height, width, 3), uint8
        """
        # Resizing straight into the crop, by Pillow's `box`, is 1.2 to 1.5 times faster, but off by up to 25 levels.
        if self.resize is not None:
            width, height = self._resized(*image.size)
            if self.crop is not None and width * height > _MAX_RESIZED_PIXELS:
                image = self._resize_center(image, width, height)
            else:
                image = image.resize((width, height), self.resampling)
        if self.crop is not None:
            image = self._centre(image, *self.crop)
        return np.asarray(image)

    def _resize_center(self, image: Image.Image, width: int, height: int) -> Image.Image:
        """Return the part of a resized image that the crop keeps, without computing the rest.

        `width` and `height` are those of the whole resized image. Pixels differ from those of the whole by at most one
        level, since Pillow takes the box in single precision.
        """
        assert self.crop is not None
        horizontal = self._kept(image.width, width, self.crop[1])
        vertical = self._kept(image.height, height, self.crop[0])
        (left, right, x0, x1, kept_width), (top, bottom, y0, y1, kept_height) = horizontal, vertical
        part = image.crop((left, top, right, bottom))
        return part.resize((kept_width, kept_height), self.resampling, box=(x0, y0, x1, y1))

    def _kept(self, source: int, resized: int, crop: int) -> tuple[int, int, float, float, int]:
        """Return the kept part of one side: source pixels, box and new length."""
        if resized <= crop:
            return 0, source, 0.0, float(source), resized
        scale = source / resized
        first = self._offset(resized, crop) * scale
        last = first + crop * scale
        # Lanczos reaches furthest, three pixels of the coarser of the two grids.
        reach = math.ceil(3 * max(scale, 1)) + 1
        start, stop = max(0, math.floor(first) - reach), min(source, math.ceil(last) + reach)
        return start, stop, first - start, min(last - start, float(stop - start)), crop

    def _offset(self, length: int, crop: int) -> int:
        """Return the first pixel that a crop of the center keeps."""
        margin = (length - crop) / 2
        return round(margin) if self.rounding == "timm" else int(margin)

    def normalise(self, images: Sequence[np.ndarray]) -> Tensor:
        """Scale the pixels of a batch by timm's operations, each in one pass.

        Parameters
        ----------
        images : sequence of ndarray of shape (height, width, 3), uint8
            Output of `pixels`.

        Returns
        -------
        Tensor of shape (n_images, 3, height, width), float32
            A view of memory in which channels come last.
        """
        height, width = self.output_size
        # Whole rows of red, green and blue in turn: an axis of three is slow.
        mean, std = (torch.tensor(values, dtype=torch.float32).repeat(width) for values in (self.mean, self.std))
        batch = torch.from_numpy(np.stack(images)).view(len(images), height, 3 * width).to(torch.float32)
        batch.div_(255).sub_(mean).div_(std)
        return batch.view(len(images), height, width, 3).permute(0, 3, 1, 2)

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height after resizing."""
        if isinstance(self.resize, int):
            other = int(self.resize * max(width, height) / min(width, height))
            return (self.resize, other) if width <= height else (other, self.resize)
        assert self.resize is not None
        to_height, to_width = self.resize
        if self.fit == "exact":
            return to_width, to_height
        ratios = (height / to_height, width / to_width)
        ratio = min(ratios) if self.fit == "cover" else max(ratios)
        return max(1, round(width / ratio)), max(1, round(height / ratio))

    def _centre(self, image: Image.Image, height: int, width: int) -> Image.Image:
        # Longer sides are cut before shorter ones are padded: both at once could be of any size.
        kept_width, kept_height = min(width, image.width), min(height, image.height)
        left, top = self._offset(image.width, kept_width), self._offset(image.height, kept_height)
        image = image.crop((left, top, left + kept_width, top + kept_height))
        return image if image.size == (width, height) else self._pad(image, width, height)

    def _pad(self, image: Image.Image, width: int, height: int) -> Image.Image:
        up = 0 if self.rounding == "timm" else 1
        canvas = Image.new("RGB", (width, height), self.fill)
        canvas.paste(image, ((width - image.width + up) // 2, (height - image.height + up) // 2))
        return canvas

    @classmethod
    def from_timm(cls, config: Mapping[str, Any], image_size: int | None = None) -> ImagePreparation:
        """Create the preparation of timm's evaluation transform.

        Parameters
        ----------
        config : mapping
            A `pretrained_cfg`: "input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std".
        image_size : int, optional
            Side in pixels, instead of "input_size".

        Raises
        ------
        BackboneNotFoundError
            If the network does not read red, green and blue.
        """
        channels, height, width = config.get("input_size") or (3, 224, 224)
        if channels != 3:
            raise BackboneNotFoundError(f"A network that reads {channels} channels cannot read RGB images.")
        if image_size is not None:
            height = width = image_size
        share = config.get("crop_pct") or 0.875
        size = (math.floor(height / share), math.floor(width / share))
        mode = config.get("crop_mode") or "center"
        mean = tuple(config.get("mean") or _IMAGENET_MEAN)
        if mode == "center" and size[0] == size[1]:
            resize: int | tuple[int, int] = size[0]
        else:
            resize = size
        return cls(
            resize=resize,
            crop=(height, width),
            fit={"squash": "exact", "border": "contain"}.get(mode, "cover"),  # type: ignore[arg-type]
            resampling=Image.Resampling[(config.get("interpolation") or "bicubic").upper()],
            mean=mean,
            std=tuple(config.get("std") or _IMAGENET_STD),
            fill=tuple(round(255 * value) for value in mean) if mode == "border" else (0, 0, 0),  # type: ignore[arg-type]
        )

    @classmethod
    def from_transformers(cls, config: Mapping[str, Any], image_size: int | None = None) -> ImagePreparation:
        """Create the preparation of a complete preprocessor_config.json.

        Parameters
        ----------
        config : mapping
            With the processor's defaults filled in. A bare number as "size" means a square.
        image_size : int, optional
            Side in pixels of prepared images. If the center is cropped, images are resized in proportion.

        Raises
        ------
        BackboneNotFoundError
            If the configuration asks for sizes that are not known here, or for images of unequal size.
        """
        size, crop = _size_of(config.get("size")), None
        if config.get("do_center_crop"):
            crop = _pair(_size_of(config.get("crop_size") or config.get("size")))
        resized = config.get("do_resize", True)
        if resized and (share := config.get("crop_pct")):
            # ConvNeXt: below 384 pixels, resized a little larger and cropped; above, squeezed.
            side = image_size or _pair(size)[0]
            size, crop = (int(side / share), (side, side)) if side < 384 else ((side, side), None)
        elif image_size is not None:
            # The rest of the image that the crop leaves out stays the same share of it.
            larger = image_size / crop[0] if crop else 1.0
            crop = (image_size, image_size) if crop else None
            if isinstance(size, int):
                size = round(size * larger) if crop else image_size
            else:
                size = (round(size[0] * larger), round(size[1] * larger)) if crop else (image_size, image_size)
        scale = config.get("rescale_factor", 1 / 255) * 255 if config.get("do_rescale", True) else 255.0
        normalise = config.get("do_normalize", True)
        mean = _channels(config.get("image_mean") if normalise else 0.0, _IMAGENET_MEAN)
        std = _channels(config.get("image_std") if normalise else 1.0, _IMAGENET_STD)
        resample = config.get("resample")
        return cls(
            resize=size if resized else None,
            crop=crop,
            resampling=Image.Resampling.BILINEAR if resample is None else Image.Resampling(resample),
            mean=tuple(value / scale for value in mean),
            std=tuple(value / scale for value in std),
            rounding="transformers",
        )


def _size_of(size: Any) -> int | tuple[int, int]:
    """An int for the shorter side, (height, width) for an exact size."""
    if isinstance(size, int):
        return (size, size)
    if isinstance(size, (tuple, list)):
        return (size[0], size[1])
    known = {key: value for key, value in (size or {}).items() if value}
    if known.keys() == {"shortest_edge"}:
        return known["shortest_edge"]
    if known.keys() == {"height", "width"}:
        return (known["height"], known["width"])
    raise BackboneNotFoundError(
        f"size={size!r} of the image processor is not supported. Use {{'shortest_edge': n}} or "
        "{'height': n, 'width': n} in preprocessor_config.json."
    )


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


def _channels(value: Any, default: tuple[float, ...]) -> tuple[float, ...]:
    if value is None:
        return default
    return (float(value),) * 3 if isinstance(value, (int, float)) else tuple(value)
