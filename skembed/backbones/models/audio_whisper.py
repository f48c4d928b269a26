"""Encoder of Whisper, on 30 s as in its training or on a clip's own length."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import dropout, gelu
from transformers import WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from skembed.backbones.adapters import adapted
from skembed.backbones.base import AudioOptions, Backbone, Item, Tokens, check_waveform_options, split_windows
from skembed.backbones.blocks import blocks_from_layers
from skembed.backbones.models.resuming import advanced, join_advanced
from skembed.backbones.models.transformers_loading import load_pretrained, read_config, read_part
from skembed.backbones.packing import Packed, attend
from skembed.backbones.spec import BackboneSpec

__all__ = ["LogMel", "WhisperBackbone", "open_whisper", "whole_frames"]

#: Samples behind one position of the encoder: a hop of 160, halved by the second convolution.
_SAMPLES_PER_FRAME = 320
#: Frames of silence behind what a clip reaches: one that sees the clip, one in silence, one at the end of the 30 s.
_SILENT_FRAMES = 3


#: Rows that go through the network together on a CPU: more fall out of its caches.
_CPU_ROWS = 2048


@dataclass(kw_only=True)
class WhisperBackbone(Backbone):
    """Whisper's encoder and its log-mel front end.

    Lengths are in encoder frames of 20 ms.

    `forward_blocks` returns what is real of each clip. Of a clip padded to 30 s the silence is computed and attended
    to, as in training, up to the last block that is read, in which nobody attends to its positions any more.

    Parameters
    ----------
    front_end : LogMel
        Computes spectrograms.
    n_positions : int
        Frames that the encoder reads at most.
    """

    front_end: LogMel
    n_positions: int

    @property
    def default_size(self) -> float:
        assert self.sampling_rate is not None
        return self.n_positions * _SAMPLES_PER_FRAME / self.sampling_rate

    def preprocess(self, samples: Sequence[np.ndarray], options: AudioOptions) -> list[list[Item]]:
        options = options or AudioOptions()
        assert self.sampling_rate is not None
        seconds = check_waveform_options(options, self.default_size)
        assert seconds is not None
        size = int(seconds * self.sampling_rate)
        return [
            [self._item(window, options.pad_to_window) for window in split_windows(sample, size)] for sample in samples
        ]

    def _item(self, waveform: np.ndarray, pad_to_window: bool) -> Item:
        front_end, n_positions = self.front_end, self.n_positions
        real = frames = whole_frames(len(waveform))
        if pad_to_window:
            # The clip, as much silence as one analysis window sees, and as much as the convolutions do: all that is
            # left of 30 s repeats it.
            frames = min(whole_frames(len(waveform) + front_end.n_fft) + _SILENT_FRAMES, n_positions)
        # Whole frames, so that the second convolution never looks past a clip's end.
        mel = front_end(np.pad(waveform, (0, frames * _SAMPLES_PER_FRAME - len(waveform))))
        return Item({"mel": mel, "attended": n_positions if pad_to_window else frames}, length=real)

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        """Join clips without padding, or padded with silence to 30 s each."""
        lengths = {
            "real": torch.tensor([item.length for item in items]),
            "attended": torch.tensor([item.data["attended"] for item in items]),
        }
        if "hidden" in items[0].data:
            return {**join_advanced(items), **lengths}
        mels = [item.data["mel"] for item in items]
        attended = [item.data["attended"] for item in items]
        mel = np.zeros((len(items), mels[0].shape[0], max(own.shape[1] for own in mels)), dtype=np.float32)
        for row, own in enumerate(mels):
            mel[row, :, : own.shape[1]] = own
            mel[row, :, own.shape[1] : 2 * attended[row]] = own[:, -1:]
        return {"mel": torch.from_numpy(mel), **lengths}

    def forward_blocks(self, batch: Mapping[str, Tensor], layers: Iterable[int]) -> list[Tokens]:
        layers = list(layers)
        real = batch["real"].tolist()
        parts = [self._encode(*start, real[part], attended, layers) for part, attended, start in self._starts(batch)]
        packed = Packed(real, parts[0][layers[0]].device)
        values = {i: packed.pad(torch.cat([part[i] for part in parts])) for i in set(layers)}
        return [Tokens(values[i], packed.mask) for i in layers]

    def advance(self, items: Sequence[Item], batch: Mapping[str, Tensor], blocks: Sequence[int]) -> list[list[Item]]:
        """Keep all attended rows, silence included, since the next block attends to it."""
        encoder: Any = self.module
        done: dict[int, list[Item]] = {block: [] for block in blocks}
        for _, attended, (start, hidden) in self._starts(batch):
            packed = Packed(attended, hidden.device, exact=True)
            for i in range(start, max(blocks) + 1):
                if i > start:
                    hidden = _layer(encoder.layers[i - 1], hidden, packed, packed)
                if i in done:
                    for row in hidden.split(attended):
                        done[i].append(advanced(items[len(done[i])], i, row, keep=("attended",)))
        return [done[block] for block in blocks]

    def _starts(self, batch: Mapping[str, Tensor]) -> Iterator[tuple[slice, list[int], tuple[int, Tensor]]]:
        """Yield clips that run together, their numbers of attended rows, and where they start.

        The start is a block and its packed output.
        """
        values = batch["hidden"] if "hidden" in batch else batch["mel"]
        attended = batch["attended"].tolist()
        room = _CPU_ROWS if values.device.type == "cpu" else sum(attended)
        for part in _consecutive(attended, room):
            own = attended[part]
            if "hidden" in batch:
                yield part, own, (int(batch["block"]), torch.cat(values.split(attended)[part]))
            else:
                yield part, own, (0, self._stem(values[part, :, : 2 * max(own)], own))

    def _encode(
        self, start: int, hidden: Tensor, real: list[int], attended: list[int], layers: list[int]
    ) -> dict[int, Tensor]:
        """Return the real rows of the requested blocks, packed."""
        encoder: Any = self.module
        top, deepest = len(self.blocks) - 1, max(layers)
        packed = Packed(attended, hidden.device, exact=True)
        heard = packed.first(real)
        found = {start: packed.take_first(hidden, real)} if start in layers else {}
        for i in range(start + 1, deepest + 1):
            hidden = _layer(encoder.layers[i - 1], hidden, packed, heard if i == deepest else packed)
            if i in layers:
                found[i] = hidden if i == deepest else packed.take_first(hidden, real)
        if top in found:
            found[top] = encoder.layer_norm(found[top])
        return found

    def _stem(self, mel: Tensor, attended: list[int]) -> Tensor:
        """Return the convolved and positioned features of all attended frames, packed."""
        encoder: Any = self.module
        hidden = gelu(encoder.conv2(gelu(encoder.conv1(mel)))).transpose(1, 2)
        longest = max(attended)
        missing = longest - hidden.shape[1]
        if missing > 0:
            # Silence repeats: only the last frame, beside the end of the 30 s, differs.
            hidden = torch.cat([hidden[:, :-1], hidden[:, -2:-1].expand(-1, missing, -1), hidden[:, -1:]], dim=1)
        hidden = hidden + encoder.embed_positions.weight[:longest]
        if min(attended) == longest:
            return hidden.flatten(0, 1)
        return torch.cat([hidden[row, :length] for row, length in enumerate(attended)])


def _layer(layer: Any, hidden: Tensor, packed: Packed, heard: Packed) -> Tensor:
    """Run a layer on packed rows with attention inside each clip, on attended rows only."""
    attention = layer.self_attn
    rows = layer.self_attn_layer_norm(hidden)
    key, value = attention.k_proj(rows), attention.v_proj(rows)
    hidden, rows = (packed.take_first(x, heard.lengths) for x in (hidden, rows))
    projected = (attention.q_proj(rows), key, value)
    query, key, value = (x.unflatten(-1, (attention.num_heads, -1)) for x in projected)
    mixed = attend(query, key, value, packed, queries=heard, dropout=attention.dropout if layer.training else 0.0)
    hidden = hidden + dropout(attention.out_proj(mixed.flatten(1)), layer.dropout, layer.training)
    rows = layer.activation_fn(layer.fc1(layer.final_layer_norm(hidden)))
    rows = layer.fc2(dropout(rows, layer.activation_dropout, layer.training))
    hidden = hidden + dropout(rows, layer.dropout, layer.training)
    if hidden.dtype == torch.float16:
        limit = torch.finfo(hidden.dtype).max - 1000
        hidden = hidden.clamp(-limit, limit)
    return adapted(layer, hidden)


def _consecutive(sizes: Sequence[int], room: int) -> list[slice]:
    """Return slices of neighbors that fit into the room together; a larger one is alone.

    Examples
    --------
    >>> _consecutive([5, 4, 3, 9], 8)
    [slice(0, 1, None), slice(1, 3, None), slice(3, 4, None)]
    """
    starts, filled = [0], 0
    for i, size in enumerate(sizes):
        if i > starts[-1] and filled + size > room:
            starts.append(i)
            filled = 0
        filled += size
    return [slice(a, b) for a, b in itertools.pairwise([*starts, len(sizes)])]


class LogMel:
    """Log-mel spectrogram of `WhisperFeatureExtractor` for one clip, at its own length.

    No call changes it, so threads may share it.

    Parameters
    ----------
    extractor : WhisperFeatureExtractor
        Source of the settings.
    """

    def __init__(self, extractor: WhisperFeatureExtractor):
        self.n_fft = extractor.n_fft
        self.hop_length = extractor.hop_length
        self.window = torch.hann_window(self.n_fft)
        self.filters = torch.from_numpy(extractor.mel_filters).float().T.contiguous()

    def __call__(self, waveform: np.ndarray) -> np.ndarray:
        """Return the spectrogram as float32 of shape (mels, samples // hop)."""
        samples = torch.from_numpy(waveform).float()
        spectrum = torch.stft(samples, self.n_fft, self.hop_length, window=self.window, return_complex=True)
        power = torch.view_as_real(spectrum[..., :-1]).square().sum(-1)
        decades = (self.filters @ power).clamp_(min=1e-10).log10_()
        return ((torch.maximum(decades, decades.max() - 8.0) + 4.0) / 4.0).numpy()


def whole_frames(n_samples: int) -> int:
    """Return the number of encoder frames for a number of samples.

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
    config = read_config(directory)
    extractor = read_part(WhisperFeatureExtractor, directory, "feature extractor")
    module = load_pretrained(WhisperEncoder, directory, **_key_mapping(directory))
    names = [f"layers.{i}" for i in range(config.encoder_layers)]
    return WhisperBackbone(
        spec=spec,
        module=module,
        width=config.d_model,
        blocks=blocks_from_layers(module, names),
        fingerprint=fingerprint,
        sampling_rate=extractor.sampling_rate,
        front_end=LogMel(extractor),
        n_positions=config.max_source_positions,
    )


def _key_mapping(directory: Path) -> dict[str, Any]:
    """Return the mapping that takes the encoder's tensors out of a whole checkpoint."""
    return {"key_mapping": {r"^(model\.)?encoder\.": ""}}
