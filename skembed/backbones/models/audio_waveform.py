"""Networks on raw waveforms, of transformers and torchaudio.

The convolutions run on each clip at its own length, since the group norm of many of these networks runs over time and
would see padding. The transformer runs on the frames of all clips packed behind one another, with attention, and the
convolution that gives positions, inside each clip. So a clip's features never depend on its batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, gelu, linear

from skembed.backbones.adapters import adapted
from skembed.backbones.base import AudioOptions, Backbone, Item, Tokens, check_waveform_options, split_windows
from skembed.backbones.blocks import first_tensor
from skembed.backbones.models.resuming import advance_each, join_advanced
from skembed.backbones.packing import Packed, attend

__all__ = ["WaveformBackbone", "shortest_input"]

#: Seconds that are read at once where the network sets no limit: attention grows with their square.
DEFAULT_WINDOW = 30.0


@dataclass(kw_only=True)
class WaveformBackbone(Backbone):
    """Network on raw waveforms: a convolutional front end and a transformer.

    Lengths are in samples.

    Parameters
    ----------
    transformer, projection : str
        Dotted names of the transformer, and of the module between it and the convolutions.
    convolutions : sequence of (int, int)
        Kernel and stride of each convolution.
    norm_first : bool
        True if layers normalize their input, and not their output.
    sees_padding : bool
        True if the features of the convolutions change with what follows a clip.
    normalize_input : bool
        True if a clip is scaled to mean 0 and variance 1.
    epsilon : float
        Added to the variance of a clip.
    """

    transformer: str
    projection: str
    convolutions: Sequence[tuple[int, int]]
    norm_first: bool
    sees_padding: bool
    normalize_input: bool
    epsilon: float = 1e-7

    # About 40 s of sound in a batch: more gained nothing on two cores.
    token_budget: ClassVar[int] = 2048 * 320
    uses_pad_to_window: ClassVar[bool] = False

    @property
    def default_size(self) -> float:
        return DEFAULT_WINDOW

    def preprocess(self, samples: Sequence[np.ndarray], options: AudioOptions) -> list[list[Item]]:
        seconds = check_waveform_options(options or AudioOptions(), self.default_size if not options.window else None)
        assert seconds is not None
        assert self.sampling_rate is not None
        size = int(seconds * self.sampling_rate)
        return [[self._item(window) for window in split_windows(sample, size)] for sample in samples]

    def _item(self, waveform: np.ndarray) -> Item:
        if self.normalize_input:
            waveform = (waveform - waveform.mean()) / np.sqrt(waveform.var() + self.epsilon)
        missing = shortest_input(self.convolutions) - len(waveform)
        if missing > 0:
            waveform = np.pad(waveform, (0, missing))
        return Item({"waveform": waveform.astype(np.float32)}, length=len(waveform))

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        if "hidden" in items[0].data:
            return {**join_advanced(items), "frames": torch.tensor([len(item.data["hidden"]) for item in items])}
        longest = max(item.length for item in items)
        waveforms = np.zeros((len(items), longest), dtype=np.float32)
        for row, item in enumerate(items):
            waveforms[row, : item.length] = item.data["waveform"]
        lengths = torch.tensor([item.length for item in items])
        return {"waveforms": torch.from_numpy(waveforms), "lengths": lengths}

    def forward_blocks(self, batch: Mapping[str, Tensor], layers: Iterable[int]) -> list[Tokens]:
        layers, top = list(layers), len(self.blocks) - 1
        transformer: Any = self.module.get_submodule(self.transformer)
        norm_first = self.norm_first
        start, hidden, packed = self._start(batch)
        found = {start: hidden}
        bias = _PositionBias(transformer.layers[0].attention, packed)
        # What lies above the last block that was asked for is not computed.
        for i in range(start + 1, max(layers) + 1):
            layer = transformer.layers[i - 1]
            found[i] = adapted(layer, _layer(layer, found[i - 1], packed, norm_first, bias))
            if i - 1 not in layers:
                del found[i - 1]
        if norm_first and top in layers:
            found[top] = transformer.layer_norm(found[top])
        values = {i: packed.pad(found[i]) for i in set(layers)}
        return [Tokens(values[i], packed.mask) for i in layers]

    def advance(self, items: Sequence[Item], batch: Mapping[str, Tensor], blocks: Sequence[int]) -> list[list[Item]]:
        read = self.forward_blocks(batch, blocks)
        frames = read[0].mask.sum(1).tolist()
        cut = ([row[:n] for row, n in zip(tokens.values, frames, strict=True)] for tokens in read)
        return advance_each(items, dict(zip(blocks, cut, strict=True)))

    def _start(self, batch: Mapping[str, Tensor]) -> tuple[int, Tensor, Packed]:
        """Return the block to resume behind, its output, and the place of each clip's frames."""
        if "hidden" in batch:
            hidden = batch["hidden"]
            return int(batch["block"]), hidden, Packed(batch["frames"].tolist(), hidden.device, exact=True)
        transformer: Any = self.module.get_submodule(self.transformer)
        projection: Any = self.module.get_submodule(self.projection)
        features, packed = self._front_end(batch["waveforms"], batch["lengths"].tolist())
        hidden = first_tensor(projection(features))
        hidden = hidden + _positions(transformer.pos_conv_embed, hidden, packed.lengths)
        if not self.norm_first:
            hidden = transformer.layer_norm(hidden)
        return 0, transformer.dropout(hidden), packed

    def _front_end(self, waveforms: Tensor, lengths: list[int]) -> tuple[Tensor, Packed]:
        """Return the features of all clips end to end, and where those of each are."""
        packed = Packed([self._count_frames(length) for length in lengths], waveforms.device, exact=True)
        # A group norm over time must never see padding; a layer norm need not care, and accelerators like one call.
        if packed.together and not self.sees_padding:
            return packed.unpad(self._convolve(waveforms)), packed
        parts, stop = [], 0
        for length, clips in itertools.groupby(lengths):
            start, stop = stop, stop + len(list(clips))
            parts.append(self._convolve(waveforms[start:stop, :length]).flatten(0, 1))
        return torch.cat(parts), packed

    def _convolve(self, waveforms: Tensor) -> Tensor:
        """Return features of shape (clips, frames, channels) of waveforms of one length."""
        module: Any = self.module
        return module.feature_extractor(waveforms).transpose(1, 2)

    def _count_frames(self, length: int) -> int:
        """Return the number of frames that the convolutions make of a number of samples."""
        for kernel, stride in self.convolutions:
            length = (length - kernel) // stride + 1
        return length


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


