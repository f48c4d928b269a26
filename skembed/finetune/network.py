"""A backbone of one's own, and a head on it: what is trained."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from skembed.augment.mixing import Mix
from skembed.backbones.base import Backbone, Block, Item
from skembed.engine.device import move
from skembed.engine.extract import undisturbed
from skembed.engine.pooling import combine_layers, pool
from skembed.engine.reading import Reading
from skembed.finetune.convolutions import avoid_faulty_gradients
from skembed.finetune.groups import parameter_groups, trainable
from skembed.finetune.probe import Probe, Standardizer

__all__ = ["FrozenNetwork", "Head", "Network"]


class Head(nn.Module):
    """A linear layer on standardised features, with dropout before it.

    Parameters
    ----------
    standardizer : Standardizer
        Of the frozen features; it stays as it is.
    probe : Probe
        Where the layer begins.
    dropout : float
        Share of the features that are left out at each step of training.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, standardizer: Standardizer, probe: Probe, dropout: float = 0.0):
        super().__init__()
        self.register_buffer("mean", torch.tensor(standardizer.mean, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(standardizer.scale, dtype=torch.float32))
        self.dropout = nn.Dropout(dropout)
        # Not drawn first: that would move torch's random state, which is the user's.
        self.linear = nn.utils.skip_init(nn.Linear, probe.weight.shape[1], probe.weight.shape[0])
        with torch.no_grad():
            self.linear.weight.copy_(torch.from_numpy(probe.weight))
            self.linear.bias.copy_(torch.from_numpy(probe.bias))

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(self.dropout((features - self.mean) / self.scale))


class FrozenNetwork:
    """A head on features that are known: no block can train, so the backbone is not even here.

    Parameters
    ----------
    head : Head
    """

    #: Blocks that can train.
    depth = 0

    def __init__(self, head: Head):
        self.head = head

    @property
    def device(self) -> torch.device:
        return self.head.linear.weight.device

    def top(self, n_blocks: int) -> Sequence[Block]:
        """The highest blocks that can train, the lowest of them first."""
        return ()

    def unfreeze(self, n_blocks: int) -> None:
        """Let the highest blocks train and no others."""

    def train(self, mode: bool = True) -> None:
        """Whether what trains drops features. Frozen parts never do."""
        self.head.train(mode)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What trains now, by the names that `state` uses."""
        for name, value in self.head.named_parameters():
            yield f"head.{name}", value

    def parameters(self) -> Iterator[nn.Parameter]:
        """What trains now."""
        return (value for _, value in self.named_parameters())

    def pretrained(self) -> list[tuple[nn.Parameter, Tensor]]:
        """The backbone's parameters that train now, each with its value before all training."""
        return []

    def optimizer_groups(self, n_blocks: int, **settings: float) -> list[dict]:
        """See `skembed.finetune.groups.parameter_groups`."""
        return parameter_groups(nn.Module(), (), self.head, **settings)

    def state(self, n_blocks: int) -> dict[str, Tensor]:
        """The head's tensors and those of the highest blocks, buffers included, as they are now (not copies)."""
        return {f"head.{name}": value for name, value in self.head.state_dict().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take tensors that `state` gave; of the backbone, all others are those of the base again."""
        with torch.no_grad():
            for name, value in self.head.state_dict().items():
                value.copy_(state[f"head.{name}"])

    def changed(self) -> dict[str, Tensor]:
        """The tensors of the backbone that are no longer those of the base."""
        return {}

    def outputs(self, features: Tensor) -> np.ndarray:
        """What the head makes of features, float64, on the CPU."""
        return self.head(features).double().cpu().numpy()


class Network(FrozenNetwork):
    """A copy of a backbone that may be trained, and its head.

    Parameters
    ----------
    backbone : Backbone
        Loaded in float32 and shared; it stays as it is.
    reading : Reading
        Layers and pooling.
    head : Head
        On the features that are read.
    n_features : int
        Leading features of a row that are kept.
    normalize : bool
        Whether rows are scaled to length one.
    """

    def __init__(self, backbone: Backbone, reading: Reading, head: Head, *, n_features: int, normalize: bool):
        self.base = backbone
        # Copied while another thread passes over its lower blocks, the network would pass over them for good.
        with undisturbed():
            self.backbone = replace(backbone, module=copy.deepcopy(backbone.module))
        avoid_faulty_gradients(self.backbone.module)
        self.reading = reading
        super().__init__(head.to(self.device))
        self.n_features, self.normalize = n_features, normalize
        self._training: list[nn.Module] = []
        self.freeze_all()

    @property
    def device(self) -> torch.device:
        return next(self.backbone.module.parameters()).device

    @property
    def depth(self) -> int:  # type: ignore[override]
        """Blocks that can train: what lies above the highest layer that is read is never computed to any end."""
        return max(self.reading.layers) + 1

    def freeze_all(self) -> None:
        """No block trains, and none drops anything or remembers batches."""
        self.backbone.module.eval().requires_grad_(False)

    def top(self, n_blocks: int) -> Sequence[Block]:
        """The highest blocks that can train, the lowest of them first."""
        return self.backbone.blocks[self.depth - n_blocks : self.depth]

    def unfreeze(self, n_blocks: int) -> None:
        """Let the highest blocks train and no others."""
        self.freeze_all()
        module, blocks = self.backbone.module, self.top(n_blocks)
        for value in trainable(module, blocks).values():
            value.requires_grad_(True)
        # Batch normalisations go on with the statistics of the pre-training, even where their weights train: those of
        # a few small batches are another network, with several times the loss that the probe has.
        self._training = [
            sub
            for name, sub in module.named_modules()
            if any(block.owns(name) for block in blocks) and not isinstance(sub, _BatchNorm)
        ]

    def train(self, mode: bool = True) -> None:
        super().train(mode)
        for sub in self._training:
            sub.training = mode

    def features(self, samples: Sequence[Sequence[Item]]) -> Tensor:
        """Rows of shape (n_samples, n_features) of prepared samples; the windows of a long one are averaged."""
        flat = [item for windows in samples for item in windows]
        rows = self._rows(move(self.backbone.collate(flat), self.device, torch.float32))
        return self._finished(_average(rows, samples) if len(flat) > len(samples) else rows)

    def mixed_features(self, samples: Sequence[Sequence[Item]], mix: Mix) -> tuple[Tensor, float]:
        """Rows of samples of one item that are mixed before they enter, and the share of each that stays.

        What enters has been scaled and shifted by channel, as the network wants it. An average of such pixels is what
        becomes of the average of the pixels themselves, and a rectangle of them what becomes of the rectangle.
        """
        batch = move(self.backbone.collate([item for (item,) in samples]), self.device, torch.float32)
        if len(batch) > 1 or not all(values.is_floating_point() for values in batch.values()):
            read = ", ".join(f"{name} ({values.dtype})" for name, values in batch.items())
            raise ValueError(
                f"{self.backbone.spec.name} reads {read}, of which no mixture can be made: that takes one tensor of "
                "floats. Use mixup with mixup_on='features', which mixes embeddings, and cutmix=0."
            )
        ((name, values),) = batch.items()
        mixed, share = mix(values)
        return self._finished(self._rows({name: mixed})), share

    def _rows(self, batch: Mapping[str, Tensor]) -> Tensor:
        tokens = self.backbone.forward_blocks(batch, self.reading.layers)
        attention = self.reading.pooling == "layer_attention"
        pooling = self.backbone.default_pooling if attention else self.reading.pooling
        return combine_layers([pool(each, pooling) for each in tokens], attention=attention)

    def _finished(self, rows: Tensor) -> Tensor:
        rows = rows[:, : self.n_features]
        return nn.functional.normalize(rows, dim=1) if self.normalize else rows

    # -- tensors ----------------------------------------------------------------------------------------

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from super().named_parameters()
        for name, value in self.backbone.module.named_parameters():
            if value.requires_grad:
                yield f"backbone.{name}", value

    def pretrained(self) -> list[tuple[nn.Parameter, Tensor]]:
        base = dict(self.base.module.named_parameters())
        return [(p, base[name]) for name, p in self.backbone.module.named_parameters() if p.requires_grad]

    def optimizer_groups(self, n_blocks: int, **settings: float) -> list[dict]:
        return parameter_groups(self.backbone.module, self.top(n_blocks), self.head, **settings)

    def state(self, n_blocks: int) -> dict[str, Tensor]:
        blocks = self.top(n_blocks)
        own = self.backbone.module.state_dict()
        mine = {f"backbone.{name}": value for name, value in own.items() if any(b.owns(name) for b in blocks)}
        return super().state(n_blocks) | mine

    def load(self, state: Mapping[str, Tensor]) -> None:
        super().load(state)
        base = self.base.module.state_dict()
        with torch.no_grad():
            for name, value in self.backbone.module.state_dict().items():
                value.copy_(state.get(f"backbone.{name}", base[name]))

    def changed(self) -> dict[str, Tensor]:
        base = self.base.module.state_dict()
        return {name: v for name, v in self.backbone.module.state_dict().items() if not torch.equal(v, base[name])}


def _average(rows: Tensor, samples: Sequence[Sequence[Item]]) -> Tensor:
    """One row a sample out of one a window, weighted by their real lengths, as embedders do."""
    owner = torch.tensor([i for i, windows in enumerate(samples) for _ in windows], device=rows.device)
    lengths = [[max(item.length, 1) for item in windows] for windows in samples]
    shares = torch.tensor([n / sum(own) for own in lengths for n in own], device=rows.device, dtype=rows.dtype)
    averaged = rows.new_zeros(len(samples), rows.shape[1])
    return averaged.index_add(0, owner, rows * shares.unsqueeze(1))
