"""The encoder of Whisper, on 30 s as it was trained or on a clip's own length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import gelu
from transformers import AutoConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from skembed.backbones.base import (
    AudioOptions,
    Backbone,
    BackboneSpec,
    Item,
    Tokens,
    check_waveform_options,
    split_windows,
)
from skembed.backbones.blocks import blocks_from_layers, first_tensor, record_blocks
from skembed.backbones.transformers_loading import load_pretrained, quiet

__all__ = ["WhisperBackbone", "open_whisper", "whole_frames"]

#: Samples behind one position of the encoder: a hop of 160, halved by the second convolution.
_SAMPLES_PER_FRAME = 320


class WhisperBackbone(Backbone):
    """Whisper's encoder and its log-mel front end. Lengths are in encoder frames of 20 ms."""

    # Measured on two cores: no gain beyond, and 30 s of activations a clip.
    batch_limit: ClassVar[int] = 4

    def preprocess(self, samples: Sequence[np.ndarray], options: AudioOptions) -> list[list[Item]]:
        options = options or AudioOptions()
        assert self.sampling_rate is not None
        seconds = check_waveform_options(options, self.extra["n_positions"] * _SAMPLES_PER_FRAME / self.sampling_rate)
        assert seconds is not None
        size = int(seconds * self.sampling_rate)
        return [
            [self._item(window, options.pad_to_window) for window in split_windows(sample, size)] for sample in samples
        ]

    def _item(self, waveform: np.ndarray, pad_to_window: bool) -> Item:
        extractor, n_positions = self.extra["extractor"], self.extra["n_positions"]
        real = frames = whole_frames(len(waveform))
        if pad_to_window:
            # The clip and as much silence as one analysis window sees: the last column is then that of silence,
            # which `collate` repeats. Computed and held in full, 30 s would cost short clips most of their memory.
            frames = min(whole_frames(len(waveform) + extractor.n_fft), n_positions)
        # Whole frames, so that the second convolution never looks past a clip's end.
        waveform = np.pad(waveform, (0, frames * _SAMPLES_PER_FRAME - len(waveform)))
        features = extractor(
            waveform, sampling_rate=self.sampling_rate, padding="do_not_pad", truncation=False, return_tensors="np"
        )["input_features"][0]
        mel = features.astype(np.float32)
        return Item({"mel": mel, "attended": n_positions if pad_to_window else frames}, length=real)

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        attended = [item.data["attended"] for item in items]
        mel = np.zeros((len(items), items[0].data["mel"].shape[0], 2 * max(attended)), dtype=np.float32)
        for row, item in enumerate(items):
            own = item.data["mel"]
            mel[row, :, : own.shape[1]] = own
            mel[row, :, own.shape[1] : 2 * attended[row]] = own[:, -1:]
        return {
            "mel": torch.from_numpy(mel),
            "real": torch.tensor([item.length for item in items]),
            # Of a clip padded to 30 s the silence is attended to, as in training, but never pooled.
            "attended": torch.tensor(attended),
        }

    def forward_blocks(self, batch: Mapping[str, Tensor], layers: Iterable[int]) -> list[Tokens]:
        layers = list(layers)
        encoder: Any = self.module
        with record_blocks(list(encoder.layers), layers) as found:
            found[len(self.blocks) - 1] = self._encode(encoder, batch["mel"], batch["attended"])
        positions = torch.arange(batch["mel"].shape[2] // 2, device=batch["mel"].device)
        mask = positions < batch["real"].unsqueeze(1)
        return [Tokens(found[i], mask) for i in layers]

    @staticmethod
    def _encode(encoder: Any, mel: Tensor, attended: Tensor) -> Tensor:
        """The encoder's own steps; its `forward` takes 30 s and no mask."""
        hidden = gelu(encoder.conv2(gelu(encoder.conv1(mel)))).transpose(1, 2)
        time = hidden.shape[1]
        hidden = hidden + encoder.embed_positions.weight[:time]
        mask = None
        if bool((attended < time).any()):
            beyond = torch.arange(time, device=mel.device) >= attended.unsqueeze(1)
            mask = torch.zeros(beyond.shape, dtype=hidden.dtype, device=mel.device)
            mask = mask.masked_fill(beyond, torch.finfo(hidden.dtype).min)[:, None, None, :].expand(-1, 1, time, -1)
        for layer in encoder.layers:
            hidden = first_tensor(layer(hidden, mask))
        return encoder.layer_norm(hidden)


def whole_frames(n_samples: int) -> int:
    """Encoder frames that hold so many samples.

    Examples
    --------
    >>> [whole_frames(n) for n in (1, 320, 321)]
    [1, 1, 2]
    """
    return -(-n_samples // _SAMPLES_PER_FRAME)


def open_whisper(spec: BackboneSpec, directory: Path, fingerprint: str) -> WhisperBackbone:
    """Read the encoder from a directory of the whole model or of the encoder alone.

    Parameters
    ----------
    spec : BackboneSpec
        Its identity.
    directory : Path
        With config.json, safetensors, and preprocessor_config.json.
    fingerprint : str
        Digest of the directory.

    Raises
    ------
    BackboneNotFoundError
        If weights are missing.
    """
    with quiet():
        config = AutoConfig.from_pretrained(directory, local_files_only=True)
        extractor = WhisperFeatureExtractor.from_pretrained(directory, local_files_only=True)
    module = load_pretrained(WhisperEncoder, directory, **_key_mapping(directory))
    names = [f"layers.{i}" for i in range(config.encoder_layers)]
    return WhisperBackbone(
        spec=spec,
        module=module,
        width=config.d_model,
        blocks=blocks_from_layers(module, names),
        fingerprint=fingerprint,
        sampling_rate=extractor.sampling_rate,
        extra={"extractor": extractor, "n_positions": config.max_source_positions},
    )


def _key_mapping(directory: Path) -> dict[str, Any]:
    """What takes the encoder's tensors out of a checkpoint of the whole model."""
    return {"key_mapping": {r"^(model\.)?encoder\.": ""}}
