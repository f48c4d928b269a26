"""Each row of what can be wrong with an input, and each container that samples come in."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import sparse

from skembed.exceptions import DecodeError, DecodeWarning
from skembed.inputs import as_samples, decode_all, read_audio, read_image, read_text, warn_unreadable


def _encoded(image: Image.Image, kind: str = "PNG", **parameters) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **parameters)
    return file.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, size=(24, 32, 3), dtype=np.uint8))


TONE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)).astype(np.float32)


def _wav(samples=TONE, rate=8000, **parameters) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", **parameters)
    return file.getvalue()


# -- containers -------------------------------------------------------------------------------------------

WORDS = ["a", "b", "c"]


@pytest.mark.parametrize(
    "X",
    [
        WORDS,
        tuple(WORDS),
        np.array(WORDS),
        np.array(WORDS, dtype=object),
        np.array(WORDS, dtype=object).reshape(-1, 1),
        pd.Series(WORDS, index=[7, 8, 9]),
        pd.Series(WORDS, dtype="string"),
        pd.Series(WORDS, dtype="category"),
        pd.DataFrame({"w": WORDS}),
        pl.Series(WORDS),
        pl.DataFrame({"w": WORDS}),
        pl.LazyFrame({"w": WORDS}),
        pd.DataFrame({("w", "x"): WORDS}),
        pa.table({"w": WORDS}),
    ],
    ids=lambda X: f"{type(X).__module__.split('.')[0]}-{type(X).__name__}",
)
def test_containers(X):
    assert [str(sample) for sample in as_samples(X)] == WORDS


def test_datasets_columns():
    import datasets

    table = datasets.Dataset.from_dict({"w": WORDS})
    assert as_samples(table["w"]) == WORDS
    audio = datasets.Dataset.from_dict({"clip": [{"array": [0.0] * 800, "sampling_rate": 16000}]})
    waveform, _ = read_audio(as_samples(audio["clip"])[0], rate=16000)
    assert len(waveform) == 800


def test_datasets_decode_nothing_until_a_sample_is_read():
    """Their own decoding would hold every image at once, and end at the broken one without its index."""
    import datasets

    files = [{"bytes": _encoded(NOISE), "path": None}, {"bytes": b"broken", "path": "b.png"}, None]
    column = datasets.Dataset.from_dict({"i": files}, features=datasets.Features({"i": datasets.Image()}))["i"]
    decoded, errors = decode_all(as_samples(column), read_image, on_error="nan")
    np.testing.assert_array_equal(np.asarray(decoded[0]), np.asarray(NOISE))
    assert [(error.index, error.path) for error in errors] == [(1, "b.png"), (2, None)]


def test_datasets_transforms_are_obeyed():
    import datasets

    features = datasets.Features({"i": datasets.Image()})
    table = datasets.Dataset.from_dict({"i": [{"bytes": _encoded(NOISE), "path": None}]}, features=features)
    flipped = table.with_transform(lambda batch: {"i": [np.asarray(image)[::-1] for image in batch["i"]]})
    np.testing.assert_array_equal(as_samples(flipped["i"])[0], np.asarray(NOISE)[::-1])
    grey = table.cast_column("i", datasets.Image(mode="L"))
    assert as_samples(grey["i"])[0].mode == "L"


def test_elements_are_not_touched():
    images = np.zeros((3, 4, 5, 3), dtype=np.uint8)
    samples = as_samples(images)
    assert len(samples) == 3
    assert np.shares_memory(samples[1], images)
    thing = object()
    assert as_samples([thing])[0] is thing


@pytest.mark.parametrize(
    ("X", "kind", "words"),
    [
        ("one text", TypeError, "Wrap it in a list"),
        (b"bytes", TypeError, "Wrap it in a list"),
        (None, TypeError, "Wrap it in a list"),
        ({"a": 1}, TypeError, "Wrap it in a list"),
        (np.array("a"), TypeError, "0-dimensional"),
        (5, TypeError, "not a collection"),
        (sparse.csr_matrix((2, 2)), TypeError, "sparse"),
        ([], ValueError, "0 sample"),
        (pd.Series([], dtype=object), ValueError, "0 sample"),
        (pd.DataFrame({"a": WORDS, "b": WORDS}), ValueError, "ColumnTransformer"),
        (pd.DataFrame([WORDS], columns=["a", "a", "b"]), ValueError, "ColumnTransformer"),
        (pa.table({"a": WORDS, "b": WORDS}), ValueError, r"2 columns \(a, b\)"),
        (np.array([WORDS, WORDS], dtype=object), ValueError, "3 columns"),
        (np.zeros((24, 32, 3), dtype=np.uint8), ValueError, "single image"),
        (Image.new("RGB", (2, 2)), TypeError, "goes into a list"),
    ],
)
def test_what_is_no_collection_of_samples(X, kind, words):
    with pytest.raises(kind, match=words):
        as_samples(X)


# -- texts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "missing"),
        (float("nan"), "missing"),
        (pd.NA, "missing"),
        (pd.NaT, "missing"),
        (b"bytes", "decode"),
        (3, "str"),
        (["a"], "str"),
        ("lone \ud800 surrogate", "position 5"),
    ],
)
def test_texts_that_are_none(text, words):
    with pytest.raises(DecodeError, match=words):
        read_text(text)


def test_any_text_is_a_text():
    for text in ("", " ", "ü🙂\0", "x" * 100_000):
        assert read_text(text) == text
    assert type(read_text(np.str_("a"))) is str


@pytest.mark.parametrize("missing", [None, float("nan"), np.float32("nan"), pd.NA, pd.NaT], ids=repr)
def test_missing_values_are_called_so(missing):
    for read in (read_text, read_image, lambda sample: read_audio(sample, rate=16000)):
        with pytest.raises(DecodeError, match="missing"):
            read(missing)


# -- images -----------------------------------------------------------------------------------------------


def test_every_form_of_one_image(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(_encoded(NOISE))
    content = path.read_bytes()
    forms = [path, str(path), content, bytearray(content), io.BytesIO(content), NOISE, np.asarray(NOISE)]
    forms += [{"bytes": content, "path": None}, {"bytes": None, "path": str(path)}]
    for form in forms:
        image = read_image(form)
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), np.asarray(NOISE))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_formats(kind):
    assert read_image(_encoded(NOISE, kind)).size == (32, 24)


@pytest.mark.parametrize("kind", ["PPM", "ICO", "TGA", "PCX"])
def test_exotic_formats_are_not_opened(kind):
    with pytest.raises(DecodeError, match=r"not supported|not an image in one of the formats"):
        read_image(_encoded(NOISE, kind))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_files(tmp_path, kind):
    path = tmp_path / "cut.img"
    content = _encoded(NOISE, kind)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DecodeError, match="is broken") as caught:
        read_image(path)
    assert caught.value.path == str(path)
    assert isinstance(caught.value.__cause__, Exception)


def test_errors_name_the_file_wherever_it_is_known(tmp_path):
    path = tmp_path / "cut.png"
    path.write_bytes(_encoded(NOISE)[:1000])
    with Image.open(path) as lazy:  # nothing but its header is read yet
        for sample in (lazy, {"bytes": path.read_bytes(), "path": str(path)}):
            with pytest.raises(DecodeError, match="is broken") as caught:
                read_image(sample)
            assert caught.value.path == str(path)
    with pytest.raises(DecodeError, match=r"^\(a\.mp3\): this is text that begins with 'no sound', not a rec"):
        read_audio({"bytes": b"no sound", "path": "a.mp3"}, rate=16000)


def test_no_file_stays_open(tmp_path):
    """Not even until it is garbage, which is late where nothing counts references."""
    content = {"a.png": _encoded(NOISE), "cut.png": _encoded(NOISE)[:1000], "a.wav": _wav(), "cut.wav": _wav()[:-9]}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResourceWarning)
        for name, written in content.items():
            (tmp_path / name).write_bytes(written)
            with contextlib.suppress(DecodeError):
                read_image(tmp_path / name) if name.endswith("png") else read_audio(tmp_path / name, rate=8000)
    assert [str(warning.message) for warning in caught if str(tmp_path) in str(warning.message)] == []


def test_bombs_are_refused_on_the_header():
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    with pytest.raises(
        DecodeError, match="60000 x 60000 pixels, and decoding it takes about 13732 MB, more than the 512 MB"
    ):
        read_image(header + struct.pack(">I", 64) + b"IDAT" + b"\0" * 64)
    with pytest.raises(DecodeError, match=r"32 x 24 pixels, more than max_pixels=100"):
        read_image(_encoded(NOISE), max_pixels=100)
    with pytest.raises(DecodeError, match="max_pixels=100"):
        read_image(NOISE, max_pixels=100)


def test_large_images_below_the_limit_open_without_a_warning():
    image = Image.new("L", (10_000, 9_000))  # Pillow warns from 89 Mpx on
    assert read_image(_encoded(image, compress_level=1)).size == (10_000, 9_000)


def test_sixteen_bit_grey_is_scaled_by_its_range():
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    expected = np.round(values / 257.0)
    for form in (_encoded(Image.fromarray(values)), _encoded(Image.fromarray(values), "TIFF"), values):
        np.testing.assert_allclose(np.asarray(read_image(form))[..., 0], expected, atol=1)


def test_wider_grey_is_scaled_by_sixteen_bits_where_eight_are_too_few():
    for values, expected in (([0.0, 1.0], [0, 255]), ([0.0, 255.0], [0, 255]), ([0.0, 65535.0], [0, 255])):
        grey = Image.fromarray(np.array([values], dtype=np.float32))
        assert np.asarray(read_image(_encoded(grey, "TIFF")))[0, :, 0].tolist() == expected
    deep = Image.fromarray(np.array([[0, 128, 65535]], dtype=np.int32))
    assert np.asarray(read_image(deep))[0, :, 0].tolist() == [0, 0, 255]
    with pytest.raises(DecodeError, match="1 NaN or infinite"):
        read_image(Image.fromarray(np.array([[0.0, np.nan]], dtype=np.float32)))


MODES = ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV",
         "I", "F", "LA", "PA", "RGBX", "RGBa", "La", "I;16", "I;16B")  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb_of_its_own(mode):
    sample = Image.new(mode, (3, 2))
    image = read_image(sample)
    assert (image.mode, image.size) == ("RGB", (3, 2))
    assert image is not sample


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 20, 30)])
def test_transparency_shows_the_background_and_not_hidden_pixels(background):
    hidden = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0] * 256)
    grey = Image.new("LA", (4, 4), (200, 0))
    for content in (
        _encoded(hidden),
        _encoded(palette, transparency=0),
        _encoded(grey),
        _encoded(palette, "GIF", transparency=0),
        _encoded(Image.new("I;16", (4, 4), 700), transparency=700),
    ):
        assert read_image(content, background=background).getpixel((1, 1)) == background
    assert read_image(np.asarray(hidden), background=background).getpixel((1, 1)) == background


def test_orientation_of_cameras_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert read_image(_encoded(NOISE, "JPEG", exif=exif)).size == (24, 32)


def test_cmyk_is_converted_and_of_an_animation_the_first_frame_taken():
    red = read_image(_encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG")).getpixel((0, 0))
    assert red[0] > 200
    assert max(red[1:]) < 60
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("blue", "red")]
    first = _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_image(first).getpixel((0, 0)) == (0, 0, 255)


def test_arrays():
    ones = np.ones((4, 5))
    assert read_image(ones).getpixel((0, 0)) == (255, 255, 255)
    assert read_image(ones.astype(bool)).getpixel((0, 0)) == (255, 255, 255)
    assert read_image(np.zeros((4, 5, 1), dtype=np.uint8)).size == (5, 4)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((4, 4), 2.0), r"\[0, 1\]"),
        (np.full((4, 4), -0.1), r"\[0, 1\]"),
        (np.full((4, 4), np.nan), "16 NaN"),
        (np.zeros((3, 32, 32)), r"transpose\(1, 2, 0\)"),
        (np.zeros((4, 4, 2)), "shape"),
        (np.zeros(9), "shape"),
        (np.zeros((0, 4)), "no pixels"),
        (np.zeros((4, 4), dtype=np.int64), "int64"),
        (None, "missing"),
        (3, "int"),
    ],
)
def test_arrays_that_are_no_images(array, words):
    with pytest.raises(DecodeError, match=words):
        read_image(array)


@pytest.mark.parametrize("read", [read_image, lambda path: read_audio(path, rate=16000)], ids=["image", "audio"])
def test_missing_files_and_directories(tmp_path, read):
    with pytest.raises(DecodeError, match=r"absent\.x\): there is no such file"):
        read(tmp_path / "absent.x")
    with pytest.raises(DecodeError, match="directory"):
        read(tmp_path)
    with pytest.raises(DecodeError, match=r"of 5000 characters\): this path cannot be opened") as caught:
        read("x" * 5000)  # a text given for a path
    assert len(str(caught.value)) < 300
    with pytest.raises(DecodeError, match="null byte"):
        read("a\0b")


def test_files_that_may_not_be_read(tmp_path, monkeypatch):
    """Root may read everything, so the refusal is made."""
    path = tmp_path / "a.png"
    path.write_bytes(_encoded(NOISE))

    def refuse(*_args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(DecodeError, match=r"a\.png\): the file cannot be opened: Permission denied\.$"):
        read_image(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DecodeError, match="pipe or a device"):
        read_image(tmp_path / "pipe")


def test_images_are_read_by_many_threads(tmp_path):
    paths = []
    for i in range(8):
        paths.append(tmp_path / f"{i}.png")
        paths[-1].write_bytes(_encoded(Image.new("RGB", (64, 64), (i, i, i))))
    with ThreadPoolExecutor(8) as pool:
        colours = [image.getpixel((0, 0))[0] for image in pool.map(read_image, paths * 20)]
    assert colours == list(range(8)) * 20


# -- recordings -------------------------------------------------------------------------------------------


def test_every_form_of_one_recording(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(_wav(subtype="FLOAT"))
    content = path.read_bytes()

    class Decoder:
        def get_all_samples(self):
            return type("Samples", (), {"data": TONE[None], "sample_rate": 8000})

    forms = [
        path,
        str(path),
        content,
        io.BytesIO(content),
        (TONE, 8000),
        {"array": TONE, "sampling_rate": 8000},
    ]
    forms += [{"bytes": content, "path": None}, Decoder()]
    expected, _ = read_audio(TONE, rate=16000, sampling_rate=8000)
    assert expected.shape == (16000,)
    assert expected.dtype == np.float32
    for form in forms:
        np.testing.assert_allclose(read_audio(form, rate=16000)[0], expected, atol=1e-6)


def test_resampling_keeps_the_tone():
    waveform, _ = read_audio(TONE, rate=16000, sampling_rate=8000)
    spectrum = np.abs(np.fft.rfft(waveform))
    assert spectrum.argmax() == 440  # one second: one bin a hertz
    swelling, _ = read_audio(TONE * np.linspace(0, 1, 8000), rate=16000, sampling_rate=8000)
    assert np.abs(swelling[:2000]).max() < 0.1 < np.abs(swelling[-2000:]).max()  # from its start to its end


def test_integers_are_scaled():
    for dtype, highest in ((np.int16, 2**15), (np.int32, 2**31)):
        waveform, _ = read_audio((TONE * (highest - 1)).astype(dtype), rate=8000, sampling_rate=8000)
        np.testing.assert_allclose(waveform, TONE, atol=1e-4)
    unsigned = ((TONE + 1) * 127.5).round().astype(np.uint8)
    np.testing.assert_allclose(read_audio(unsigned, rate=8000, sampling_rate=8000)[0], TONE, atol=0.02)


@pytest.mark.parametrize("axis", [0, 1])
def test_channels_are_averaged(axis):
    stereo = np.stack([TONE, np.zeros_like(TONE)], axis=axis)
    np.testing.assert_allclose(read_audio(stereo, rate=8000, sampling_rate=8000)[0], TONE / 2, atol=1e-6)
    if axis:
        np.testing.assert_allclose(read_audio(_wav(stereo, subtype="FLOAT"), rate=8000)[0], TONE / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        (TONE, "sampling_rate="),
        ((TONE, None), "sampling_rate="),
        ((TONE, -1), "rate -1"),
        ((TONE, float("nan")), "rate nan"),
        ((TONE, "8k"), "rate '8k'"),
        ((TONE, 1e-300), "rate 1e-300"),
        ((TONE, True), "rate True"),
        (_wav(rate=1), "rate 1 is not a number .* 100 to 10000000 Hz"),
        (([[1.0], [1.0, 2.0]], 8000), "unequal lengths"),
        ((np.zeros((0, 2)), 8000), "empty"),
        ((np.full(8000, 1e300), 8000), "8000 of its samples"),
        ((np.full(8000, 3.4e38) * (-1) ** np.arange(8000), 8000), "NaN or infinite"),
        ((8000, 8000), "two numbers"),
        ((np.where(np.arange(8000) == 5, np.nan, TONE), 8000), "1 of its samples are NaN"),
        ((np.where(np.arange(8000) < 2, np.inf, TONE), 8000), "2 of its samples are NaN or infinite"),
        ((np.zeros(0), 8000), "empty"),
        ((np.zeros(20), 8000), r"lasts 2\.5 ms; at least 25 ms"),
        ((np.zeros((500, 500)), 8000), "channels"),
        ((np.zeros((2, 3, 4)), 8000), "dimensions"),
        ((np.zeros(800, dtype=np.int64), 8000), "int64"),
        (None, "missing"),
        (b"no sound at all", "text that begins with 'no sound at all', not a recording"),
        (_wav()[:30], r"cannot be decoded: .*[^.]\. Save it again"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_recordings_that_are_none(sample, words):
    with pytest.raises(DecodeError, match=words):
        read_audio(sample, rate=16000)


def test_a_truncated_wav_is_refused(tmp_path):
    """libsndfile would read the rest in silence."""
    path = tmp_path / "cut.wav"
    path.write_bytes(_wav()[:-1000])
    with pytest.raises(DecodeError, match=r"cut\.wav\): the WAV file is truncated: .* 16000 bytes .* 15000") as caught:
        read_audio(path, rate=8000)
    assert caught.value.path == str(path)


@pytest.mark.parametrize("length", [0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_a_streamed_wav_with_no_length_is_read(length):
    content = bytearray(_wav())
    for at in (4, content.index(b"data") + 4):
        content[at : at + 4] = length.to_bytes(4, "little")
    expected, _ = read_audio(_wav(), rate=8000)
    np.testing.assert_array_equal(read_audio(bytes(content), rate=8000)[0], expected)


def test_a_wav_with_no_samples_is_empty_whatever_follows_them():
    content = _wav(TONE[:0])
    notes = b"LIST" + struct.pack("<I", 1000) + b"\0" * 1000
    content = content[:4] + struct.pack("<I", len(content) + len(notes) - 8) + content[8:] + notes
    with pytest.raises(DecodeError, match="empty"):
        read_audio(content, rate=8000)


def test_a_decoder_that_fails_is_a_sample_that_cannot_be_read():
    class Decoder:
        def get_all_samples(self):
            raise RuntimeError("no stream found")

    with pytest.raises(DecodeError, match=r"cannot be decoded: no stream found\."):
        read_audio(Decoder(), rate=8000)


def test_max_duration_reads_no_more_and_says_so():
    for sample in ((TONE, 8000), _wav()):
        waveform, cut = read_audio(sample, rate=8000, max_duration=0.25)
        assert (len(waveform), cut) == (2000, True)
        assert read_audio(sample, rate=8000, max_duration=2)[1] is False


# -- many samples -----------------------------------------------------------------------------------------


def test_one_bad_item_in_a_thousand():
    texts = ["a"] * 500 + [None] + ["b"] * 499
    with pytest.raises(DecodeError, match="sample 10500: the text is missing"):
        decode_all(texts, read_text, positions=range(10_000, 10_000 + len(texts)))
    decoded, errors = decode_all(texts, read_text, on_error="nan")
    assert len(decoded) == 1000
    assert decoded[500] is None
    assert [error.index for error in errors] == [500]


def test_the_warning_counts_and_names_five():
    errors = [DecodeError("broken", index=i, path=f"{i}.png") for i in range(8)]
    with pytest.warns(DecodeWarning, match="8 of 20") as caught:
        warn_unreadable(errors, 20)
    message = str(caught[0].message)
    assert "sample 4 (4.png)" in message
    assert "5.png" not in message
    assert "3 more" in message


def test_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(DecodeError("broken", index=3, path="a.png")))
    assert (error.index, error.path, str(error)) == (3, "a.png", "sample 3 (a.png): broken")


# -- anything at all --------------------------------------------------------------------------------------

mutations = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=12)


def _mutated(content: bytes, changes) -> bytes:
    mutated = bytearray(content)
    for position, value in changes:
        mutated[position % len(mutated)] = value
    return bytes(mutated)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=150, deadline=None)
@given(mutations, st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]), st.integers(0, 400))
def test_broken_images_give_an_image_or_a_decode_error(changes, kind, cut):
    content = _mutated(_encoded(NOISE, kind), changes)
    with contextlib.suppress(DecodeError):
        assert read_image(content[: len(content) - cut], max_pixels=10**6).mode == "RGB"


@settings(max_examples=150, deadline=None)
@given(mutations, st.integers(0, 2000))
def test_broken_recordings_give_a_waveform_or_a_decode_error(changes, cut):
    content = _mutated(_wav(TONE[:1000]), changes)
    try:
        waveform, _ = read_audio(content[: len(content) - cut], rate=8000, max_duration=10)
    except DecodeError:
        pass
    else:
        assert np.isfinite(waveform).all()


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_are_neither(content):
    for read in (read_image, lambda sample: read_audio(sample, rate=16000)):
        with pytest.raises(DecodeError):
            read(content)


# -- files decoded at a part of their size ----------------------------------------------------------------

SMOOTH = NOISE.resize((640, 320), Image.Resampling.BICUBIC)


def _turned(orientation: int, size=(640, 320), **parameters) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _encoded(SMOOTH.resize(size, Image.Resampling.BICUBIC), "JPEG", exif=exif, quality=95, **parameters)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_part_of_the_size_shows_the_same_image(orientation):
    """Also of one that is turned: its sides change places before they are compared."""
    content = _turned(orientation)
    full = read_image(content)
    least = (full.width // 4, full.height // 4)
    part = read_image(content, at_least=least)
    assert part.size == least
    difference = np.abs(np.asarray(part, dtype=float) - np.asarray(full.reduce(4), dtype=float))
    assert difference.mean() < 1.5
    assert read_image(content, at_least=(least[0] + 1, 1)).size == (full.width // 2, full.height // 2)
    assert read_image(content, at_least=(1, full.height)).size == full.size


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 200), st.integers(1, 200)),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(1, 8),
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
)
def test_a_part_is_never_too_small_nor_of_other_proportions(sides, factor, orientation, least):
    content = _turned(orientation, (sides[0] * factor, sides[1] * factor))
    full, part = read_image(content), read_image(content, at_least=least)
    assert full.width * part.height == part.width * full.height
    if part.size != full.size:
        assert part.width >= least[0]
        assert part.height >= least[1]


def test_what_is_decoded_at_its_own_size():
    """Other formats, images that somebody else opened and may go on using, and what was not asked to be smaller."""
    jpeg = _turned(1)
    with Image.open(io.BytesIO(jpeg)) as theirs:
        assert read_image(theirs, at_least=(10, 10)).size == theirs.size == (640, 320)
    for sample in (_encoded(SMOOTH), _encoded(SMOOTH, "WEBP"), np.asarray(SMOOTH), SMOOTH):
        assert read_image(sample, at_least=(10, 10)).size == (640, 320)
    assert read_image(jpeg).size == (640, 320)
    with pytest.raises(DecodeError, match="640 x 320"):
        read_image(jpeg, max_pixels=640 * 320 - 1, at_least=(10, 10))


@pytest.mark.parametrize("parameters", [{"progressive": True}, {"subsampling": 0}, {"format": "MPO"}, {"mode": "CMYK"}])
def test_other_jpeg_files_at_a_part_of_their_size(parameters):
    image = SMOOTH.convert(parameters.pop("mode", "RGB"))
    kind = parameters.pop("format", "JPEG")
    if kind == "MPO":
        parameters = {"save_all": True, "append_images": [image]}
    content = _encoded(image, kind, **parameters)
    part, full = read_image(content, at_least=(100, 80)), read_image(content)
    assert part.size == (160, 80)
    assert np.abs(np.asarray(part, dtype=float) - np.asarray(full.reduce(4), dtype=float)).mean() < 2


def test_a_truncated_file_is_broken_at_any_size():
    content = _turned(1)
    with pytest.raises(DecodeError, match="is broken"):
        read_image(content[: len(content) // 2], at_least=(10, 10))


def test_one_sample_in_many_threads():
    """An image that is opened but not loaded, and a file object, may both occur twice."""
    expected = np.asarray(read_image(_turned(6)))
    for _ in range(5):
        for sample in (Image.open(io.BytesIO(_turned(6))), io.BytesIO(_turned(6))):
            with ThreadPoolExecutor(8) as pool:
                for image in pool.map(read_image, [sample] * 16):
                    np.testing.assert_array_equal(np.asarray(image), expected)
