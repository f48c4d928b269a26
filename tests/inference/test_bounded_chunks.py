"""Chunks end early where prepared samples take much memory, and rows do not depend on it."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from skembed import AudioEmbedder, FineTuneClassifier
from skembed.embedders import audio as audio_module
from skembed.embedders.encoder import Encoder
from skembed.exceptions import DecodeError, DecodeWarning
from skembed.finetune.data import prepared_chunks
from skembed.inference import extract as extract_module
from tests.finetune import tuning

SAMPLES, Y = tuning.samples("whisper")


@pytest.fixture
def embedder():
    directory = tuning.directory("whisper")
    options = {"sampling_rate": 16_000, "pad_to_window": False, "device": "cpu", "precision": "float32", "cache": None}
    return AudioEmbedder(directory, **options).fit(SAMPLES)


def _logged(embedder, monkeypatch):
    """Return what happened in an embedding of all samples, in order."""
    log: list[str] = []
    read, run = audio_module.read_audio, extract_module._run_batch
    with monkeypatch.context() as patch:
        patch.setattr(audio_module, "read_audio", lambda *args, **keys: log.append("decoded") or read(*args, **keys))
        patch.setattr(extract_module, "_run_batch", lambda *args, **keys: log.append("computed") or run(*args, **keys))
        embedder.transform(SAMPLES)
    return log


@pytest.mark.parametrize("n_threads", [1, 2])
def test_few_large_samples_are_decoded_before_they_are_computed(embedder, monkeypatch, n_threads):
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        log = _logged(embedder, monkeypatch)
        assert log[:20] == ["decoded"] * 20
        monkeypatch.setattr(extract_module, "CHUNK_BYTES", 1)
        log = _logged(embedder, monkeypatch)
    finally:
        torch.set_num_threads(before)
    assert log.count("decoded") == 20, "a sample was decoded twice"
    limit = 1 if n_threads == 1 else 4
    assert log.index("computed") <= limit
    assert log.count("computed") >= 20 // limit


def test_the_limit_counts_the_bytes_of_prepared_samples(embedder, monkeypatch):
    (first,), *_ = next(prepared_chunks(Encoder(embedder), embedder._load(), SAMPLES))
    n_bytes = first.data["mel"].nbytes
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        monkeypatch.setattr(extract_module, "CHUNK_BYTES", 4 * n_bytes + 1)
        sizes = [len(chunk) for chunk in prepared_chunks(Encoder(embedder), embedder._load(), SAMPLES)]
    finally:
        torch.set_num_threads(before)
    assert sizes == [5, 5, 5, 5]


def test_rows_and_errors_do_not_depend_on_the_limit(embedder, monkeypatch):
    samples = [*SAMPLES[:7], np.full(4000, np.nan), *SAMPLES[7:], np.zeros(3)]
    embedder.set_params(on_error="warn")
    with pytest.warns(DecodeWarning, match="2 of 22"):
        whole = embedder.transform(samples)
    monkeypatch.setattr(extract_module, "CHUNK_BYTES", 1)
    with pytest.warns(DecodeWarning, match=r"(?s)2 of 22.*sample 7.*sample 21"):
        rows = embedder.transform(samples)
    np.testing.assert_allclose(rows, whole, atol=1e-5)
    with pytest.raises(DecodeError, match="sample 7"):
        embedder.set_params(on_error="raise").transform(samples)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("skembed-decode")]


def louder(waveform: np.ndarray) -> np.ndarray:
    return 2 * waveform


@pytest.mark.parametrize("augment", [None, louder])
def test_a_fit_does_not_depend_on_the_limit(embedder, monkeypatch, augment):
    parameters = {**tuning.SHORT, "strategy": "partial", "augment": augment}
    whole = FineTuneClassifier(embedder, **parameters).fit(SAMPLES, Y)
    monkeypatch.setattr(extract_module, "CHUNK_BYTES", 1)
    bounded = FineTuneClassifier(embedder, **parameters).fit(SAMPLES, Y)
    np.testing.assert_allclose(bounded.predict_proba(SAMPLES), whole.predict_proba(SAMPLES), atol=2e-3)
