"""The inference loop on the double: order, windows, memory, bad samples."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from skembed.backbones.base import Item
from skembed.exceptions import DecodeError, DeviceWarning
from skembed.inference.extract import extract
from skembed.inference.reading import Reading
from skembed.testing import ArrayBackbone, array_backbone
from skembed.utils.device import is_out_of_memory, resolve_device

READING = Reading(layers=(2,), pooling="mean")
X = np.random.default_rng(0).normal(size=(11, 4)).astype(np.float32)


def _plain(sample):
    return np.asarray(sample), False


def _run(backbone, samples=X, **kwargs):
    return _collected(extract(backbone, list(samples), READING, read=_plain, **kwargs), len(samples))


def _collected(batches, n_samples):
    """The rows of all samples in order, NaN where there is none; which were truncated; and all errors."""
    rows, truncated, errors = np.full((n_samples, 8), np.nan), np.zeros(n_samples, dtype=bool), []
    for batch in batches:
        errors += batch.errors
        if batch.positions:
            rows[batch.positions], truncated[batch.positions] = batch.rows, batch.truncated
    return SimpleNamespace(embeddings=rows, truncated=truncated, errors=errors)


def _backbone(cls=ArrayBackbone):
    backbone = array_backbone()
    backbone.__class__, backbone.sizes = cls, []
    return backbone


class Hungry(ArrayBackbone):
    """Out of memory above `limit` items; remembers the sizes of its batches."""

    limit, error = 2, torch.OutOfMemoryError("CUDA out of memory")

    def forward_blocks(self, batch, layers):
        self.sizes.append(len(batch["values"]))
        if len(batch["values"]) > self.limit:
            raise self.error
        return super().forward_blocks(batch, layers)


@pytest.mark.parametrize("chunk_size", [1, 4, 1000])
def test_rows_keep_their_order(chunk_size):
    whole = _run(array_backbone(), batch_size=3, chunk_size=chunk_size).embeddings
    plain = array_backbone().module(torch.from_numpy(X)).detach().numpy()
    np.testing.assert_allclose(whole, plain, atol=1e-6)


def test_out_of_memory_halves_and_loses_nothing():
    backbone = _backbone(Hungry)
    with pytest.warns(DeviceWarning) as caught:
        rows = _run(backbone, batch_size=32).embeddings
    assert "A batch of 11 items does not fit in memory; continuing with 6" in str(caught[0].message)
    np.testing.assert_allclose(rows, _run(array_backbone()).embeddings, atol=1e-6)
    # 11 -> 6 -> 3 -> 2, and then no larger batch is tried again.
    assert backbone.sizes[:4] == [11, 6, 3, 2]
    assert max(backbone.sizes[3:]) == 2


def test_out_of_memory_on_one_sample_says_what_to_do():
    backbone = _backbone(type("Starving", (Hungry,), {"limit": 0}))
    with pytest.raises(MemoryError, match="smaller backbone"):
        _run(backbone, batch_size=1)


def test_other_errors_are_not_taken_for_memory():
    backbone = _backbone(type("Broken", (Hungry,), {"limit": 0, "error": RuntimeError("shape mismatch")}))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        _run(backbone)


@pytest.mark.parametrize(
    "message",
    ["CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator: can't allocate memory"],
)
def test_memory_errors_of_every_backend_are_known(message):
    assert is_out_of_memory(RuntimeError(message))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(ValueError(message))


class Windowed(ArrayBackbone):
    """Every sample is two windows of real length 3 and 1."""

    def preprocess(self, samples, options):
        return [
            [
                Item({"values": np.asarray(s, dtype=np.float32)}, 3),
                Item({"values": -np.asarray(s, dtype=np.float32)}, 1),
            ]
            for s in samples
        ]


def test_windows_are_averaged_by_their_length():
    network = array_backbone().module
    plus, minus = (network(torch.from_numpy(sign * X)).detach().numpy() for sign in (1, -1))
    rows = _run(_backbone(Windowed), batch_size=2).embeddings
    np.testing.assert_allclose(rows, 0.75 * plus + 0.25 * minus, atol=1e-6)


def _reader(sample):
    if sample is None:
        raise DecodeError("nothing there", path="a.png")
    return np.asarray(sample), False


def test_bad_samples_by_policy():
    samples = [X[0], None, X[2], None]
    with pytest.raises(DecodeError, match=r"sample 1 \(a\.png\): nothing there"):
        list(extract(array_backbone(), samples, READING, read=_reader))
    result = _collected(extract(array_backbone(), samples, READING, read=_reader, on_error="nan", chunk_size=2), 4)
    assert [error.index for error in result.errors] == [1, 3]
    assert np.isnan(result.embeddings[[1, 3]]).all()
    np.testing.assert_allclose(result.embeddings[[0, 2]], _run(array_backbone()).embeddings[[0, 2]], atol=1e-6)


def test_nothing_readable_gives_errors_alone():
    (batch,) = extract(array_backbone(), [None], READING, read=_reader, on_error="nan")
    assert (batch.positions, len(batch.errors)) == ([], 1)


def test_unknown_and_absent_devices_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="Unknown device 'abacus'"):
        resolve_device("abacus")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device='cuda:1' is not available"):
        resolve_device("cuda:1")
