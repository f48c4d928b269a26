"""Keys of cached rows, written out: whoever changes one makes every user embed everything again.

If a row means something else now, that is right: raise `_SCHEMA` in skembed/embedders/base.py and write the new keys
here. Otherwise the change of identity is a mistake.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from skembed import AudioEmbedder, EmbeddingCache, ImageEmbedder, TextEmbedder
from skembed.backbones.loading.card import Card
from skembed.embedders.base import BaseEmbedder

TONE = np.linspace(-1, 1, 100, dtype=np.float32)
PICTURE = Image.new("RGB", (2, 2), "red")


class _Recording(EmbeddingCache):
    """A cache that has every row, and remembers what it was asked for."""

    def get_many(self, namespace, keys):
        self.asked = namespace[:16], keys[0].hex()[:16]
        return [np.zeros(4 + 1, dtype=np.float32)] * len(keys)


@pytest.fixture
def known_backbone(monkeypatch):
    """A backbone of which nothing but its card is read."""

    def card(embedder):
        size = {"text": 256, "image": 224, "audio": 30.0}[embedder._modality]
        return Card("f" * 64, 7, "mean", False, True, default_size=size)

    monkeypatch.setattr(BaseEmbedder, "_found_fingerprint", lambda embedder: "f" * 64)
    monkeypatch.setattr(BaseEmbedder, "_card", card)
    monkeypatch.setattr(BaseEmbedder, "_probe_width", lambda embedder, card, reading: 4)


@pytest.mark.parametrize(
    ("embedder", "sample", "namespace", "key"),
    [
        (TextEmbedder(), "a cat", "2cf255f3d562a58b", "c817e2c906674f76"),
        (TextEmbedder(layers=[0, -1], pooling="max", prompt="q: "), "a cat", "fbb8ebeb9c0a0f24", "c817e2c906674f76"),
        (ImageEmbedder(), PICTURE, "8479df207f6a6d01", "1389d391e7cf96a7"),
        (ImageEmbedder(image_size=96, background=(1, 2, 3)), PICTURE, "cda8ae389e2195cc", "1389d391e7cf96a7"),
        (AudioEmbedder(sampling_rate=16_000), TONE, "000b2adec434e33d", "34636512ffbcd53d"),
        (AudioEmbedder(window=2.5, pad_to_window=False), (TONE, 8000), "332ca91eb3e174ea", "1333b72188129f28"),
    ],
)
def test_a_key_is_what_it_was(known_backbone, embedder, sample, namespace, key):
    cache = _Recording()
    embedder.set_params(cache=cache, device="cpu").fit_transform([sample])
    assert cache.asked == (namespace, key)
