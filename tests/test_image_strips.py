"""Images that are too large to be decoded whole are read at a part of their size, in bounded memory."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from skembed import ImageEmbedder
from skembed.displays.samples import image_of, is_image
from skembed.exceptions import DecodeError
from skembed.inputs import image_limits, image_strips, read_image
from tests.backbones import tiny

RNG = np.random.default_rng(0)
SIZE = (86, 122)
SMOOTH = Image.fromarray(RNG.integers(0, 256, size=(61, 43, 4), dtype=np.uint8)).resize(SIZE, Image.Resampling.BICUBIC)
OPAQUE = SMOOTH.convert("RGB")
#: Orientation 6, as bytes of EXIF: to be turned by a quarter.
TURNED = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"


@pytest.fixture
def small_limits(monkeypatch):
    """Limits at which the images of this module are as large as an image of 134 million pixels otherwise."""
    monkeypatch.setattr(image_limits, "MAX_DECODED_BYTES", 4000)
    monkeypatch.setattr(image_limits, "_REDUCED_PIXELS", 1000)
    monkeypatch.setattr(image_strips, "_STRIP_BYTES", 900)


def _encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(color: int, depth: int, channels: int, *, extra: bytes = b"", late: bytes = b"") -> bytes:
    """Return a PNG file of random bytes, all five filters, and pixels in several chunks."""
    width, height = SIZE
    rows = RNG.integers(0, 256, size=(height, 1 + width * channels * depth // 8), dtype=np.uint8)
    rows[:, 0] = np.arange(height) % 5
    packed = zlib.compress(rows.tobytes())
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    pixels = b"".join(_chunk(b"IDAT", packed[i : i + 1000]) for i in range(0, len(packed), 1000))
    return b"\x89PNG\r\n\x1a\n" + header + extra + pixels + late + _chunk(b"IEND", b"")


FILES = {
    **{f"PNG {mode}": _encoded(OPAQUE.convert(mode), "PNG") for mode in ("1", "L", "P", "RGB")},
    **{f"PNG {mode}": _encoded(SMOOTH.convert(mode), "PNG") for mode in ("LA", "RGBA")},
    **{f"PNG P {n}": _encoded(OPAQUE.quantize(2**n), "PNG", bits=n, transparency=1) for n in (1, 2, 4)},
    "PNG I;16": _png(0, 16, 1),
    "PNG hidden I;16": _png(0, 16, 1, extra=_chunk(b"tRNS", b"\0\x80")),
    "PNG RGB 16": _png(2, 16, 3),
    "PNG LA 16": _png(4, 16, 2),
    "PNG RGBA 16": _png(6, 16, 4),
    "PNG turned": _png(2, 8, 3, extra=_chunk(b"eXIf", TURNED)),
    "PNG turned late": _png(2, 8, 3, late=_chunk(b"eXIf", TURNED)),
    **{f"BMP {mode}": _encoded(OPAQUE.convert(mode), "BMP") for mode in ("1", "L", "P", "RGB", "RGBA")},
    **{f"TIFF {mode}": _encoded(OPAQUE.convert(mode), "TIFF") for mode in ("1", "L", "P", "RGB", "RGBA", "CMYK")},
    "TIFF strips": _encoded(OPAQUE, "TIFF", tiffinfo={278: 7}),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("max_pixels", ["auto", 10**6])
def test_large_images_are_averaged_while_they_are_read(small_limits, name, max_pixels):
    reduced = read_image(FILES[name], at_least=(20, 20), max_pixels=max_pixels)
    whole = read_image(FILES[name], max_pixels=10**6)
    if "turned" in name:
        expected = whole.transpose(Image.Transpose.ROTATE_90).reduce(4).transpose(Image.Transpose.ROTATE_270)
    else:
        expected = whole.reduce(4)
    assert sorted(reduced.size) == [22, 31]
    np.testing.assert_array_equal(np.asarray(reduced), np.asarray(expected))


@pytest.mark.parametrize("name", ["PNG RGB", "PNG P 1", "BMP RGB", "TIFF RGB"])
def test_no_more_than_a_strip_is_decoded_at_a_time(small_limits, monkeypatch, name):
    heights = []
    flatten = image_strips.flatten
    monkeypatch.setattr(
        image_strips, "flatten", lambda strip, color: heights.append(strip.height) or flatten(strip, color)
    )
    read_image(FILES[name], at_least=(20, 20))
    assert sum(heights) == SIZE[1]
    assert max(heights) == {"PNG RGB": 4, "PNG P 1": 80, "BMP RGB": 4, "TIFF RGB": 4}[name]


def test_sides_stay_as_long_as_they_are_needed(small_limits):
    assert read_image(FILES["PNG RGB"], at_least=(40, 30), max_pixels=10**6).size == (43, 61)
    assert read_image(FILES["PNG RGB"], at_least=(44, 30), max_pixels=10**6).size == SIZE
    assert read_image(FILES["PNG RGB"], max_pixels=10**6).size == SIZE


def test_images_within_the_limit_keep_their_size():
    for content in FILES.values():
        assert sorted(read_image(content, at_least=(20, 20)).size) == list(SIZE)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"tiffinfo": {274: 3}}),
        ("WEBP", {}),
        ("GIF", {}),
        ("PNG", {"interlace": 1}),
    ],
)
def test_formats_that_are_decoded_whole_obey_the_limit(small_limits, kind, options):
    content = _encoded(OPAQUE, kind, **options)
    if options.pop("interlace", None):
        header = content[12:28] + b"\1"
        content = content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
    with pytest.raises(DecodeError, match=r"86 x 122 pixels, and decoding it takes about .*max_pixels=10492"):
        read_image(content, at_least=(20, 20))


def test_what_is_too_large_in_every_strip_is_refused(small_limits, monkeypatch):
    with pytest.raises(DecodeError, match="86 x 122 pixels, and decoding it"):
        read_image(FILES["PNG RGB"], at_least=(44, 30))
    monkeypatch.setattr(image_limits, "_MAX_REDUCED_PIXELS", 10_000)
    with pytest.raises(DecodeError, match="86 x 122 pixels, more than the 10000 that max_pixels='auto' allows"):
        read_image(FILES["PNG RGB"], at_least=(20, 20))
    with pytest.raises(DecodeError, match="more than max_pixels=10000"):
        read_image(FILES["PNG RGB"], at_least=(20, 20), max_pixels=10_000)


@pytest.mark.parametrize("name", ["PNG RGB", "BMP RGB", "TIFF RGB"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_truncated_files_are_broken(small_limits, name, kept):
    with pytest.raises(DecodeError, match="is broken"):
        read_image(FILES[name][: int(len(FILES[name]) * kept)], at_least=(20, 20))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_flipped_bytes_never_raise_anything_but_a_decode_error(small_limits):
    rng = np.random.default_rng(1)
    for name in ("PNG RGB", "PNG P 2", "BMP P", "TIFF strips"):
        for _ in range(60):
            content = bytearray(FILES[name])
            content[rng.integers(len(content) if rng.random() < 0.5 else 100)] ^= int(rng.integers(1, 256))
            try:
                read_image(bytes(content), at_least=(20, 20))
            except DecodeError:
                continue


@pytest.mark.parametrize("progressive", [False, True])
def test_the_limit_counts_a_jpeg_file_at_the_size_that_it_is_decoded_at(monkeypatch, progressive):
    content = _encoded(OPAQUE.resize((640, 320)), "JPEG", progressive=progressive)
    monkeypatch.setattr(image_limits, "MAX_DECODED_BYTES", 640 * 320 * 4 - 1)
    if progressive:  # coefficients of the whole image are in memory
        with pytest.raises(DecodeError, match="640 x 320 pixels, and decoding it"):
            read_image(content, at_least=(160, 80))
        return
    assert read_image(content, at_least=(160, 80)).size == (160, 80)
    with pytest.raises(DecodeError, match="640 x 320 pixels, and decoding it"):
        read_image(content)


def test_sides_of_large_jpeg_files_need_not_be_divisible(monkeypatch):
    image = OPAQUE.resize((641, 323), Image.Resampling.BICUBIC)
    content = _encoded(image, "JPEG", quality=95)
    assert read_image(content, at_least=(80, 40)).size == (641, 323)
    monkeypatch.setattr(image_limits, "MAX_DECODED_BYTES", 641 * 323 * 4 - 1)
    reduced = read_image(content, at_least=(80, 40))
    assert reduced.size == (81, 41)
    difference = np.asarray(reduced, dtype=float) - np.asarray(image.reduce(8), dtype=float)
    assert np.abs(difference).mean() < 2


def test_an_embedder_reads_a_png_file_that_is_too_large_to_be_decoded(tmp_path, monkeypatch):
    tiny.BUILDERS["timm_vit"](tmp_path)
    image = OPAQUE.resize((700, 900), Image.Resampling.BICUBIC)
    content = _encoded(image, "PNG")
    embedder = ImageEmbedder(str(tmp_path), device="cpu", precision="float32", cache=None)
    (whole,) = embedder.fit_transform([content])
    monkeypatch.setattr(image_limits, "MAX_DECODED_BYTES", 700 * 900 * 4 - 1)
    monkeypatch.setattr(image_limits, "_REDUCED_PIXELS", 700 * 900 // 4)
    with pytest.raises(DecodeError, match="sample 0"):
        embedder.transform([_encoded(image, "WEBP")])
    (reduced,) = embedder.transform([content])
    assert 0.9999 < whole @ reduced / np.linalg.norm(whole) / np.linalg.norm(reduced) < 1


def test_displays_draw_what_embedders_read(small_limits):
    assert is_image(FILES["PNG RGB"])
    assert image_of(FILES["PNG RGB"], 10, index=0).size == (10, 10)
