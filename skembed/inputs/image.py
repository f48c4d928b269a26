"""Reading one image: files, bytes, PIL images and arrays become RGB, or a DecodeError."""

from __future__ import annotations

import io
import os
import struct
import threading
from typing import Any

import numpy as np
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from skembed.exceptions import DecodeError
from skembed.inputs.decode import is_missing, open_file, reason

__all__ = ["FORMATS", "read_image"]

#: Tried in this order. Pillow's many other plugins are rarely wanted and widen what a hostile file can reach.
FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        WebPImagePlugin.WebPImageFile,
        GifImagePlugin.GifImageFile,
        BmpImagePlugin.BmpImageFile,
        TiffImagePlugin.TiffImageFile,
    )
)


#: Pillow loads an opened file at its first use, and does not expect two threads to be first.
_LOCKS = tuple(threading.Lock() for _ in range(16))


def read_image(
    sample: Any,
    *,
    background: tuple[int, int, int] = (255, 255, 255),
    max_pixels: int = 178_956_970,
    at_least: tuple[int, int] | None = None,
) -> Image.Image:
    """An image as RGB.

    EXIF orientation is applied; transparency is composed on `background`; CMYK and other colour spaces are
    converted; of an animation the first frame is taken; 16-bit grey is scaled by its range, and wider integer
    or floating grey (modes I and F) by the range of 16 bits if it goes beyond 255.

    Parameters
    ----------
    sample : str, PathLike, bytes, file object, PIL image, ndarray, or dict with "bytes" or "path"
        Arrays have shape (height, width) or (height, width, 1, 3 or 4): uint8, uint16, bool, or floats in [0, 1].
    background : tuple of 3 int
        Red, green and blue from 0 to 255.
    max_pixels : int
        More are refused before anything is decoded.
    at_least : (int, int), optional
        Width and height in pixels, as the image is seen upright. A JPEG file of which this is the half or less may be
        decoded at a half, fourth or eighth of its size, never below this and only where its sides can be
        divided so: what would be rounded away would shift the image. Depends on the file alone. Images that somebody
        else opened, arrays and other formats are read at their size.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, loaded, its file closed.

    Raises
    ------
    DecodeError
        If it cannot be read; knows the path where there is one.
    """
    path = None
    if isinstance(sample, dict):
        path = sample.get("path")
        sample = sample.get("bytes") or path
    if isinstance(sample, Image.Image):
        with _lock_of(sample):
            return _to_rgb(sample, background, max_pixels, None, getattr(sample, "filename", None) or None)
    if isinstance(sample, np.ndarray):
        return _to_rgb(_from_array(sample), background, max_pixels, None, None)
    if isinstance(sample, (str, os.PathLike)):
        with open_file(sample) as file:
            return _from_file(file, background, max_pixels, at_least, file.name)
    if isinstance(sample, (bytes, bytearray, memoryview)):
        return _from_file(io.BytesIO(sample), background, max_pixels, at_least, path)
    if hasattr(sample, "read"):
        with _lock_of(sample):
            return _from_file(sample, background, max_pixels, at_least, None)
    raise DecodeError(
        f"expected a path, bytes, a PIL image or an array, got {type(sample).__name__}"
        + (" (a missing value)." if is_missing(sample) else ".")
    )


