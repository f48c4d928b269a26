"""Keys: equal content, equal key; anything else, another."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from skembed.inputs import KEY_SIZE, array_key, content_key, text_key


def _png(colour) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_golden_keys():
    """A changed key would make every cache in the world miss: it is a decision, and needs a new schema."""
    assert text_key("a cat").hex() == "c817e2c906674f76b448bc14fe87a90e3941c53a"
    assert content_key(b"\x89PNG").hex() == "c639ef787eff7267fececb10370d4b6ec721f85d"
    assert content_key((np.arange(3, dtype=np.float32), 8000)).hex() == "5ed8708696d693c09200b2ddbd379fcf6f3cc073"


@given(st.text(), st.text())
def test_texts_have_one_key_each(a, b):
    keys = [None if "\ud800" <= max(text, default="") <= "\udfff" else text_key(text) for text in (a, b)]
    assert (keys[0] == keys[1]) == (a == b) or None in keys


def test_a_file_is_its_content(tmp_path):
    path, copy = tmp_path / "a.png", tmp_path / "b.png"
    path.write_bytes(_png("red"))
    copy.write_bytes(_png("red"))
    same = {
        content_key(sample)
        for sample in (path, str(copy), _png("red"), bytearray(_png("red")), {"bytes": _png("red"), "path": None},
                       {"bytes": None, "path": str(path)})
    }  # fmt: skip
    assert len(same) == 1
    assert len(next(iter(same))) == KEY_SIZE
    path.write_bytes(_png("blue"))
    assert content_key(path) not in same


def test_what_differs_has_another_key():
    zeros = np.zeros((2, 3), dtype=np.float32)
    picture = Image.new("RGB", (3, 2))
    turned = picture.copy()
    turned.getexif()[0x0112] = 6
    palette = Image.new("P", (3, 2))
    palette.putpalette([255, 0, 0] * 256)
    samples = [
        zeros, zeros.T, zeros.astype(np.float64), zeros.astype(np.uint8), zeros.ravel(), (zeros, 8000), (zeros, 16000),
        (zeros, 8000.5), b"", b"\0", picture, turned, palette, Image.new("P", (3, 2)), Image.new("L", (3, 2)),
        Image.new("RGB", (2, 3)), Image.new("RGB", (3, 2), "white"), -zeros, np.zeros((0, 3)), np.zeros((3, 0)),
    ]  # fmt: skip
    keys = [content_key(sample) for sample in samples]
    assert None not in keys
    # -0.0 and 0.0 are equal numbers of unequal bytes: two entries, never a wrong one.
    assert len(set(keys)) == len(samples)
    assert text_key("x") != content_key(b"x") != array_key(np.frombuffer(b"x", dtype=np.uint8))


def test_equal_arrays_have_one_key_whatever_their_memory():
    array = np.arange(12.0).reshape(3, 4)
    assert content_key(array) == content_key(np.asfortranarray(array)) == content_key(np.repeat(array, 2, axis=0)[::2])
    assert content_key({"array": array, "sampling_rate": 8000}) == content_key((array, 8000))
    assert content_key([0.5, 1.0]) == content_key(np.array([0.5, 1.0]))


@pytest.mark.parametrize(
    "sample",
    [None, float("nan"), io.StringIO("x"), "no/such/file", np.array([None, 1]), [[1], [1, 2]], (np.zeros(3), "fast"),
     object(), {}, 3],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_cannot_be_known_has_none(sample):
    assert content_key(sample) is None


@pytest.mark.parametrize("sample", [None, 3, b"x", "\ud800"])
def test_what_is_no_text_has_none(sample):
    assert text_key(sample) is None
