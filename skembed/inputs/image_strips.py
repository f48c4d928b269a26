"""Read large images strip by strip at a fraction of their size, in bounded memory.

Pillow decodes whole images. Formats that store rows one after another are read here in strips, each of which Pillow
decodes, converts to RGB and averages: PNG files that are not interlaced, and BMP and TIFF files without compression.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from PIL import BmpImagePlugin, ExifTags, Image, ImageOps, PngImagePlugin, TiffImagePlugin

from skembed.inputs.image_limits import orientation
from skembed.inputs.image_modes import flatten

__all__ = ["can_stream", "read_reduced"]

#: Bytes of a strip. The decoded strip and its conversions take about ten times as much.
_STRIP_BYTES = 2**22
#: Bytes of metadata that are searched for the orientation of a PNG file.
_MAX_METADATA_BYTES = 2**20
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Chunks of a PNG file that Pillow finds an orientation in.
_PNG_METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
#: Modes of an 8-bit image with so many bytes per pixel, as which PNG rows are unfiltered.
_BYTE_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def can_stream(image: Any) -> bool:
    """Return True for an opened image file whose pixels can be read strip by strip."""
    if image.mode in ("F", "I"):
        return False  # the largest pixel of the whole image says which value becomes white
    if isinstance(image, PngImagePlugin.PngImageFile):
        return not image.info.get("interlace") and not getattr(image, "is_animated", False) and len(image.tile) == 1
    if not isinstance(image, (BmpImagePlugin.BmpImageFile, TiffImagePlugin.TiffImageFile)):
        return False
    if orientation(image) != 1:
        return False  # of TIFF files, Pillow tells the upright size
    tiles: Any = image.tile
    bottoms = [0] + [tile[1][3] for tile in tiles]
    return bottoms[-1] == image.height and all(
        tile[0] == "raw" and tile[1][:3] == (0, top, image.width) for tile, top in zip(tiles, bottoms[:-1], strict=True)
    )


def read_reduced(file: BinaryIO, image: Any, factor: int, background: tuple[int, int, int]) -> Image.Image:
    """Return an image as upright RGB, each pixel the mean of `factor` x `factor` pixels.

    Parameters
    ----------
    file : binary file object
        File that `image` was opened from.
    image : PIL.Image.Image
        An image that `can_stream`; not loaded.
    factor : int
        Pixels per side that are averaged.
    background : tuple of 3 int
        Red, green and blue behind transparent pixels.
    """
    reduced = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    is_png = isinstance(image, PngImagePlugin.PngImageFile)
    strips = _png_strips(file, image, factor) if is_png else _raw_strips(file, image, factor)
    row = 0
    for strip in strips:
        strip.info = {key: value for key, value in image.info.items() if key == "transparency"}
        if image.palette is not None:
            strip.putpalette(image.palette)
        part = flatten(strip, background).reduce(factor)
        reduced.paste(part, (0, row))
        row += part.height
    turned = _png_orientation(file) if is_png else 1
    if turned == 1:
        return reduced
    reduced.getexif()[ExifTags.Base.Orientation] = turned
    upright = ImageOps.exif_transpose(reduced)
    return upright._new(upright.im)


def _strip_rows(row_bytes: int, factor: int) -> int:
    """Return the number of rows in a strip, a multiple of `factor`."""
    return max(1, _STRIP_BYTES // (row_bytes * factor)) * factor


def _raw_strips(file: BinaryIO, image: Any, factor: int) -> Iterator[Image.Image]:
    """Yield the strips of a file without compression from the top."""
    bits = sum(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))) if hasattr(image, "tag_v2") else 0
    rows = _strip_rows(image.tile[0][3][1] or (image.width * bits + 7) // 8, factor)
    pending, n_pending = b"", 0
    for _, (_, top, _, bottom), offset, (raw_mode, stride, direction) in image.tile:
        row_bytes = stride or (image.width * bits + 7) // 8
        while top < bottom:
            n_rows = min(rows - n_pending, bottom - top)
            file.seek(offset if direction == 1 else offset + (bottom - top - n_rows) * row_bytes)
            content = _read(file, n_rows * row_bytes)
            offset += n_rows * row_bytes if direction == 1 else 0
            pending, n_pending, top = pending + content, n_pending + n_rows, top + n_rows
            if n_pending == rows or top == image.height:
                size = (image.width, n_pending)
                yield Image.frombytes(image.mode, size, pending, "raw", raw_mode, row_bytes, direction)
                pending, n_pending = b"", 0


def _png_strips(file: BinaryIO, image: Any, factor: int) -> Iterator[Image.Image]:
    """Yield the strips of a PNG file from the top."""
    file.seek(len(_PNG_SIGNATURE) + 8)
    width, height, depth, color = struct.unpack(">IIBB", _read(file, 10))
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    row_bytes = (width * bits + 7) // 8
    rows, previous = _strip_rows(row_bytes, factor), bytes(row_bytes)
    raw_mode = image.tile[0][3]
    blocks = _inflated(file, (row_bytes + 1) * rows, (row_bytes + 1) * height)
    for block in blocks:
        pixels = _unfiltered(previous, block, row_bytes, max(1, bits // 8))
        previous = pixels[-row_bytes:]
        yield Image.frombytes(image.mode, (width, len(pixels) // row_bytes), pixels, "raw", raw_mode)


def _inflated(file: BinaryIO, block_size: int, total: int) -> Iterator[bytes]:
    """Yield the filtered rows of a PNG file in blocks of so many bytes."""
    inflate, block, compressed, data = zlib.decompressobj(), bytearray(), _compressed(file), b""
    while total:
        size = min(block_size, total)
        part = inflate.decompress(data, size - len(block))
        data = inflate.unconsumed_tail
        block += part
        if len(block) == size:
            yield bytes(block)
            total -= size
            block.clear()
        elif not part and not data:
            data = next(compressed, b"")
            if not data:
                raise OSError("image file is truncated")


def _compressed(file: BinaryIO) -> Iterator[bytes]:
    """Yield the compressed pixels of a PNG file, at most 1 MB at a time."""
    for kind, position, length in _chunks(file):
        for start in range(0, length if kind == b"IDAT" else 0, 2**20):
            file.seek(position + start)
            yield _read(file, min(2**20, length - start))


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield kind, position and length of the contents of a PNG file's chunks."""
    position = len(_PNG_SIGNATURE)
    while True:
        file.seek(position)
        header = file.read(8)
        if len(header) < 8 or header[4:] == b"IEND":
            return
        length = int.from_bytes(header[:4], "big")
        yield header[4:], position + 8, length
        position += length + 12


