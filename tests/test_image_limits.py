"""Memory and time that small files may cost, and the conversions that are done in strips."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from skembed.exceptions import DecodeError
from skembed.inputs import image_limits, image_modes, read_image


def _file(image: Image.Image, kind: str, **options) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file


@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("I;16", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("P", "PNG", {"transparency": 3}),
        ("F", "TIFF", {}),
        ("RGB", "WEBP", {"lossless": True}),
        ("RGB", "JPEG", {"progressive": True}),
        ("RGB", "PNG", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"}),
    ],
)
def test_default_limit_counts_bytes_of_decoding(monkeypatch, mode, kind, options):
    file = _file(Image.new(mode, (60, 40)), kind, **options)
    plain = _file(Image.new("RGB", (60, 40)), "PNG")
    monkeypatch.setattr(image_limits, "MAX_DECODED_BYTES", 60 * 40 * 4)
    assert read_image(plain).size == (60, 40)
    with pytest.raises(DecodeError, match=r"60 x 40 pixels.*MB.*max_pixels=2400"):
        read_image(file)
    assert sorted(read_image(file, max_pixels=2400).size) == [40, 60]


def test_large_lossless_webp_is_refused_by_default():
    stream = b"\x2f" + struct.pack("<I", (16_383 - 1) | (10_900 - 1) << 14) + bytes(9)
    content = b"RIFF" + struct.pack("<I", 12 + len(stream)) + b"WEBPVP8L" + struct.pack("<I", len(stream)) + stream
    with pytest.raises(DecodeError, match="decoding it takes about 3406 MB, more than the 512 MB"):
        read_image(content)


def _with_scans(n: int, size: tuple[int, int]) -> bytes:
    """Return a progressive JPEG file whose last scan is followed by n empty ones."""
    content = _file(Image.new("RGB", size), "JPEG", progressive=True).getvalue()
    header = content[content.rfind(b"\xff\xda") :][:10]
    return content[:-2] + n * (header + bytes(22)) + b"\xff\xd9"


def test_jpeg_with_many_scans_of_many_pixels_is_refused():
    with pytest.raises(DecodeError, match=r"\d+ scans of 2000 x 2000 pixels"):
        read_image(_with_scans(1000, (2000, 2000)))


def test_jpeg_with_usual_scans_or_few_pixels_is_read():
    assert read_image(_with_scans(0, (2000, 2000))).size == (2000, 2000)
    assert read_image(_with_scans(1000, (16, 16))).size == (16, 16)


def test_scans_of_a_sequential_jpeg_with_separate_components_are_counted():
    content = bytearray(_file(Image.new("L", (2000, 2000)), "JPEG").getvalue())
    content[content.find(b"\xff\xda") + 4] = 1
    frame = content.find(b"\xff\xc0")
    content[frame + 9] = 3
    content[frame + 3] += 6
    content[frame + 13 : frame + 13] = bytes([2, 17, 0, 3, 17, 0])
    with pytest.raises(DecodeError, match="601 scans"):
        read_image(bytes(content) + 600 * bytes(content[content.find(b"\xff\xda") :][:10]))


def test_scan_markers_across_block_borders_are_counted():
    image = SimpleNamespace(width=40_000, height=10_000, layers=3, info={"progressive": 1})
    content = bytes(2**20 - 1) + b"\xff\xda" + 5 * b"\xff\xda"
    with pytest.raises(DecodeError, match="6 scans"):
        image_limits.check_scans(io.BytesIO(content), image)


def _every_form() -> dict[str, object]:
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 65536, size=(23, 17)).astype(np.uint16)
    color = Image.fromarray(rng.integers(0, 256, size=(23, 17, 4), dtype=np.uint8))
    return {
        "I;16": Image.fromarray(wide),
        "I": Image.fromarray(wide.astype(np.int32)),
        "F": Image.fromarray(wide.astype(np.float32) / 65535),
        "RGBA": color,
        "La": color.convert("LA").convert("La"),
        "P": _file(color.convert("RGB").quantize(16), "PNG", transparency=3),
        "CMYK": color.convert("RGB").convert("CMYK"),
        "I;16 hidden": _file(Image.fromarray(wide), "PNG", transparency=int(wide[3, 3])),
        "uint16": wide,
        "float": wide / 65535,
        "bool": wide > 30000,
    }


@pytest.mark.parametrize("form", list(_every_form()))
def test_strips_do_not_change_pixels(monkeypatch, form):
    whole = np.asarray(read_image(_every_form()[form]))
    monkeypatch.setattr(image_modes, "_STRIP_PIXELS", 40)  # two rows, and one left over
    np.testing.assert_array_equal(np.asarray(read_image(_every_form()[form])), whole)


def test_sixteen_bit_conversion_holds_no_doubles_of_the_image():
    array = np.zeros((2500, 2000), dtype=np.uint16)
    tracemalloc.start()
    read_image(array)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6  # as doubles, the image alone has 40 MB


def test_read_image_of_an_rgb_image_is_independent_of_it():
    image = Image.new("RGB", (4, 4))
    read = read_image(image)
    image.putpixel((0, 0), (255, 0, 0))
    assert read.getpixel((0, 0)) == (0, 0, 0)
    assert type(read_image(_file(image, "PNG"))) is Image.Image


@pytest.mark.parametrize("beyond", [1e-7, 0.4 / 255])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floating_pixels_beyond_the_range_by_a_rounding_error_are_clipped(dtype, beyond):
    array = np.array([[-beyond, 0.5, 1 + beyond]], dtype=dtype)
    assert np.asarray(read_image(array))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("value", [-0.003, 1.003, 255.0])
def test_floating_pixels_out_of_range_are_shown_with_their_digits(value):
    with pytest.raises(DecodeError, match=rf"got \[.*{value:.6g}"):
        read_image(np.array([[0.0 if value > 0 else 1.0, value]]))


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_float_images_beyond_their_range_by_a_rounding_error_keep_their_scale(white):
    image = Image.fromarray(np.array([[0, white / 2, white * (1 + 1e-6)]], dtype=np.float32))
    assert np.asarray(read_image(image))[0, :, 0].tolist() == [0, 128, 255]


def test_exif_after_the_pixels_of_a_png_counts(monkeypatch):
    exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    content = _file(Image.new("RGB", (60, 40)), "PNG").getvalue()
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif
    content = content[:-12] + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + content[-12:]
    assert read_image(content).size == (40, 60)
    monkeypatch.setattr(image_limits, "MAX_DECODED_BYTES", 60 * 40 * 4)
    with pytest.raises(DecodeError, match="60 x 40"):
        read_image(content)
