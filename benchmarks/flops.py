"""Operations of a network, counted over shapes alone: on the meta device nothing is computed."""

from __future__ import annotations

import functools
from pathlib import Path

__all__ = ["count_image", "count_text", "count_wav2vec", "count_whisper"]


@functools.cache
def count_text(directory: Path, tokens: int) -> int:
    """Operations for one text of so many tokens."""
    import torch

    ids = torch.zeros(1, tokens, dtype=torch.long, device="meta")
    return _count(_text_network(directory), input_ids=ids)


def count_image(directory: Path) -> int:
    """Operations for one image of the network's own size."""
    import timm
    import torch

    model = timm.create_model(f"local-dir:{directory}", pretrained=False, num_classes=0).eval().to("meta")
    size = timm.data.resolve_model_data_config(model)["input_size"]
    return _count(model, torch.empty(1, *size, device="meta"))


@functools.cache
def count_whisper(directory: Path, frames: int) -> int:
    """Operations for one clip of so many encoder frames."""
    import torch
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig.from_pretrained(directory, max_source_positions=frames)
    model = WhisperEncoder(config).eval().to("meta")
    return _count(model, torch.empty(1, config.num_mel_bins, 2 * frames, device="meta"))


@functools.cache
def count_wav2vec(directory: Path, samples: int) -> int:
    """Operations for one clip of so many samples."""
    import torch

    return _count(_wav2vec_network(directory), torch.empty(1, samples, device="meta"))


@functools.cache
def _text_network(directory: Path):
    from transformers import AutoConfig, AutoModel

    return AutoModel.from_config(AutoConfig.from_pretrained(directory)).eval().to("meta")


@functools.cache
def _wav2vec_network(directory: Path):
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    return Wav2Vec2Model(Wav2Vec2Config.from_pretrained(directory)).eval().to("meta")


def _count(model, *inputs, **named) -> int:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*inputs, **named)
    return counter.get_total_flops()
