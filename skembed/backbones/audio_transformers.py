"""Speech and sound models of transformers: wav2vec 2.0, HuBERT, WavLM, AST; Whisper has a module of its own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import ASTFeatureExtractor, ASTModel, AutoConfig, AutoModel

from skembed.backbones.audio_whisper import open_whisper
from skembed.backbones.base import (
    AudioOptions,
    Backbone,
    BackboneSpec,
    Item,
    Tokens,
    check_waveform_options,
    split_windows,
)
from skembed.backbones.blocks import blocks_from_layers, record_blocks
from skembed.backbones.transformers_loading import layer_names, load_pretrained, quiet
from skembed.backbones.weights import read_json
from skembed.exceptions import BackboneNotFoundError

__all__ = ["SpectrogramBackbone", "WaveformBackbone", "open_backbone"]

#: Seconds that are read at once where the network sets no limit: attention grows with their square.
DEFAULT_WINDOW = 30.0


class WaveformBackbone(Backbone):
    """A network on raw waveforms: a convolutional front end and a transformer. Lengths are in samples."""

    # About 80 s of sound in a batch.
    token_budget: ClassVar[int] = 4096 * 320

    def preprocess(self, samples: Sequence[np.ndarray], options: AudioOptions) -> list[list[Item]]:
        seconds = check_waveform_options(options or AudioOptions(), DEFAULT_WINDOW if not options.window else None)
        assert seconds is not None
        assert self.sampling_rate is not None
        size = int(seconds * self.sampling_rate)
        return [[self._item(window) for window in split_windows(sample, size)] for sample in samples]

    def _item(self, waveform: np.ndarray) -> Item:
        if self.extra["normalize_input"]:
            waveform = (waveform - waveform.mean()) / np.sqrt(waveform.var() + self.extra.get("epsilon", 1e-7))
        if len(waveform) < self.extra["shortest"]:
            waveform = np.pad(waveform, (0, self.extra["shortest"] - len(waveform)))
        return Item({"waveform": waveform.astype(np.float32)}, length=len(waveform))

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        longest = max(item.length for item in items)
        if not self.pads and any(item.length != longest for item in items):
            raise RuntimeError(
                f"Internal error: clips of {min(item.length for item in items)} to {longest} samples in one batch of "
                f"{self.spec.name}, whose normalisation would see the padding. Batch only equal lengths together."
            )
        waveforms = np.zeros((len(items), longest), dtype=np.float32)
        for row, item in enumerate(items):
            waveforms[row, : item.length] = item.data["waveform"]
        lengths = torch.tensor([item.length for item in items])
        return {"waveforms": torch.from_numpy(waveforms), "lengths": lengths}

    def forward_blocks(self, batch: Mapping[str, Tensor], layers: Iterable[int]) -> list[Tokens]:
        layers = list(layers)
        top = len(self.blocks) - 1
        stack = [self.module.get_submodule(name) for name in self.extra["layers"]]
        with record_blocks(stack, layers) as found:
            found[top] = self._run(batch["waveforms"], batch["lengths"])
        frames = self._frames(batch["lengths"])
        mask = torch.arange(found[top].shape[1], device=frames.device) < frames.unsqueeze(1)
        return [Tokens(found[i], mask) for i in layers]

    def _run(self, waveforms: Tensor, lengths: Tensor) -> Tensor:
        """The network's own output; padding is masked where a batch has any."""
        mask = None
        if self.pads:
            mask = (torch.arange(waveforms.shape[1], device=lengths.device) < lengths.unsqueeze(1)).long()
        return self.module(waveforms, attention_mask=mask).last_hidden_state

    def _frames(self, lengths: Tensor) -> Tensor:
        """Frames that the convolutions make of so many samples."""
        for kernel, stride in self.extra["convolutions"]:
            lengths = torch.div(lengths - kernel, stride, rounding_mode="floor") + 1
        return lengths


def shortest_input(convolutions: Sequence[tuple[int, int]]) -> int:
    """Fewest samples that give one frame.

    Examples
    --------
    >>> shortest_input([(10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2)])
    400
    """
    samples = 1
    for kernel, stride in reversed(convolutions):
        samples = (samples - 1) * stride + kernel
    return samples