class _PositionBias:
    """WavLM's gated bias by relative position; nothing for the other networks.

    Only the first layer has the table. A position sees another by their distance alone, so that the table of the
    longest group begins with that of every shorter one.
    """

    def __init__(self, first_attention: Any, packed: Packed):
        self.table: Tensor | None = None
        if getattr(first_attention, "rel_attn_embed", None) is not None:
            longest = max(group.shape[1] for group in packed.groups)
            self.table = first_attention.compute_bias(longest, longest)

    def __call__(self, gate: Tensor) -> Tensor:
        assert self.table is not None
        length = gate.shape[1]
        return gate.transpose(1, 2).unsqueeze(-1) * self.table[:, :length, :length]

    def gate(self, attention: Any, rows: Tensor) -> Tensor | None:
        """Return the factor of the table for each row and head, of shape (rows, heads)."""
        if self.table is None:
            return None
        if not getattr(attention, "gru_rel_pos", True):
            return rows.new_ones(len(rows), attention.num_heads)
        projected = attention.gru_rel_pos_linear(rows.unflatten(-1, (attention.num_heads, -1)))
        a, b = torch.sigmoid(projected.unflatten(-1, (2, 4)).sum(-1)).unbind(-1)
        return a * (b * attention.gru_rel_pos_const.view(-1) - 1.0) + 2.0


def _positions(module: Any, hidden: Tensor, frames: Sequence[int]) -> Tensor:
    """Convolve packed rows over time in one call, with zeros as padding between clips."""
    if getattr(module, "batch_norm", None) is not None:  # mHuBERT's; after it, so that zeros stay zeros
        hidden = module.batch_norm(hidden)
    conv = module.conv
    gap = conv.padding[0]
    lengths = torch.tensor(frames)
    index = torch.arange(len(hidden)) + torch.repeat_interleave(torch.arange(len(frames)) * gap, lengths)
    index = index.to(hidden.device)
    spaced = hidden.new_zeros(len(hidden) + gap * len(frames), hidden.shape[1]).index_copy(0, index, hidden)
    # As an image of one row, channels last, which is faster by half in bfloat16 and lets rows stay as they lie.
    image = spaced.T[None, :, None]
    found = conv2d(image, conv.weight.unsqueeze(2), conv.bias, padding=(0, gap), groups=conv.groups)[0, :, 0]
    # An even kernel makes one frame too many, behind the last clip, which nothing asks for.
    return getattr(module, "activation", gelu)(found.T.index_select(0, index))


def _layer(layer: Any, hidden: Tensor, packed: Packed, norm_first: bool, bias: _PositionBias) -> Tensor:
    """Run a layer of either library on packed rows, with attention inside each clip."""
    attention = layer.attention
    rows = layer.layer_norm(hidden) if norm_first else hidden
    *projected, output = _projections(attention, rows)
    query, key, value = (x.unflatten(-1, (attention.num_heads, -1)) for x in projected)
    gate = bias.gate(attention, rows)
    mixed = attend(
        query,
        key,
        value,
        packed,
        bias=None if gate is None else bias,
        gate=gate,
        dropout=attention.dropout if attention.training else 0.0,
    )
    hidden = hidden + layer.dropout(output(mixed.flatten(1)))
    if not norm_first:
        hidden = layer.layer_norm(hidden)
        return layer.final_layer_norm(hidden + layer.feed_forward(hidden))
    hidden = hidden + layer.feed_forward(layer.final_layer_norm(hidden))
    adapter = getattr(layer, "adapter_layer", None)
    return hidden if adapter is None else hidden + adapter(hidden)


def _projections(attention: Any, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Any]:
    """Return queries, keys, values and the output projection."""
    inner = getattr(attention, "attention", None)
    if inner is not None:  # torchaudio's WavLM keeps all three in one
        query, key, value = linear(rows, inner.in_proj_weight, inner.in_proj_bias).chunk(3, -1)
        return query, key, value, inner.out_proj
    return attention.q_proj(rows), attention.k_proj(rows), attention.v_proj(rows), attention.out_proj
