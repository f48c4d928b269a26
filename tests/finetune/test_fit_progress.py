"""What a fit shows before, between and during its epochs."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import torch

from skembed import Augmentation, EmbeddingCache, FineTuneClassifier
from skembed.backbones.loading.load import load
from skembed.finetune.replay import FrozenBlocks
from skembed.testing import ArrayEmbedder
from skembed.utils import progress
from tests.finetune import tuning

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def shown(monkeypatch):
    """A function that fits and returns all that was printed, bars as if all work took long."""
    monkeypatch.setattr(progress, "DELAY", 0.0)
    monkeypatch.setattr(progress, "LINE_INTERVAL", 0.0)

    def fit(stream=None, embedder=None, samples=X, *, replay=True, **parameters) -> str:
        stream = stream or io.StringIO()
        monkeypatch.setattr("sys.stderr", stream)
        monkeypatch.setattr("sys.stdout", stream)
        embedder = embedder or ArrayEmbedder(precision="float32", batch_size=4, cache=None)
        settings = {"strategy": "partial", "max_epochs": 2, "verbose": 1, "random_state": 0, **parameters}
        classifier = FineTuneClassifier(embedder).set_params(**settings)
        classifier._replay = replay
        classifier.fit(samples, Y[: len(samples)])
        return stream.getvalue()

    return fit


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_recording_and_probe_are_shown_before_the_first_epoch(shown, stream):
    output = shown(stream())
    assert ("\r" in output) == (stream is Terminal)
    before = output[: output.index("epoch 1 of")]
    assert before.index("recording activations") < before.index("fitting the linear probe")
    assert "ArrayEmbedder" in before


def test_recording_advances_with_each_batch(shown):
    counts = [int(done) for done in re.findall(r"recording activations:.*? (\d+)/60 ", shown())]
    assert counts[-1] == 60
    assert {4, 8, 32} <= set(counts)


def test_recording_of_cached_samples_is_shown(shown):
    cache = EmbeddingCache()
    embedder = ArrayEmbedder(precision="float32", batch_size=4, cache=cache)
    embedder.fit_transform(X)
    output = shown(embedder=embedder)
    assert re.search(r"recording activations:.*? 60/60 ", output[: output.index("epoch 1 of")])


def test_reading_and_epochs_are_shown_where_nothing_is_recorded(shown):
    output = shown(replay=False)
    assert "recording activations" not in output
    assert output.index("reading samples") < output.index("epoch 1, top block: ") < output.index("epoch 1 of")
    assert output.index("epoch 1 of") < output.index("epoch 2, top block: ") < output.index("epoch 2 of")


def test_stored_views_are_shown(shown):
    embedder, texts = tuning.embedder("bert"), tuning.TEXTS
    output = shown(embedder=embedder, samples=texts, strategy="head", augment=Augmentation("light", views=2))
    assert "embedding view 2" in output[: output.index("epoch 1 of")]


def test_the_second_fit_is_shown(shown):
    output = shown(strategy="full", learning_rate=1e-2, optimization__backbone_factor=1.0, patience=9)
    assert output.index("epoch 2 of") < output.index("fitting on all samples")


@pytest.mark.parametrize("verbose", [0, 1])
def test_nothing_is_shown_of_quick_work(shown, monkeypatch, verbose):
    monkeypatch.setattr(progress, "DELAY", 60.0)
    output = shown(verbose=verbose)
    assert "sample" not in output.replace("samples", "")
    assert ("epoch 1 of" in output) == bool(verbose)
    assert not progress.is_showing()


def test_nothing_is_shown_without_verbose(shown):
    assert not shown(verbose=0)


def test_windows_of_a_sample_count_once():
    embedder = tuning.embedder("bert", long_text="chunk", max_length=6).fit(tuning.TEXTS)
    backbone, counts = load(embedder.spec_, torch.device("cpu"), "float32"), []
    samples = backbone.preprocess(tuning.TEXTS, embedder._reading.options)
    assert sum(map(len, samples)) > len(samples)
    FrozenBlocks(backbone, embedder._reading, 3).activations(samples, [0], counts.append)
    assert sum(counts) == len(samples)
    assert len(counts) > 3
