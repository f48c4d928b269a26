"""Augmentation of texts, images and recordings inside a fit: labels stay with their samples, and rates are right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from skembed import AudioEmbedder, FineTuneClassifier, ImageEmbedder, TextEmbedder
from skembed.augment import Operation
from tests.backbones import tiny

N = 24
EVERY = pytest.mark.parametrize("modality", ["text", "image", "audio"])
SEEN: list = []
BACKBONES = {"text": "bert", "image": "timm_vit", "audio": "wav2vec2"}


@dataclass(frozen=True, repr=False)
class Look(Operation):
    """Changes nothing, and remembers what it was given."""

    name: ClassVar[str] = "look"
    modality: str = "text"  # type: ignore[misc]

    def on_sample(self, value, rng, *, sampling_rate=None):
        SEEN.append((value, sampling_rate))
        return value


@pytest.fixture(scope="module")
def embedders(tmp_path_factory):
    classes = {"text": TextEmbedder, "image": ImageEmbedder, "audio": AudioEmbedder}
    built = {}
    for modality, name in BACKBONES.items():
        directory = tmp_path_factory.mktemp(name)
        tiny.BUILDERS[name](directory)
        # Half of what the network wants to hear, so that a rate that was mixed up shows.
        more = {"sampling_rate": 8000} if modality == "audio" else {}
        built[modality] = classes[modality](str(directory), device="cpu", precision="float32", **more)
    return built


def _samples(modality):
    """Two classes, and no two samples alike."""
    rng, y = np.random.default_rng(0), np.arange(N) % 2
    if modality == "text":
        words = [["cat", "mat", "sat", "moon"], ["rates", "rose", "again", "nobody"]]
        return [" ".join(rng.choice(words[label], size=6)) + f" {i}" for i, label in enumerate(y)], y
    if modality == "image":
        return [Image.fromarray(rng.integers(0, 128, (40, 50, 3), np.uint8) + np.uint8(127 * k)) for k in y], y
    return [rng.normal(size=1600 + 10 * i).astype(np.float32) * (0.01 + k) for i, k in enumerate(y)], y


def _fit(embedder, samples, y, **parameters):
    SEEN.clear()
    settings = {
        "strategy": "partial",
        "max_epochs": 2,
        "learning_rate": 1e-2,
        "optimization__dropout": 0.0,
        "refit": False,
    }
    return FineTuneClassifier(embedder).set_params(**{**settings, "random_state": 0, **parameters}).fit(samples, y)


@EVERY
def test_labels_stay_with_their_samples(embedders, modality):
    """An operation that changes nothing changes no loss: a label of another sample would."""
    samples, y = _samples(modality)
    plain, looked = (
        _fit(embedders[modality], samples, y, augment=augment) for augment in (None, Look(modality=modality))
    )
    losses = [[record["train_loss"] for record in fitted.history_] for fitted in (plain, looked)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


@EVERY
def test_operations_get_decoded_samples_at_the_rate_of_the_backbone(embedders, modality):
    samples, y = _samples(modality)
    _fit(embedders[modality], samples, y, augment=Look(modality=modality))
    assert len(SEEN) == 2 * round(0.8 * N)
    for value, rate in SEEN:
        if modality == "text":
            assert value in samples
        elif modality == "image":
            assert (value.mode, value.size) == ("RGB", (50, 40))
        else:
            assert (rate, value.dtype, value.ndim) == (16_000, np.float32, 1)
            assert len(value) in {2 * len(sample) for sample in samples}
        assert (rate is None) == (modality != "audio")


def _bytes(value) -> bytes:
    return value.encode() if isinstance(value, str) else np.asarray(value).tobytes()


@EVERY
def test_a_fit_changes_samples_alike_under_any_number_of_workers(embedders, modality):
    samples, y = _samples(modality)
    threads, seen = torch.get_num_threads(), []
    try:
        for n_threads, seed in ((1, 0), (3, 0), (1, 1)):
            torch.set_num_threads(n_threads)
            augment = ["strong", Look(modality=modality)]
            _fit(embedders[modality], samples, y, augment=augment, random_state=seed)
            seen.append(sorted(_bytes(value) for value, _ in SEEN))
    finally:
        torch.set_num_threads(threads)
    assert seen[0] == seen[1]
    assert seen[0] != seen[2]
