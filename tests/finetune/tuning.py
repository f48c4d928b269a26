"""Tiny backbones of the three modalities, and short fits on them, for the tests of the methods."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from skembed import AudioEmbedder, FineTuneClassifier, ImageEmbedder, TextEmbedder
from skembed.backbones.loading.load import load
from skembed.backbones.tuning.method import find_method
from skembed.finetune.network import LinearHead, Network
from skembed.probes.linear import Probe, Standardizer
from tests.backbones import tiny

EMBEDDERS = {"text": TextEmbedder, "image": ImageEmbedder, "audio": AudioEmbedder}
#: Every epoch is kept, so that what was trained is what is stored.
SHORT = {"max_epochs": 2, "validation_fraction": None, "learning_rate": 1e-2, "random_state": 0}
TEXTS = [
    "the cat",
    "a dog and the moon",
    "rates rose again and nobody was surprised",
    "fit",
    "a lazy dog sat on the mat",
]
TEXTS = [f"{text} {'cat' if i % 2 else 'december'}" for i, text in enumerate(TEXTS * 4)]


@functools.cache
def directory(family: str) -> str:
    """Where the network lies; it goes away with the process."""
    held = tempfile.TemporaryDirectory(prefix="skembed-tests-")
    _kept.append(held)
    # Seeded, as far as that goes: the tokenizer that is trained for it numbers its words anew in each process.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tiny.BUILDERS[family](Path(held.name))
    return held.name


_kept: list[tempfile.TemporaryDirectory] = []


@functools.cache
def samples(family: str) -> tuple[list, np.ndarray]:
    y = np.arange(20) % 2
    if tiny.MODALITY[family] == "text":
        return TEXTS, y
    rng = np.random.default_rng(0)
    if tiny.MODALITY[family] == "image":
        noise = rng.integers(0, 128, size=(20, 64, 64, 3), dtype=np.uint8)
        noise[y == 1, :, ::2] += 100
        return [Image.fromarray(image) for image in noise], y
    return [(0.1 * (1 + i % 2) * rng.normal(size=4000)).astype(np.float32) for i in range(20)], y


def embedder(family: str, **parameters):
    arguments = {"device": "cpu", "precision": "float32", "cache": None, **parameters}
    if tiny.MODALITY[family] == "audio":
        arguments["sampling_rate"] = 16000
    return EMBEDDERS[tiny.MODALITY[family]](arguments.pop("backbone", directory(family)), **arguments)


def fit(
    family: str, strategy: str, method: str = "weights", *, replay: bool = True, **parameters
) -> FineTuneClassifier:
    X, y = samples(family)
    classifier = FineTuneClassifier(embedder(family), strategy=strategy, method=method)
    classifier._replay = replay
    return classifier.set_params(**{**SHORT, **parameters}).fit(X, y)


def network(family: str, method: str, n_trainable: int | None = None, **settings) -> Network:
    """A network with a head of zeros, as a fit builds it."""
    fitted = embedder(family).fit(samples(family)[0][:1])
    backbone = load(fitted.spec_, torch.device("cpu"), "float32")
    width = fitted._n_features_out
    head = LinearHead(Standardizer(np.zeros(width), np.ones(width)), Probe(np.zeros((2, width)), np.zeros(2), 1.0))
    probe = backbone.preprocess([fitted._probe()], fitted._reading.options)[0]
    return Network(
        backbone,
        fitted._reading,
        head,
        n_features=width,
        normalize=bool(fitted._normalized),
        method=find_method(method)(**settings),
        n_trainable=n_trainable,
        probe=probe,
    )


def prepared(built: Network, family: str, n: int = 6) -> list:
    options = embedder(family).fit(samples(family)[0][:1])._reading.options
    read = embedder(family)._reader(built.backbone)
    return built.backbone.preprocess([read(sample)[0] for sample in samples(family)[0][:n]], options)
