"""Equal settings share cached rows, however they are written; unequal settings never do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from skembed import AudioEmbedder, EmbeddingCache, ImageEmbedder, TextEmbedder
from skembed.identity import plain
from skembed.inputs import content_key

TONE = np.sin(np.linspace(0, 440, 4000)).astype(np.float32)
PICTURE = Image.new("RGB", (8, 8), "red")


def _entries(kind, sample, many) -> int:
    """Rows in a cache that embedders with each of the settings share."""
    cache = EmbeddingCache()
    for each in many:
        kind(cache=cache, device="cpu", precision=np.str_("float32"), **each).fit_transform([sample])
    return cache.info().entries


@pytest.mark.parametrize(
    ("kind", "sample", "settings"),
    [
        (TextEmbedder, "a cat", [{"max_length": np.int64(64)}, {"max_length": 64}]),
        (TextEmbedder, "a cat", [{"prompt": np.str_("q: ")}, {"prompt": "q: "}]),
        (TextEmbedder, "a cat", [{"layers": np.array([1, 2])}, {"layers": [1, 2]}, {"layers": (1, 2)}]),
        (AudioEmbedder, TONE, [{"sampling_rate": rate} for rate in (8000, 8000.0, np.int32(8000), np.float64(8000))]),
        (ImageEmbedder, PICTURE, [{"max_pixels": 100}, {"max_pixels": 10_000}]),
        (TextEmbedder, "a cat", [{}, {"max_length": 256}]),
        (ImageEmbedder, PICTURE, [{}, {"image_size": 224}]),
        (AudioEmbedder, TONE, [{"sampling_rate": 8000}, {"sampling_rate": 8000, "window": np.float64(30)}]),
        (ImageEmbedder, PICTURE, [{"background": (255, 255, 255)}, {"background": [np.uint8(255)] * 3}, {}]),
    ],
)
def test_equal_settings_share_rows(kind, sample, settings):
    assert _entries(kind, sample, settings) == 1


def test_unequal_settings_do_not_share_rows():
    settings = [{"max_length": 64}, {"max_length": 32}, {"prompt": "q: "}, {"prompt": "64"}, {"layers": 2}]
    assert _entries(TextEmbedder, "a cat", settings) == len(settings)


def test_equal_rates_beside_an_array_have_one_key():
    keys = {content_key((TONE, rate)) for rate in (8000, 8000.0, np.int64(8000), np.float32(8000))}
    assert len(keys) == 1
    assert content_key((TONE, 8000.5)) not in keys


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3)
_SETTINGS = st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)


def _typed(value):
    """The value with booleans told from the numbers 0 and 1, which compare equal to them."""
    return tuple(map(_typed, value)) if isinstance(value, tuple) else (isinstance(value, bool), value)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_SETTINGS, _SETTINGS)
def test_the_plain_form_tells_unequal_settings_apart(a, b):
    assert (repr(plain(a)) == repr(plain(b))) == (_typed(a) == _typed(b))
