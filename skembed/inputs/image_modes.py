"""Conversion of images and arrays to opaque RGB, strip by strip to bound memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

from skembed.exceptions import DecodeError

__all__ = ["flatten", "from_array"]

#: Pixels converted at a time, and so at most some 40 MB of temporaries.
_STRIP_PIXELS = 2**20

#: Computed pixels may leave [0, 1] by what rounds to the same 8-bit level, half a level.
_HALF_LEVEL = 0.5 / 255


def flatten(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """Return an image as RGB, with transparency composed on `background`."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _gray_to_8_bits(image)
    if image.mode in ("La", "RGBa") or image.has_transparency_data:
        return _compose(image, background)
    return image if image.mode == "RGB" else image.convert("RGB")


def _strips(width: int, height: int) -> Iterator[tuple[int, int]]:
    """Return the first row and the end row of each strip."""
    rows = max(1, _STRIP_PIXELS // max(1, width))
    return ((top, min(top + rows, height)) for top in range(0, height, rows))


def _compose(image: Image.Image, background) -> Image.Image:
    composed = Image.new("RGB", image.size)
    for top, bottom in _strips(*image.size):
        layer = image.crop((0, top, image.width, bottom))
        if layer.mode == "La":  # premultiplied, which converts to nothing but LA
            layer = layer.convert("LA")
        layer = layer.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (*background, 255))
        composed.paste(Image.alpha_composite(canvas, layer).convert("RGB"), (0, top))
    return composed


def _gray_to_8_bits(image: Image.Image) -> Image.Image:
    """Return gray of 16 or 32 bits as L, or LA where one value is transparent."""
    highest, hidden = _range_of(image), image.info.get("transparency")
    has_hidden = isinstance(hidden, int)
    gray = Image.new("LA" if has_hidden else "L", image.size)
    for top, bottom in _strips(*image.size):
        values = np.asarray(image.crop((0, top, image.width, bottom))).astype(np.float64)
        strip = Image.fromarray((values / highest * 255).round().clip(0, 255).astype(np.uint8))
        if has_hidden:
            strip.putalpha(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
        gray.paste(strip, (0, top))
    return gray


def _range_of(image: Image.Image) -> float:
    """Return the value that becomes white."""
    if image.mode.startswith("I;16"):
        return 65535.0
    n_invalid, largest = 0, 0.0
    for top, bottom in _strips(*image.size):
        values = np.asarray(image.crop((0, top, image.width, bottom)))
        n_invalid += int((~np.isfinite(values)).sum())
        largest = max(largest, float(values.max()))
    if n_invalid:
        raise DecodeError(f"the image has {n_invalid} NaN or infinite pixels.")
    if image.mode == "F" and largest <= 1 + _HALF_LEVEL:
        return 1.0
    return 65535.0 if largest >= 255.5 else 255.0


def from_array(array: np.ndarray) -> Image.Image:
    """Return an array of an accepted shape and type as an image of 8 bits."""
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        hint = ""
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = " It looks channels-first: use array.transpose(1, 2, 0)."
        elif array.ndim == 1:
            hint = " Use AudioEmbedder() for recordings."
        raise DecodeError(
            f"an image array has shape (height, width) or (height, width, 1, 3 or 4), got {array.shape}.{hint}"
        )
    if 0 in array.shape:
        raise DecodeError(f"the image has no pixels: shape {array.shape}.")
    return Image.fromarray(_to_8_bits(array))


def _to_8_bits(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if not (array.dtype in (np.bool_, np.uint16) or array.dtype.kind == "f"):
        raise DecodeError(f"image arrays are uint8, uint16, bool or floats in [0, 1], got {array.dtype}.")
    if array.dtype.kind == "f":
        _check_floats(array)
    pixels = np.empty(array.shape, np.uint8)
    for top, bottom in _strips(array.shape[1], array.shape[0]):
        pixels[top:bottom] = _scaled(array[top:bottom])
    return pixels


def _scaled(strip: np.ndarray) -> np.ndarray:
    if strip.dtype == np.bool_:
        return strip.astype(np.uint8) * 255
    if strip.dtype == np.uint16:
        return (strip / 257.0).round().astype(np.uint8)
    return (strip * 255).round().clip(0, 255).astype(np.uint8)


def _check_floats(array: np.ndarray) -> None:
    least, largest = float(array.min()), float(array.max())
    if not (np.isfinite(least) and np.isfinite(largest)):
        n_invalid = sum(int((~np.isfinite(array[i:j])).sum()) for i, j in _strips(array.shape[1], array.shape[0]))
        raise DecodeError(f"the image has {n_invalid} NaN or infinite pixels.")
    if least < -_HALF_LEVEL or largest > 1 + _HALF_LEVEL:
        raise DecodeError(
            f"floating pixels must be in [0, 1], got [{least:.6g}, {largest:.6g}]. Divide by the highest value, "
            "or give uint8."
        )
