"""Speech and sound models of transformers: AST, wav2vec 2.0, HuBERT and WavLM."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import ASTFeatureExtractor, ASTModel, AutoModel

from skembed.backbones.base import AudioOptions, Backbone, Item, Tokens, check_waveform_options, split_windows
from skembed.backbones.blocks import blocks_from_layers, enter_behind, observe_layers, record_blocks
from skembed.backbones.models.audio_waveform import WaveformBackbone
from skembed.backbones.models.audio_whisper import open_whisper
from skembed.backbones.models.resuming import advance_each, collate_advanced
from skembed.backbones.models.transformers_loading import layer_names, load_pretrained, read_config, read_part
from skembed.backbones.spec import BackboneSpec
from skembed.backbones.weights.files import read_json
from skembed.exceptions import BackboneNotFoundError

__all__ = ["SpectrogramBackbone", "open_backbone"]


@dataclass(kw_only=True)
class SpectrogramBackbone(Backbone):
    """AST, a vision transformer on a spectrogram of fixed length.

    Lengths are in frames of 10 ms.

    Shorter clips are padded as in its training, and it has no mask: all patches count.

    Parameters
    ----------
    extractor : ASTFeatureExtractor
        Computes spectrograms.
    """

    extractor: Any

    #: Seconds of one analysis window of the filter bank, which reads nothing shorter.
    shortest: ClassVar[float] = 0.025
    batch_limit: ClassVar[int] = 8
    uses_pad_to_window: ClassVar[bool] = False

    @property
    def default_size(self) -> float:
        return self.extractor.max_length / 100

    def preprocess(self, samples: Sequence[np.ndarray], options: AudioOptions) -> list[list[Item]]:
        seconds = check_waveform_options(options or AudioOptions(), self.default_size)
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
        features = self.extractor(waveform, sampling_rate=self.sampling_rate, return_tensors="np")
        return Item({"spectrogram": features["input_values"][0]}, length=length)

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        if "hidden" in items[0].data:
            return collate_advanced(items)
        return {"input_values": torch.from_numpy(np.stack([item.data["spectrogram"] for item in items]))}

    def forward_blocks(self, batch: Mapping[str, Tensor], layers: Iterable[int]) -> list[Tokens]:
        layers = list(layers)
        top = len(self.blocks) - 1
        stack = [self.module.get_submodule(name) for name in self.layer_names]
        inputs = dict(batch)
        entered: AbstractContextManager = nullcontext()
        if "hidden" in batch:
            # The stem runs on one empty spectrogram.
            extractor = self.extractor
            inputs = {"input_values": batch["hidden"].new_zeros(1, extractor.max_length, extractor.num_mel_bins)}
            entered = enter_behind(stack, int(batch["block"]), batch["hidden"], beside=self.observed.beside)
        output = None
        with entered, record_blocks(stack, layers, stop=top not in layers) as found:
            output = self.module(**inputs)
        if output is not None:
            found[top] = output.last_hidden_state
        first = found[layers[0]]
        mask = torch.ones(first.shape[:2], dtype=torch.bool, device=first.device)
        return [Tokens(found[i], mask, 2, output.pooler_output if i == top else None) for i in layers]

    def advance(self, items: Sequence[Item], batch: Mapping[str, Tensor], blocks: Sequence[int]) -> list[list[Item]]:
        observe_layers(self, lambda: self.forward_blocks(batch, blocks))
        read = self.forward_blocks(batch, blocks)
        return advance_each(items, {block: tokens.values for block, tokens in zip(blocks, read, strict=True)})


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
    config = read_config(directory)
    if config.model_type == "whisper":
        return open_whisper(spec, directory, fingerprint)
    if config.model_type == "audio-spectrogram-transformer":
        return _open_ast(spec, directory, fingerprint)
    if config.model_type in ("wav2vec2", "hubert", "wavlm"):
        return _open_waveform(spec, directory, fingerprint, _bare(config))
    raise BackboneNotFoundError(
        f"backbone={spec.name!r} is a {config.model_type!r}; supported are wav2vec2, hubert, wavlm, whisper and "
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
        # The last norm is registered before the layers; networks that normalize first apply it after them.
        blocks=blocks_from_layers(module, names, top=("encoder.layer_norm",) if config.do_stable_layer_norm else ()),
        fingerprint=fingerprint,
        sampling_rate=preprocessor.get("sampling_rate", 16_000),
        transformer="encoder",
        projection="feature_projection",
        norm_first=config.do_stable_layer_norm,
        # A group norm runs over time.
        sees_padding=config.feat_extract_norm == "group",
        convolutions=convolutions,
        normalize_input=preprocessor.get("do_normalize", True),
    )


def _bare(config: Any) -> Any:
    """Return the configuration of the encoder, without masking and layer dropout in training."""
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
    extractor = read_part(ASTFeatureExtractor, directory, "feature extractor")
    return SpectrogramBackbone(
        spec=spec,
        module=module,
        width=config.hidden_size,
        blocks=blocks_from_layers(module, names),
        fingerprint=fingerprint,
        default_pooling="pooled",
        sampling_rate=extractor.sampling_rate,
        class_token=True,
        layer_names=names,
        extractor=extractor,
    )
