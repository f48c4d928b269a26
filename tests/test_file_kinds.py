"""Files that are no image or recording are named by their content, with what to do."""

from __future__ import annotations

import base64
import gzip
import io
import pickle
import zipfile

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from skembed import ImageEmbedder
from skembed.exceptions import DecodeError
from skembed.inputs import read_audio, read_image
from skembed.inputs.file_kinds import START_SIZE, explain, kind_of
from skembed.inputs.image import FORMATS
from tests.finetune.tuning import directory

TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)).astype(np.float32)
PIXELS = Image.fromarray(np.random.default_rng(0).integers(0, 256, size=(24, 32, 3), dtype=np.uint8))


def _image(kind: str, **parameters) -> bytes:
    file = io.BytesIO()
    PIXELS.save(file, kind, **parameters)
    return file.getvalue()


def _recording(kind: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, TONE, 8000, format=kind, subtype=subtype)
    return file.getvalue()


def _saved(write) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def _branded(major: bytes, *compatible: bytes) -> bytes:
    brands = major + bytes(4) + b"".join(compatible)
    return (8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands + b"\0\0\0\x08mdat" + bytes(100)


def _zip() -> bytes:
    return _saved(lambda file: zipfile.ZipFile(file, "w").writestr("a.png", _image("PNG")))


IMAGE_ADVICE = "Convert it to JPEG or PNG."
SOUND_ADVICE = "Convert it to WAV or FLAC"
#: Content, name of what it is, advice where an image was expected, advice where a recording was.
FILES = {
    "heic": (_branded(b"heic", b"mif1", b"heic"), "a HEIC image", IMAGE_ADVICE, "ImageEmbedder"),
    "heif": (_branded(b"mif1", b"mif1", b"heic"), "a HEIC image", IMAGE_ADVICE, "ImageEmbedder"),
    "avif": (_branded(b"mif1", b"mif1", b"avif"), "an AVIF image", IMAGE_ADVICE, "ImageEmbedder"),
    "jpeg2000": (_image("JPEG2000"), "a JPEG 2000 image", IMAGE_ADVICE, "ImageEmbedder"),
    "jpeg-xl": (b"\xff\x0a\xfa\x1f" + bytes(100), "a JPEG XL image", IMAGE_ADVICE, "ImageEmbedder"),
    "ppm": (_image("PPM"), "a PNM image", IMAGE_ADVICE, "ImageEmbedder"),
    "ico": (_image("ICO"), "an ICO image", IMAGE_ADVICE, "ImageEmbedder"),
    "cr2": (b"II*\0\x10\0\0\0CR\x02\0" + bytes(100), "a camera's raw file", IMAGE_ADVICE, "ImageEmbedder"),
    "raf": (b"FUJIFILMCCD-RAW 0201" + bytes(100), "a camera's raw file", IMAGE_ADVICE, "ImageEmbedder"),
    "svg": (b'<?xml version="1.0"?>\n<svg width="9"></svg>', "an SVG drawing", IMAGE_ADVICE, "ImageEmbedder"),
    "wav": (_recording("WAV"), "a WAV recording", "AudioEmbedder", None),
    "flac": (_recording("FLAC"), "a FLAC recording", "AudioEmbedder", None),
    "mp3": (_recording("MP3"), "an MP3 recording", "AudioEmbedder", None),
    "png": (_image("PNG"), "a PNG image", None, "ImageEmbedder"),
    "jpeg": (_image("JPEG"), "a JPEG image", None, "ImageEmbedder"),
    "webp": (_image("WEBP"), "a WebP image", None, "ImageEmbedder"),
    "bmp": (_image("BMP"), "a BMP image", None, "ImageEmbedder"),
    "m4a": (_branded(b"M4A ", b"M4A ", b"mp42", b"isom"), "an M4A recording", "AudioEmbedder", SOUND_ADVICE),
    "m4a of a phone": (_branded(b"mp42", b"isom", b"M4A "), "an M4A recording", "AudioEmbedder", SOUND_ADVICE),
    "aac": (b"\xff\xf1\x50\x80" + bytes(100), "an AAC recording", "AudioEmbedder", SOUND_ADVICE),
    "amr": (b"#!AMR\n" + bytes(100), "an AMR recording", "AudioEmbedder", SOUND_ADVICE),
    "mp4": (_branded(b"isom", b"mp41"), "an MP4 file", "Extract a frame", "Extract its sound"),
    "mov": (_branded(b"qt  "), "a QuickTime video", "Extract a frame", "Extract its sound"),
    "webm": (b"\x1a\x45\xdf\xa3" + bytes(100), "a WebM", "Extract a frame", "Extract its sound"),
    "avi": (b"RIFF\x64\0\0\0AVI LIST" + bytes(100), "an AVI video", "Extract a frame", "Extract its sound"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3" + bytes(100), "a PDF document", "Save its pages", "the recording itself"),
    "zip": (_zip(), "a zip archive", "Unpack it", "Unpack it"),
    "gzip": (gzip.compress(_image("PNG")), "a gzip file", r"gzip\.open", r"gzip\.open"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "a pointer of Git LFS",
        "git lfs pull",
        "git lfs pull",
    ),
    "html": (b"\n<!DOCTYPE html>\n<html></html>", "an HTML page", "download may have failed", "fetch the file again"),
    "xml": (b"<?xml version='1.0'?><Error/>", "an XML file", "download may have failed", "fetch the file again"),
    "json": (b'{"error": "gone"}', 'text that begins with \'{"error": "gone"}\'', "the image itself", "itself"),
    "csv": (b"file,label\na.png,cat\n", "text that begins with 'file,label'", "the image itself", "itself"),
    "utf-16": ("file;label\n".encode("utf-16") * 99, "text that begins with 'file;label'", "the image", "recording"),
    "base64 of an image": (base64.b64encode(_image("PNG")), "base64 text of a PNG image", "b64decode", "b64decode"),
    "base64 of sound": (base64.encodebytes(_recording("WAV")), "base64 text of a WAV recording", "b64decode", "b64d"),
    "parquet": (b"PAR1" + bytes(100) + b"PAR1", "a Parquet file", "read_parquet", "read_parquet"),
    "npy": (_saved(lambda file: np.save(file, TONE)), "a NumPy array file", r"numpy\.load", r"numpy\.load"),
    "pickle": (pickle.dumps({"array": TONE}), "a Python pickle", "trust its source", "trust its source"),
    "nothing": (b"", "empty", "download it again", "download it again"),
    "zeros": (bytes(4000), "nothing but zero bytes", "download it again", "download it again"),
    "unknown": (b"\x80\x81\x82" * 99, "begins with the bytes 80 81 82", "JPEG, PNG", "WAV, FLAC"),
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
@pytest.mark.parametrize("wanted", ["image", "recording"])
def test_files_of_other_formats_are_named_with_advice(tmp_path, content, wanted):
    content, name, *advice = content
    words = advice[wanted == "recording"]
    read = read_image if wanted == "image" else lambda sample: read_audio(sample, rate=8000)
    path = tmp_path / "file.dat"
    path.write_bytes(content)
    for sample in (path, content, io.BytesIO(content), {"bytes": content, "path": "file.dat"}):
        if words is None:
            read(sample)
            continue
        with pytest.raises(DecodeError, match=words) as raised:
            read(sample)
        assert name in raised.value.message
        assert len(raised.value.message) < 250


def test_the_error_of_an_embedder_names_index_path_and_format(tmp_path):
    path = tmp_path / "holiday.jpg"
    path.write_bytes(FILES["heic"][0])
    with pytest.raises(
        DecodeError, match=r"^sample 1 \(.*holiday\.jpg\): this is a HEIC image, which is not supported"
    ):
        ImageEmbedder(directory("timm_resnet"), device="cpu").fit_transform([PIXELS, path])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_formats_that_are_read_are_known_and_called_broken_where_they_are():
    for kind in FORMATS:
        content = _image(kind)
        assert explain(content[:START_SIZE], "image") == "", kind
        with pytest.raises(DecodeError, match=r"the image is broken.* Save it again"):
            read_image(content[:20])
    for kind in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "AU", "CAF", "W64", "RF64"):
        content = _recording(kind)
        assert explain(content[:START_SIZE], "recording") == "", kind
        with pytest.raises(DecodeError, match=r"the recording (cannot be decoded|is empty|lasts)"):
            read_audio(content[:40], rate=8000)
    assert explain(_recording("OGG", "OPUS"), "recording") == ""


@pytest.mark.parametrize("kind", ["VOC", "NIST", "SVX"])
def test_recordings_that_libsndfile_alone_knows_are_read(kind):
    assert len(read_audio(_recording(kind), rate=8000)[0]) == 8000


def test_a_raw_photograph_is_not_read_as_its_preview():
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1  # a smaller version of another image in the file
    assert read_image(_image("TIFF", tiffinfo=tags)).size == PIXELS.size  # which is not there
    tags[330] = 8
    with pytest.raises(DecodeError, match=r"a camera's raw file.* preview of 32 x 24 pixels\. Convert it"):
        read_image(_image("TIFF", tiffinfo=tags))


@pytest.mark.parametrize("start", range(START_SIZE - 4, START_SIZE + 1))
def test_a_character_may_be_cut_where_the_start_of_a_text_ends(start):
    text = ("a" * start + "\N{GRINNING FACE}" * 9).encode()
    assert kind_of(text[:START_SIZE]).name.startswith("text that begins with 'aaa")


@pytest.mark.parametrize("text", ["PAR", "BMW is a car", "MAC address", "P5", "ID3 tags", "//server/share", "RIFF"])
def test_short_texts_are_not_taken_for_binary_formats(text):
    assert kind_of(text.encode()).name == f"text that begins with {text!r}"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=START_SIZE))
def test_any_start_of_a_file_has_an_explanation(start):
    for wanted in ("image", "recording"):
        words = explain(start, wanted)
        assert words == "" or (words[-1] == "." and len(words) < 250)
