"""Read one image from files, bytes, PIL images or arrays, as RGB."""

from __future__ import annotations

import errno
import io
import os
import struct
from typing import Any, Literal

import numpy as np
from PIL import (
    BmpImagePlugin,
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
from skembed.inputs.arrays import as_array
from skembed.inputs.decode import is_missing, open_file, reason
from skembed.inputs.file_kinds import explain, read_start
from skembed.inputs.image_limits import check_scans, check_size, is_too_large, orientation, reduction
from skembed.inputs.image_modes import flatten, from_array
from skembed.inputs.image_strips import can_stream, read_reduced
from skembed.inputs.recordings import file_in_dict, is_recording
from skembed.inputs.streams import as_seekable, lock_of, reading_error

__all__ = ["FORMATS", "open_header", "read_image"]

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


#: What follows the header of a TIFF file that is a Canon camera's raw file.
_CANON_RAW = b"CR\x02\0"
#: Tags of TIFF: 1 in the first says that an image is a smaller version of another one, the second where others are.
_SUBFILE_TYPE, _SUB_IFDS = 254, 330
_SAVE_AGAIN = "Save it again, or leave it out."


def read_image(
    sample: Any,
    *,
    background: tuple[int, int, int] = (255, 255, 255),
    max_pixels: int | Literal["auto"] = "auto",
    at_least: tuple[int, int] | None = None,
) -> Image.Image:
    """Read an image as RGB.

    The EXIF orientation is applied, transparent pixels are composed on `background`, and CMYK and other color spaces
    are converted. The first frame of an animation is read. Gray values of 16 bits are scaled by their range. Wider
    integers and floats (modes I and F) are scaled by the range of 16 bits if they go beyond 255.

    Parameters
    ----------
    sample : str, PathLike, bytes, file object, PIL image, ndarray, tensor, or dict with "bytes" or "path"
        Arrays have shape (height, width) or (height, width, 1, 3 or 4): uint8, uint16, bool, or floats in [0, 1].
        File objects are open for bytes; a stream that cannot seek is read into memory, up to 512 MB, and only once.
    background : tuple of 3 int
        Red, green and blue from 0 to 255.
    max_pixels : int or "auto"
        Largest number of pixels; larger images are refused before they are decoded. "auto" refuses images whose
        decoding takes more than 512 MB of memory, and those of more than 268 million pixels that are reduced while
        they are read (see `at_least`).
    at_least : (int, int), optional
        Width and height in pixels that are needed, as the image is seen upright. A JPEG file of which this is the half
        or less may be decoded at a half, fourth or eighth of its size, never below this and only where its sides can
        be divided so: what would be rounded away would shift the image. Files whose decoding takes more than 512 MB
        are reduced whatever their sides: JPEG files, and PNG, BMP and TIFF files that store their rows one after
        another, which are averaged strip by strip. Depends on the file alone. Images that somebody else opened,
        arrays and other files are read at their size.

    Returns
    -------
    PIL.Image.Image
        Mode RGB, loaded, its file closed.

    Raises
    ------
    DecodeError
        If the image cannot be read. The error has the path, if there is one.
    """
    path = None
    if isinstance(sample, dict):
        path = sample.get("path")
        if not is_recording(sample):
            sample = file_in_dict(sample, '"bytes" or "path"')
    if isinstance(sample, Image.Image):
        # Pillow loads an opened file at its first use, and does not expect two threads to be first.
        with lock_of(sample):
            _refuse_closed(sample)
            image = _to_rgb(sample, background, max_pixels, None, getattr(sample, "filename", None) or None)
            # The caller's image may change after this.
            return image.copy() if image.im is sample.im else image
    sample = as_array(sample)
    if isinstance(sample, np.ndarray):
        return _to_rgb(from_array(sample), background, max_pixels, None, None)
    if isinstance(sample, (str, os.PathLike)):
        with open_file(sample) as file:
            return _from_file(file, background, max_pixels, at_least, file.name)
    if isinstance(sample, (bytes, bytearray, memoryview)):
        return _from_file(io.BytesIO(sample), background, max_pixels, at_least, path)
    if hasattr(sample, "read"):
        with lock_of(sample):
            return _from_file(as_seekable(sample), background, max_pixels, at_least, path)
    missing = " (a missing value)" if is_missing(sample) else ""
    advice = " It is a recording with its rate: use AudioEmbedder()." if is_recording(sample) else ""
    raise DecodeError(f"expected a path, bytes, a PIL image or an array, got {type(sample).__name__}{missing}.{advice}")


def _refuse_closed(image: Image.Image) -> None:
    """Raise DecodeError for an image whose file was closed before its pixels were read."""
    if not getattr(image, "tile", None):
        return
    file: Any = getattr(image, "fp", None)
    if file is None or getattr(file, "closed", False) is True:
        path = getattr(image, "filename", None) or None
        raise DecodeError(
            "the image was closed before its pixels were read. Call image.load() first, or give its path.", path=path
        )


def _from_file(file, background, max_pixels, at_least, path) -> Image.Image:
    try:
        file.seek(0)
        with open_header(file) as image:
            if isinstance(image, JpegImagePlugin.JpegImageFile):
                check_scans(file, image)
            _refuse_preview(image)
            factor = reduction(image, at_least)
            if factor > 1 and can_stream(image):
                check_size(image, max_pixels, factor=factor)
                return read_reduced(file, image, factor, background)
            return _to_rgb(image, background, max_pixels, at_least, path)
    except DecodeError as error:
        raise DecodeError(error.message, path=path) from error
    except UnidentifiedImageError as error:
        explanation = explain(read_start(file), "image")
        raise DecodeError(explanation or f"the image is broken at its start. {_SAVE_AGAIN}", path=path) from error
    # Pillow's plugins raise nearly anything on broken files.
    except Exception as error:
        raise _broken(error, path) from error


def open_header(file) -> Image.Image:
    """Open an image and read only its header.

    `Image.open` has a guard against bombs that warns where it should refuse and refuses where `max_pixels` was
    raised, all by global settings. So its plugins are asked directly, and `max_pixels` decides alone.
    """
    start = file.read(16)
    if start[8:12] == _CANON_RAW:
        raise UnidentifiedImageError
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


def _refuse_preview(image: Image.Image) -> None:
    """Raise DecodeError for a TIFF file that begins with a preview, as camera raw files do."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return
    if image.tag_v2.get(_SUBFILE_TYPE) == 1 and _SUB_IFDS in image.tag_v2:
        raise DecodeError(
            f"this is a camera's raw file, which is not supported: it begins with a preview of {image.width} x "
            f"{image.height} pixels. Convert it to JPEG or PNG."
        )


def _to_rgb(image: Image.Image, background, max_pixels, at_least, path) -> Image.Image:
    try:
        file_size = image.size
        if at_least is not None and isinstance(image, JpegImagePlugin.JpegImageFile):
            _shrink_on_load(image, at_least)
        check_size(image, max_pixels, file_size=file_size)
        image.load()
        # Again, since a PNG file may tell only now that it has to be turned.
        check_size(image, max_pixels, file_size=file_size)
        upright = ImageOps.exif_transpose(image) if orientation(image) != 1 else image
        rgb = flatten(upright, background)
    except DecodeError as error:
        raise DecodeError(error.message, path=path) from error
    except Exception as error:
        raise _broken(error, path) from error
    # Not the plugin's image, which may keep the file's content and its decoder's buffers.
    return rgb._new(rgb.im) if rgb is image else rgb


def _shrink_on_load(image: JpegImagePlugin.JpegImageFile, at_least: tuple[int, int]) -> None:
    """Set an unloaded JPEG file to be decoded at a fraction of its size."""
    width, height = image.size
    sideways = orientation(image) >= 5
    least_width, least_height = at_least[::-1] if sideways else at_least
    any_side = is_too_large(image)
    for part in (8, 4, 2):
        divides = width % part == 0 and height % part == 0
        if (divides or any_side) and width // part >= least_width and height // part >= least_height:
            image.draft(None, (width // part, height // part))
            return


def _broken(error: Exception, path) -> DecodeError:
    # Pillow raises OSError without a number; a damaged TIFF file may seek to before its start.
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        return DecodeError(reading_error(error).message, path=path)
    return DecodeError(f"the image is broken: {reason(error)}. {_SAVE_AGAIN}", path=path)
