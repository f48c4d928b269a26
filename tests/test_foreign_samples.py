"""Samples and containers of other libraries: tensors, lazy and masked arrays, pyarrow, data sets."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from skembed import AudioEmbedder, ImageEmbedder
from skembed.exceptions import DecodeError, DecodeWarning
from skembed.inputs import as_samples
from tests.finetune.tuning import directory

TONE = (0.4 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000)).astype(np.float32)
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)


class LazyArray:
    """An array whose values are read at their first use, from a file that is gone."""

    shape, ndim, dtype = (8000,), 1, np.dtype("float32")

    def __init__(self, error):
        self.error = error

    def __array__(self, dtype=None, copy=None):
        raise self.error


def _audio(**parameters):
    return AudioEmbedder(directory("whisper"), sampling_rate=8000, device="cpu", pad_to_window=False, **parameters)


def _images(**parameters):
    return ImageEmbedder(directory("timm_resnet"), device="cpu", **parameters)


@pytest.mark.parametrize("cache", [None, "memory"])
@pytest.mark.parametrize("error", [OSError("the disk is gone"), RuntimeError("closed"), KeyError("a")])
@pytest.mark.parametrize("wrap", [lambda lazy: lazy, lambda lazy: (lazy, 8000)])
def test_errors_of_lazy_arrays_follow_on_error(cache, error, wrap):
    embedder = _audio(cache=cache)
    with pytest.raises(DecodeError, match=f"sample 1: .*{type(error).__name__}") as raised:
        embedder.fit_transform([TONE, wrap(LazyArray(error))])
    assert raised.value.__cause__ is error
    with pytest.warns(DecodeWarning, match="1 of 2 samples"):
        rows = embedder.set_params(on_error="warn").fit_transform([TONE, wrap(LazyArray(error))])
    assert np.isnan(rows).any(axis=1).tolist() == [False, True]


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
@pytest.mark.parametrize("cache", [None, "memory"])
def test_lack_of_memory_and_interrupts_are_not_taken_for_broken_samples(error, cache):
    with pytest.raises(error):
        _audio(cache=cache, on_error="nan").fit_transform([TONE, LazyArray(error())])


@pytest.mark.parametrize(
    "convert",
    [
        torch.tensor,
        lambda samples: torch.tensor(samples, requires_grad=True),
        lambda samples: torch.tensor(samples).to_sparse(),
        lambda samples: np.ma.masked_array(samples, mask=False),
    ],
)
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x, 8000), lambda x: {"array": x, "sampling_rate": 8000}])
@pytest.mark.parametrize("cache", [None, "memory"])
def test_tensors_of_recordings_are_embedded_as_arrays(convert, wrap, cache):
    rows = _audio(cache=cache).fit_transform([TONE, wrap(convert(TONE))])
    np.testing.assert_allclose(rows[1], rows[0], atol=1e-6)


def test_bfloat16_tensors_are_embedded_by_their_values():
    tensor = torch.tensor(TONE, dtype=torch.bfloat16)
    rows = _audio(cache="memory").fit_transform([tensor, tensor.float().numpy()])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)


def test_tensors_of_images_are_embedded_as_arrays():
    rows = _images(cache="memory").fit_transform([PIXELS, torch.tensor(PIXELS), np.ma.masked_array(PIXELS)])
    np.testing.assert_allclose(rows[1:], rows[[0, 0]], atol=1e-6)


def test_a_batch_of_tensors_is_a_container_of_images():
    images = np.stack([PIXELS, PIXELS[::-1]])
    rows = _images(cache=None).fit_transform(torch.tensor(images))
    np.testing.assert_allclose(rows, _images(cache=None).fit_transform(images), atol=1e-6)


@pytest.mark.parametrize("cache", [None, "memory"])
def test_masked_values_are_refused(cache):
    masked = np.ma.masked_array(TONE, mask=np.arange(len(TONE)) < 3)
    with pytest.raises(DecodeError, match="sample 1: 3 of its 8000 values are masked"):
        _audio(cache=cache).fit_transform([TONE, masked])


def test_an_array_of_pyarrow_is_a_column():
    assert as_samples(pa.array(["a", None, "c"])) == ["a", None, "c"]


def test_a_data_set_is_its_only_column_or_names_its_columns():
    datasets = pytest.importorskip("datasets")
    assert as_samples(datasets.Dataset.from_dict({"text": ["a", "b"]})) == ["a", "b"]
    two = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    with pytest.raises(TypeError, match=r"columns text, label. Pass one of them, such as X\['text'\]"):
        as_samples(two)
    with pytest.raises(TypeError, match="splits train, test"):
        as_samples(datasets.DatasetDict({"train": two, "test": two}))
