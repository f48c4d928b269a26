"""Limits of image decoding, since small files can declare huge sizes and many scans."""

from __future__ import annotations

import math
from typing import Any, Literal

from PIL import ExifTags, Image, JpegImagePlugin, PngImagePlugin

from skembed.exceptions import DecodeError

__all__ = [
    "MAX_DECODED_BYTES",
    "check_scans",
    "check_size",
    "decoded_bytes",
    "is_too_large",
    "orientation",
    "reduction",
]

#: Memory in bytes that decoding one image may take with the default limit.
MAX_DECODED_BYTES = 512 * 2**20

#: Pixels of an image that is read at a part of its size because it is too large to be decoded whole: 64 MB.
_REDUCED_PIXELS = 2**24

#: Pixels of a file that is read at a part of its size, which bounds time: these take 16 s of a Zen 4 core as RGB PNG.
_MAX_REDUCED_PIXELS = 2**28

#: Scans of a JPEG file times its pixels. Each scan is a pass over the image; 2e9 decode in about ten seconds, and
#: a progressive photograph of 100 million pixels with the usual ten scans is at half of it.
_MAX_SCANNED_PIXELS = 2 * 10**9

#: Bytes per pixel of Pillow's storage; every mode not listed takes four.
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}

#: Bytes per pixel that a decoder takes besides the result: libwebp's canvases with the copy that Pillow is given,
#: libjpeg's coefficients of a progressive file, the strips of libtiff.
_DECODER = {"WEBP": 16, "TIFF": 4}
_PROGRESSIVE = 6


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation from 1 to 8; 1 for a PNG file with its EXIF data at the end."""
    if isinstance(image, PngImagePlugin.PngImageFile) and image.tile and "exif" not in image.info:
        return 1  # to look for more, Pillow would decode the image
    value: Any = image.getexif().get(ExifTags.Base.Orientation)
    return int(value) if value in range(2, 9) else 1


def decoded_bytes(image: Image.Image, file_size: tuple[int, int] | None = None) -> int:
    """Return the memory in bytes that decoding takes at its peak, conversion to RGB included.

    Parameters
    ----------
    image : PIL.Image.Image
        An opened image.
    file_size : (int, int), optional
        Width and height that the file has where the image is decoded at a part of its size.
    """
    stored = _STORED.get(image.mode, 4)
    decoder = _DECODER.get(image.format or "", 0)
    if isinstance(image, JpegImagePlugin.JpegImageFile) and image.info.get("progressive"):
        decoder = _PROGRESSIVE
    # A second image is needed where anything changes after decoding.
    ready = image.mode == "RGB" and not image.has_transparency_data and orientation(image) == 1
    converted = 0 if ready else 4
    if not image.mode.startswith(("RGB", "L", "P", "1", "CMYK")):
        converted += 1  # scaled to 8 bits first
    n_pixels, n_in_file = math.prod(image.size), math.prod(file_size or image.size)
    return n_pixels * stored + max(n_in_file * decoder, n_pixels * converted)


def is_too_large(image: Image.Image) -> bool:
    """Return True if decoding an image at full size takes more than `MAX_DECODED_BYTES`."""
    return decoded_bytes(image) > MAX_DECODED_BYTES


def reduction(image: Image.Image, at_least: tuple[int, int] | None) -> int:
    """Return the factor by which the sides of an image are divided while its file is read.

    It is 1 for an image that is decoded within `MAX_DECODED_BYTES`. It depends on the file and on `at_least` alone,
    so that an image has the same pixels whatever limit it passed.

    Parameters
    ----------
    image : PIL.Image.Image
        An opened image, not loaded.
    at_least : (int, int), optional
        Width and height in pixels that must remain.
    """
    if at_least is None or not is_too_large(image):
        return 1
    # Larger than necessary: the last row and column of averages may be of fewer pixels than the others.
    wanted = math.ceil(math.sqrt(math.prod(image.size) / _REDUCED_PIXELS))
    return max(1, min(wanted, min(image.size) // max(at_least)))


def check_size(
    image: Image.Image,
    max_pixels: int | Literal["auto"],
    *,
    file_size: tuple[int, int] | None = None,
    factor: int = 1,
) -> None:
    """Raise DecodeError if an opened image is empty or too large to be decoded.

    Parameters
    ----------
    image : PIL.Image.Image
        An opened image.
    max_pixels : int or "auto"
        Largest number of pixels of the file; "auto" bounds memory and time instead.
    file_size : (int, int), optional
        Width and height that the file has where the image is decoded at a part of its size.
    factor : int
        Factor by which sides are divided while the file is read strip by strip.
    """
    width, height = file_size or image.size
    if width == 0 or height == 0:
        raise DecodeError(f"the image has no pixels: {width} x {height}.")
    if max_pixels != "auto":
        if width * height > max_pixels:
            raise DecodeError(
                f"the image has {width} x {height} pixels, more than max_pixels={max_pixels}. Raise max_pixels if you "
                "trust its source, or shrink it."
            )
        return
    needed = decoded_bytes(image, file_size) if factor == 1 else 4 * width * height // factor**2
    excess = None
    if needed > MAX_DECODED_BYTES:
        excess = f"and decoding it takes about {needed // 2**20} MB, more than the {MAX_DECODED_BYTES // 2**20} MB"
    elif (factor > 1 or image.size != (width, height)) and width * height > _MAX_REDUCED_PIXELS:
        excess = f"more than the {_MAX_REDUCED_PIXELS}"
    if excess is not None:
        raise DecodeError(
            f"the image has {width} x {height} pixels, {excess} that max_pixels='auto' allows. Set "
            f"max_pixels={width * height} if you trust its source, or shrink it."
        )


def check_scans(file: Any, image: JpegImagePlugin.JpegImageFile) -> None:
    """Raise DecodeError if a JPEG file has so many scans that decoding would not end soon.

    In compressed data the marker of a scan cannot occur by chance; a thumbnail adds a few.
    """
    start = file.tell()  # Pillow has read up to the first scan's marker
    if not image.info.get("progressive") and file.read(3)[2:] == bytes([image.layers]):
        file.seek(start)
        return  # a single scan with all components, after which libjpeg stops
    file.seek(0)
    scans, last = 0, b""
    while block := file.read(2**20):
        scans += (last + block).count(b"\xff\xda")
        last = block[-1:]
    file.seek(start)
    if scans * image.width * image.height > _MAX_SCANNED_PIXELS and scans > 4:
        raise DecodeError(
            f"the JPEG file has {scans} scans of {image.width} x {image.height} pixels, which would take minutes to "
            "decode. Save it again, or leave it out."
        )