def _lock_of(sample: Any) -> threading.Lock:
    """The same lock for the same object, so that a sample may occur twice in what several threads read."""
    return _LOCKS[id(sample) // 16 % len(_LOCKS)]


def _from_file(file, background, max_pixels, at_least, path) -> Image.Image:
    try:
        file.seek(0)
        with _open_header(file) as image:
            return _to_rgb(image, background, max_pixels, at_least, path)
    except DecodeError:
        raise
    except UnidentifiedImageError as error:
        raise DecodeError(f"this is no image in one of the formats {', '.join(FORMATS)}.", path=path) from error
    # Pillow's plugins raise nearly anything on broken files.
    except Exception as error:
        raise _broken(error, path) from error


def _open_header(file) -> Image.Image:
    """The image with nothing but its header read.

    `Image.open` has a guard against bombs that warns where it should refuse and refuses where `max_pixels` was
    raised, all by global settings. So its plugins are asked directly, and `max_pixels` decides alone.
    """
    start = file.read(16)
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        if accept is not None and accept(start) is not True:
            continue
        file.seek(0)
        try:
            return factory(file, "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue  # how a plugin says that this is not its format
    raise UnidentifiedImageError


def _to_rgb(image: Image.Image, background, max_pixels, at_least, path) -> Image.Image:
    width, height = image.size
    if width == 0 or height == 0:
        raise DecodeError(f"the image has no pixels: {width} x {height}.", path=path)
    if width * height > max_pixels:
        raise DecodeError(
            f"the image has {width} x {height} pixels, more than max_pixels={max_pixels}. Raise max_pixels if you "
            "trust its source, or shrink it.",
            path=path,
        )
    try:
        if at_least is not None and isinstance(image, JpegImagePlugin.JpegImageFile):
            _shrink_on_load(image, at_least)
        image.load()
        return _flatten(ImageOps.exif_transpose(image), background)
    except DecodeError as error:
        raise DecodeError(error.message, path=path) from error
    except Exception as error:
        raise _broken(error, path) from error


def _shrink_on_load(image: JpegImagePlugin.JpegImageFile, at_least: tuple[int, int]) -> None:
    """Have a JPEG file that is still to be loaded decoded at a part of its size."""
    width, height = image.size
    sideways = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    least_width, least_height = at_least[::-1] if sideways else at_least
    for part in (8, 4, 2):
        divides = width % part == 0 and height % part == 0
        if divides and width // part >= least_width and height // part >= least_height:
            image.draft(None, (width // part, height // part))
            return


def _broken(error: Exception, path) -> DecodeError:
    return DecodeError(f"the image is broken: {reason(error)}. Save it again, or leave it out.", path=path)


def _flatten(image: Image.Image, background) -> Image.Image:
    """RGB, with nothing to see through."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _grey_to_8_bits(image)
    elif image.mode == "La":  # premultiplied, which converts to nothing but LA
        image = image.convert("LA")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (*background, 255))
        return Image.alpha_composite(canvas, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey_to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise DecodeError(f"the image has {int((~np.isfinite(values)).sum())} NaN or infinite pixels.")
    highest = 65535.0 if image.mode.startswith("I;16") or values.max(initial=0) > 255 else 255.0
    if image.mode == "F" and values.max(initial=0) <= 1:
        highest = 1.0
    grey = Image.fromarray((values / highest * 255).round().clip(0, 255).astype(np.uint8))
    if isinstance(hidden := image.info.get("transparency"), int):
        grey.putalpha(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
    return grey


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        hint = ""
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = " It looks channels-first: use array.transpose(1, 2, 0)."
        raise DecodeError(
            f"an image array has shape (height, width) or (height, width, 1, 3 or 4), got {array.shape}.{hint}"
        )
    if 0 in array.shape:
        raise DecodeError(f"the image has no pixels: shape {array.shape}.")
    return Image.fromarray(_to_8_bits(array))


def _to_8_bits(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return (array / 257.0).round().astype(np.uint8)
    if array.dtype.kind == "f":
        if not np.isfinite(array).all():
            raise DecodeError(f"the image has {int((~np.isfinite(array)).sum())} NaN or infinite pixels.")
        if array.min() < 0 or array.max() > 1:
            raise DecodeError(
                f"floating pixels lie in [0, 1], got [{array.min():g}, {array.max():g}]. Divide by the highest value, "
                "or give uint8."
            )
        return (array * 255).round().astype(np.uint8)
    raise DecodeError(f"image arrays are uint8, uint16, bool or floats in [0, 1], got {array.dtype}.")
