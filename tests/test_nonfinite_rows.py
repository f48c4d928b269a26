"""Rows of NaN or infinite numbers from the network are errors of their samples, as unreadable files are."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest

from skembed import EmbeddingCache, FineTuneClassifier, advise, rank_backbones
from skembed.exceptions import DecodeError, DecodeWarning
from skembed.testing import ArrayEmbedder
from tests.overflowing import overflowing_backbone

#: The third and the last overflow in float16 and not in float32; the last only in its second window.
X = np.random.default_rng(0).uniform(0.5, 1.0, size=(12, 4)).astype(np.float32)
X[[2, 11], 0] = 6
X[11, 3] = 1
y = np.arange(12) % 2


def _embedder(precision="float16", **parameters):
    parameters = {"device": "cpu", "cache": None} | parameters
    return ArrayEmbedder(overflowing_backbone, precision=precision, **parameters)


@pytest.mark.parametrize("batch_size", [1, 5, "auto"])
def test_overflow_raises_an_error_that_names_the_sample_and_the_remedy(batch_size):
    message = r'sample 2: the network overflowed in float16. Use precision="bfloat16" or precision="float32"'
    with pytest.raises(DecodeError, match=re.escape(message)):
        _embedder(batch_size=batch_size).fit_transform(X)


def test_overflow_in_one_window_of_a_sample_is_an_error():
    with pytest.raises(DecodeError, match="sample 1: the network overflowed"):
        _embedder().fit_transform(X[[0, 11]])


def test_overflow_is_counted_and_named_in_a_warning():
    with pytest.warns(DecodeWarning, match=r"(?s)2 of 12 samples could not be embedded.*sample 2.*sample 11") as told:
        rows = _embedder(on_error="warn").fit_transform(X)
    assert len(told) == 1
    assert np.isnan(rows).all(axis=1).nonzero()[0].tolist() == [2, 11]
    assert np.isfinite(np.delete(rows, [2, 11], axis=0)).all()


def test_overflow_is_silent_where_rows_of_nan_are_asked_for():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = _embedder(on_error="nan").fit_transform(X)
    assert np.isnan(rows[[2, 11]]).all()


def test_float32_has_a_message_of_its_own():
    assert np.isfinite(_embedder("float32").fit_transform(X)).all()
    beyond = np.array([[39.0, 1, 1, 0]])
    with pytest.raises(DecodeError, match="sample 0: the network returned NaN or infinite numbers in float32"):
        _embedder("float32").fit_transform(beyond)


def test_rows_that_overflow_are_not_cached():
    cache = EmbeddingCache()
    embedder = _embedder(on_error="nan", cache=cache).fit(X)
    embedder.transform(X)
    assert cache.info().entries == 10
    with pytest.raises(DecodeError, match="overflowed"):
        embedder.set_params(on_error="raise").transform(X)


def test_copies_of_an_overflowing_sample_are_all_named():
    with pytest.warns(DecodeWarning, match=r"(?s)3 of 4 .*sample 0.*sample 1.*sample 3"):
        _embedder(on_error="warn").fit_transform(X[[2, 2, 0, 2]])


def test_large_finite_rows_are_scaled_to_length_one():
    large = np.array([[25.0, 1, 1, 0], [0.0, 1, 1, 0]])
    rows = _embedder("float32", normalize=True).fit_transform(large)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("strategy", ["head", "partial"])
def test_fine_tuning_names_the_overflow_instead_of_the_learning_rate(strategy):
    classifier = FineTuneClassifier(_embedder(), strategy=strategy, max_epochs=1, validation_fraction=None)
    with pytest.raises(DecodeError, match="overflowed in float16"):
        classifier.fit(X, y)


def test_fine_tuning_leaves_overflowing_samples_out_where_told_to():
    embedder = _embedder(on_error="nan")
    classifier = FineTuneClassifier(embedder, strategy="head", max_epochs=1, validation_fraction=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classifier.fit(X, y)
    assert np.isnan(classifier.predict_proba(X)).any(axis=1).nonzero()[0].tolist() == [2, 11]


def test_advice_and_rankings_name_the_overflow():
    with pytest.raises(DecodeError, match="overflowed in float16"):
        advise(X, y, _embedder())
    with pytest.raises(ValueError, match="overflowed in float16"):
        rank_backbones(X, y, candidates=[_embedder()])
