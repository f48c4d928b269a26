"""What the tests of audio backbones share: a recording, and the ways through one adapter or the whole embedder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from skembed import AudioEmbedder
from skembed.backbones.base import AudioOptions, Backbone, Tokens
from skembed.backbones.loading.load import open_spec
from skembed.backbones.spec import BackboneSpec
from tests.backbones.tiny import AUDIO

#: 2.5 s of noise at 16 kHz.
NOISE = (0.1 * np.random.default_rng(1).normal(size=40_000)).astype(np.float32)

#: Families whose batches are packed. AST reads a spectrogram of fixed length.
PACKED = [family for family in AUDIO if family != "ast"]


def embed(directory: Path | str, clips: Sequence[np.ndarray], **parameters) -> np.ndarray:
    """Rows of the embedder for clips at 16 kHz."""
    parameters = {"precision": "float32", **parameters}
    return AudioEmbedder(str(directory), sampling_rate=16000, device="cpu", **parameters).fit_transform(clips)


def opened(directory: Path) -> Backbone:
    """The backbone of a directory, loaded anew."""
    return open_spec(BackboneSpec("audio", str(directory)))


def run(
    backbone: Backbone, clips: Sequence[np.ndarray], layers: Iterable[int], options: AudioOptions | None = None
) -> list[Tokens]:
    """Tokens of the asked layers for one batch of clips, without windows."""
    items = [windows[0] for windows in backbone.preprocess(clips, options or AudioOptions())]
    return backbone.forward_blocks(backbone.collate(items), layers)


def mean(backbone: Backbone, clips: Sequence[np.ndarray]) -> np.ndarray:
    """The last layer of one batch, averaged over what is real."""
    with torch.no_grad():
        tokens = run(backbone, clips, [len(backbone.blocks) - 1])[0]
    return np.stack([values[mask].mean(0).numpy() for values, mask in zip(tokens.values, tokens.mask, strict=True)])


def whole_window(mel: Tensor, columns: int = 3000) -> Tensor:
    """A spectrogram of `collate` with its silence repeated up to 30 s, as Whisper's own encoder wants it."""
    return torch.cat([mel, mel[:, :, -1:].expand(-1, -1, columns - mel.shape[2])], dim=2)