class SpectrogramBackbone(Backbone):
    """AST: a vision transformer on a filter-bank spectrogram of fixed length. Lengths are in frames of 10 ms.

    Shorter clips are padded as in its training, and it has no mask: all patches count.
    """

    #: Seconds of one analysis window of the filter bank, which reads nothing shorter.
    shortest: ClassVar[float] = 0.025
    batch_limit: ClassVar[int] = 8

    def preprocess(self, samples: Sequence[np.ndarray], options: AudioOptions) -> list[list[Item]]:
        frames = self.extra["extractor"].max_length
        seconds = check_waveform_options(options or AudioOptions(), frames / 100)
        assert seconds is not None
        assert self.sampling_rate is not None
        size = int(seconds * self.sampling_rate)
        return [[self._item(window) for window in split_windows(sample, size)] for sample in samples]

    def _item(self, waveform: np.ndarray) -> Item:
        assert self.sampling_rate is not None
        length = -(-len(waveform) * 100 // self.sampling_rate)
        missing = math.ceil(self.shortest * self.sampling_rate) - len(waveform)
        if missing > 0:
            waveform = np.pad(waveform, (0, missing))
        features = self.extra["extractor"](waveform, sampling_rate=self.sampling_rate, return_tensors="np")
        return Item({"spectrogram": features["input_values"][0]}, length=length)

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        return {"input_values": torch.from_numpy(np.stack([item.data["spectrogram"] for item in items]))}

    def forward_blocks(self, batch: Mapping[str, Tensor], layers: Iterable[int]) -> list[Tokens]:
        layers = list(layers)
        top = len(self.blocks) - 1
        stack = [self.module.get_submodule(name) for name in self.extra["layers"]]
        with record_blocks(stack, layers) as found:
            output = self.module(**batch)
        found[top] = output.last_hidden_state
        mask = torch.ones(found[top].shape[:2], dtype=torch.bool, device=found[top].device)
        return [Tokens(found[i], mask, 2, output.pooler_output if i == top else None) for i in layers]


def open_backbone(spec: BackboneSpec, directory: Path, fingerprint: str) -> Backbone:
    """Read a speech or sound model from a directory that `save_pretrained` wrote.

    Parameters
    ----------
    spec : BackboneSpec
        Its identity.
    directory : Path
        With config.json and safetensors.
    fingerprint : str
        Digest of the directory.

    Raises
    ------
    BackboneNotFoundError
        If the family is none of ours, or weights are missing.
    """
    with quiet():
        config = AutoConfig.from_pretrained(directory, local_files_only=True)
    if config.model_type == "whisper":
        return open_whisper(spec, directory, fingerprint)
    if config.model_type == "audio-spectrogram-transformer":
        return _open_ast(spec, directory, fingerprint)
    if config.model_type in ("wav2vec2", "hubert", "wavlm"):
        return _open_waveform(spec, directory, fingerprint, _bare(config))
    raise BackboneNotFoundError(
        f"{directory} is a {config.model_type!r}; supported are wav2vec2, hubert, wavlm, whisper and "
        "audio-spectrogram-transformer."
    )


def _open_waveform(spec: BackboneSpec, directory: Path, fingerprint: str, config: Any) -> WaveformBackbone:
    module = load_pretrained(AutoModel, directory, config=config)
    names = [f"encoder.layers.{i}" for i in range(config.num_hidden_layers)]
    preprocessor = read_json(directory / "preprocessor_config.json")
    convolutions = list(zip(config.conv_kernel, config.conv_stride, strict=True))
    return WaveformBackbone(
        spec=spec,
        module=module,
        width=config.hidden_size,
        # The last norm is registered before the layers; networks that normalise first apply it after them.
        blocks=blocks_from_layers(module, names, top=("encoder.layer_norm",) if config.do_stable_layer_norm else ()),
        fingerprint=fingerprint,
        # A group norm over time sees padding, and a batch norm before the positions' convolution turns its zeros
        # into something else: then only clips of equal length may share a batch.
        pads=config.feat_extract_norm != "group" and not getattr(config, "conv_pos_batch_norm", False),
        sampling_rate=preprocessor.get("sampling_rate", 16_000),
        extra={
            "layers": names,
            "convolutions": convolutions,
            "shortest": shortest_input(convolutions),
            "normalize_input": preprocessor.get("do_normalize", True),
        },
    )


def _bare(config: Any) -> Any:
    """The configuration of the encoder alone, which masks no time and drops no layers, even in training mode."""
    config.apply_spec_augment = False
    config.layerdrop = 0.0
    # Without masking there is no mask vector, which many fine-tuned checkpoints lack.
    config.mask_time_prob = config.mask_feature_prob = 0.0
    # An adapter shortens time for the decoder of a translator.
    config.add_adapter = False
    return config


def _open_ast(spec: BackboneSpec, directory: Path, fingerprint: str) -> SpectrogramBackbone:
    module = load_pretrained(ASTModel, directory)
    config: Any = module.config
    names = layer_names(module, config.num_hidden_layers)
    with quiet():
        extractor = ASTFeatureExtractor.from_pretrained(directory, local_files_only=True)
    return SpectrogramBackbone(
        spec=spec,
        module=module,
        width=config.hidden_size,
        blocks=blocks_from_layers(module, names),
        fingerprint=fingerprint,
        default_pooling="pooled",
        sampling_rate=extractor.sampling_rate,
        class_token=True,
        extra={"layers": names, "extractor": extractor},
    )