def _unfiltered(previous: bytes, block: bytes, row_bytes: int, pixel_bytes: int) -> bytes:
    """Undo the filters of PNG rows, given the row above the first.

    Pillow does it for a file that is made of these rows.

    Filters add bytes that are one pixel apart, whatever they mean, so that every depth is decoded as one of 8 bits;
    the halves of pixels of 6 and 8 bytes are filtered independently of each other.
    """
    rows = np.frombuffer(b"\0" + previous + block, dtype=np.uint8).reshape(-1, row_bytes + 1)
    n_parts = 2 if pixel_bytes > 4 else 1
    mode = _BYTE_MODES[pixel_bytes // n_parts]
    result = np.empty((len(rows) - 1, row_bytes // (pixel_bytes // n_parts), pixel_bytes // n_parts), dtype=np.uint8)
    for part in range(n_parts):
        pixels = rows[:, 1:].reshape(len(rows), -1, pixel_bytes // n_parts)[:, part::n_parts]
        filtered = np.concatenate([rows[:, :1], pixels.reshape(len(rows), -1)], axis=1)
        image = _png(mode, pixels.shape[1], filtered)
        result[:, part::n_parts] = np.asarray(image).reshape(pixels.shape)[1:]
    return result.tobytes()


def _png(mode: str, width: int, filtered: np.ndarray) -> Image.Image:
    """Return the image of filtered PNG rows of 8 bits per channel."""
    color = {"L": 0, "RGB": 2, "LA": 4, "RGBA": 6}[mode]
    header = struct.pack(">IIBBBBB", width, len(filtered), 8, color, 0, 0, 0)
    content = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(filtered.data, 0)) + _chunk(b"IEND", b"")
    image = PngImagePlugin.PngImageFile(io.BytesIO(_PNG_SIGNATURE + content))
    image.load()
    return image


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


def _png_orientation(file: BinaryIO) -> int:
    """Return the EXIF orientation of a PNG file, read from one pixel with the same metadata."""
    metadata, room = [], _MAX_METADATA_BYTES
    for kind, position, length in _chunks(file):
        if kind in _PNG_METADATA and length <= room:
            file.seek(position)
            metadata.append(_chunk(kind, _read(file, length)))
            room -= length
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    parts = [_PNG_SIGNATURE, header, *metadata, _chunk(b"IDAT", zlib.compress(b"\0\0")), _chunk(b"IEND", b"")]
    image = PngImagePlugin.PngImageFile(io.BytesIO(b"".join(parts)))
    image.load()
    return orientation(image)


def _read(file: BinaryIO, n_bytes: int) -> bytes:
    content = file.read(n_bytes)
    if len(content) < n_bytes:
        raise OSError("image file is truncated")
    return content
