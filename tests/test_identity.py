"""Equal settings share cached rows, however they are written; unequal settings never do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import f1_score, make_scorer

from skembed import AudioEmbedder, EmbeddingCache, ImageEmbedder, TextEmbedder
from skembed.inputs import content_key
from skembed.utils.identity import digest, plain

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


# -- functions and objects -----------------------------------------------------------------------------------

_SHOUT = '''
LIMIT = {limit}
def helper(text):
    return text.{method}()
def shout(text, times={times}):
    """A function of the user's own."""
    return helper(text) * times if len(text) > LIMIT else text
'''


def _shout(limit=1, method="upper", times=2, comment=""):
    """The function as a script defines it, with such a constant, helper and default."""
    space = {"__name__": "script"}
    exec(compile(comment + _SHOUT.format(limit=limit, method=method, times=times), "script.py", "exec"), space)
    return space["shout"]


def _adding(number):
    return lambda value: value + number


class _Weighted:
    def __init__(self, weight):
        self.weight, self.labels = weight, {"a", "b"}

    def __call__(self, y, outputs):
        return self.weight

    def judge(self, y, outputs):
        return 0.0


def test_one_function_is_the_same_when_its_script_runs_again():
    assert digest(_shout()) == digest(_shout(comment="# The lines below have moved.\n\n"))


@pytest.mark.parametrize(
    "value",
    [
        _shout,
        lambda: partial(_shout(), times=np.int64(3)),
        lambda: _adding(np.float64(2)),
        lambda: _Weighted(np.float32(0.5)),
        lambda: _Weighted(0.5).judge,
        lambda: make_scorer(f1_score, average="macro", labels=[0, 1]),
        lambda: {"old": {"aged", "ancient"}, "new": ["recent"]},
        lambda: {"new": ("recent",), "old": {"ancient", "aged"}},
        lambda: np.arange(5000.0),
        lambda: np.arange(5000),
    ],
)
def test_objects_made_twice_are_one(value):
    assert digest(value()) == digest(value())


def test_objects_that_differ_are_told_apart():
    recursive: list = [1]
    recursive.append(recursive)
    values = [
        *(_shout(), _shout(limit=2), _shout(method="lower"), _shout(times=3), partial(_shout(), times=3)),
        *(_adding(1), _adding(2), lambda value: value + 1, lambda value: value + 1.0),
        *(_Weighted(1), _Weighted(2), _Weighted(1).judge, _Weighted(2).judge, _Weighted, _Weighted.judge),
        *(make_scorer(f1_score, average=name) for name in ("macro", "micro")),
        *(make_scorer(function) for function in (lambda y, z: 0.0, lambda y, z: 1.0)),
        *(str.lower, "abc".join, "abd".join, len, np.add, np.float32, {"a"}, "{'a'}", {"a": 1}, re.compile("a")),
        *({"old": {"aged", "ancient"}}, {"old": {"aged", "antique"}}),
        *(np.arange(5000), np.arange(5000) * 0.5, np.arange(5000).reshape(50, 100)),
        *(recursive, [1, 1]),
    ]
    assert len({digest(value) for value in values}) == len(values)


def test_floats_and_scalars_of_numpy_are_one_in_objects():
    assert digest(_adding(np.float64(2))) == digest(_adding(2))
    assert digest(np.arange(5000.0)) == digest(np.arange(5000))
    assert digest({"a": 1, "b": 2}) == digest({"b": np.int8(2), "a": 1.0})


def test_identities_are_the_same_in_every_process():
    code = (
        "import re\nfrom functools import partial\nfrom skembed.utils.identity import digest\n"
        "class Scorer:\n    def __init__(self): self.names = {'a', 'b', 'c'}\n    def __call__(self, x): return x\n"
        "score = lambda x: x in {'a', 'b', 'c'}\n"
        "values = Scorer(), score, partial(score, names={'a', 'b'}), {'x', 'y', None}, re.compile('a'), object()\n"
        "print(*map(digest, values))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout
    assert len(set(runs[0].stdout.split())) == 6
