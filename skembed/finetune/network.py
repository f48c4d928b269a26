"""Network that trains: a copy of a backbone, and a head."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from skembed.augment.mixing import Mix
from skembed.backbones.accelerate.mixed_precision import round_factors
from skembed.backbones.base import Backbone, Block, Item
from skembed.backbones.spec import TunedWeights, place_of
from skembed.backbones.tuning.method import Method
from skembed.backbones.tuning.weights import Weights
from skembed.finetune.activations import regroup
from skembed.finetune.convolutions import avoid_faulty_gradients
from skembed.finetune.groups import parameter_groups, trainable
from skembed.inference.extract import undisturbed
from skembed.inference.pooling import combine_layers, pool
from skembed.inference.reading import Reading
from skembed.probes.linear import Probe, Standardizer
from skembed.utils.device import move
from skembed.utils.seeding import seeded

__all__ = ["FrozenNetwork", "LinearHead", "Network"]


class LinearHead(nn.Module):
    """Linear layer on standardized features, with dropout before it.

    Parameters
    ----------
    standardizer : Standardizer
        Mean and scale of the frozen features, which do not train.
    probe : Probe
        Initial weights.
    dropout : float
        Share of the features that are dropped in training.
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
    """Head on fixed features, without a backbone: no block can train.

    Parameters
    ----------
    head : LinearHead
    """

    #: Number of blocks that can train.
    depth = 0

    def __init__(self, head: LinearHead):
        self.head = head

    @property
    def device(self) -> torch.device:
        return self.head.linear.weight.device

    def top(self, n_blocks: int) -> Sequence[Block]:
        """Return the highest blocks that can train, the lowest of them first."""
        return ()

    def unfreeze(self, n_blocks: int) -> None:
        """Let the highest blocks train and no others."""

    def train(self, mode: bool = True) -> None:
        """Switch the dropout of the parts that train; frozen parts never drop anything."""
        self.head.train(mode)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Return the parameters that train now, by the names that `state` uses."""
        for name, value in self.head.named_parameters():
            yield f"head.{name}", value

    def parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters that train now."""
        return (value for _, value in self.named_parameters())

    def distance(self) -> Tensor | None:
        """Return the squared distance from the pre-trained network; None if no block trains."""
        return None

    def optimizer_groups(self, n_blocks: int, **settings: Any) -> list[dict]:
        """See `skembed.finetune.groups.parameter_groups`."""
        return parameter_groups(nn.Module(), (), self.head, **settings)

    def state(self, n_blocks: int) -> dict[str, Tensor]:
        """Return tensors of the head and the highest blocks, with buffers, not as copies."""
        return {f"head.{name}": value for name, value in self.head.state_dict().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Load tensors that `state` returned; all others are reset to those of the base."""
        with torch.no_grad():
            for name, value in self.head.state_dict().items():
                value.copy_(state[f"head.{name}"])

    def changed(self) -> dict[str, Tensor]:
        """Return tensors of the backbone that differ from the base or are new."""
        return {}

    def outputs(self, features: Tensor) -> np.ndarray:
        """Return the head's outputs for features, float64, on the CPU."""
        return self.head(features).cpu().double().numpy()


class Network(FrozenNetwork):
    """Trainable copy of a backbone, with a head.

    Tensors that never train are shared with the base, so the copy needs memory for the others alone.

    Parameters
    ----------
    backbone : Backbone
        Backbone in float32, which is shared and not changed.
    reading : Reading
        Layers and pooling of the features.
    head : LinearHead
        Head on the features.
    n_features : int
        Number of leading features that a row keeps.
    normalize : bool
        If True, rows are scaled to length one.
    n_scaled : int, optional
        Number of leading features that have length one, if it is not `n_features`.
    method : Method, optional
        Method that selects what trains in a block; None for its weights.
    n_trainable : int, optional
        Largest number of blocks that will train, counted from the top; None for all.
    probe : sequence of Item
        Any input of the network, from which added modules take their shapes.
    seed : int
        Seed of added modules.
    mixed_precision : bool
        If True, the backbone's linear layers multiply in bfloat16 on processors that support it; see
        `skembed.backbones.accelerate.mixed_precision.round_factors`.
    """

    def __init__(
        self,
        backbone: Backbone,
        reading: Reading,
        head: LinearHead,
        *,
        n_features: int,
        normalize: bool,
        n_scaled: int | None = None,
        method: Method | None = None,
        n_trainable: int | None = None,
        probe: Sequence[Item] = (),
        seed: int = 0,
        mixed_precision: bool = False,
    ):
        self.base = self.backbone = backbone
        self.reading, self.method = reading, Weights() if method is None else method
        self.n_features, self.normalize, self.n_scaled = n_features, normalize, n_scaled or n_features
        blocks = self.top(self.depth if n_trainable is None else n_trainable)
        own = set(self.method.own(backbone.module, blocks))
        # Copied while another thread passes over its lower blocks, the network would pass over them for good.
        with undisturbed():
            module = copy.deepcopy(backbone.module, _shared(backbone.module, besides=own))
        self.backbone = replace(backbone, module=module)
        #: What was added, by name, for `TunedWeights.of`.
        self.added: dict[str, dict[str, Any]] = {}
        key = TunedWeights.next_name(backbone.spec.tuned)
        batch = move(self.backbone.collate(probe), self.device, torch.float32) if probe else {}
        if blocks:
            with seeded(seed, self.device):
                record = self.method.attach(self.backbone, blocks, key, batch)
            self.added = {} if record is None else {key: record}
        # After them: factors beside a strided convolution are strided convolutions as well.
        avoid_faulty_gradients(module)
        # What was added begins in training mode; a pass must drop nothing.
        module.eval()
        top = [max(reading.layers)]
        run = (lambda: self.backbone.forward_blocks(batch, top)[0].values) if probe else None
        #: Whether anything is rounded; where the processor does not, or no layer is linear, nothing is.
        self.mixed_precision = mixed_precision and round_factors(module, run)
        self._own = {
            _plain(name): value
            for name, value in module.state_dict().items()
            if _plain(name) in own or _addition(name) in self.added
        }
        base = backbone.module.state_dict()
        self._start = {name: base[name] if name in base else value.clone() for name, value in self._own.items()}
        super().__init__(head.to(self.device))
        self._training: list[nn.Module] = []
        self.freeze_all()

    @property
    def device(self) -> torch.device:
        return next(self.base.module.parameters()).device

    @property
    def depth(self) -> int:  # type: ignore[override]
        """Number of blocks that can train; blocks above the highest layer that is read have no effect."""
        return max(self.reading.layers) + 1

    def freeze_all(self) -> None:
        """Freeze all blocks: none trains, drops anything, or updates statistics of batches."""
        self.backbone.module.eval().requires_grad_(False)

    def top(self, n_blocks: int) -> Sequence[Block]:
        """Return the highest blocks that can train, the lowest of them first."""
        return self.backbone.blocks[self.depth - n_blocks : self.depth]

    def unfreeze(self, n_blocks: int) -> None:
        """Let the highest blocks train and no others."""
        self.freeze_all()
        module, blocks = self.backbone.module, self.top(n_blocks)
        for value in trainable(module, blocks, self._names).values():
            value.requires_grad_(True)
        # Batch normalizations keep the statistics of the pre-training, even where their weights train: those of
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
        """Return rows of prepared samples; the windows of a long one are averaged."""
        flat = [item for windows in samples for item in windows]
        rows = self._rows(move(self.backbone.collate(flat), self.device, torch.float32))
        return self._finished(_average(rows, samples) if len(flat) > len(samples) else rows)

    def activations(self, samples: Sequence[Sequence[Item]], boundaries: Sequence[int]) -> list[list[Sequence[Item]]]:
        """Return activations of prepared samples behind each of some blocks, as training computes them."""
        flat = [item for windows in samples for item in windows]
        batch = move(self.backbone.collate(flat), self.device, torch.float32)
        return [regroup(items, samples) for items in self.backbone.advance(flat, batch, boundaries)]

    def mixed_features(self, samples: Sequence[Sequence[Item]], mix: Mix) -> tuple[Tensor, float]:
        """Return rows of mixed inputs, and the share of each sample that stays.

        Inputs are pixels that were scaled and shifted by channel. Mixing commutes with that: an average of such pixels
        is the scaled average of the original pixels.
        """
        batch = move(self.backbone.collate([item for (item,) in samples]), self.device, torch.float32)
        if len(batch) > 1 or not all(values.is_floating_point() for values in batch.values()):
            read = ", ".join(f"{name} ({values.dtype})" for name, values in batch.items())
            raise ValueError(
                f"{self.backbone.spec.name} reads {read}, of which no mixture can be made: that takes one tensor of "
                "floats. Use mix=Mixup(on='features'), which mixes embeddings."
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
        if self.normalize:
            rows = nn.functional.normalize(rows[:, : self.n_scaled], dim=1)
        return rows[:, : self.n_features]

    # -- tensors ----------------------------------------------------------------------------------------

    @property
    def _names(self) -> set[str]:
        """Return the names of parameters that may train."""
        return {name for name, _ in self.backbone.module.named_parameters() if _plain(name) in self._own}

    def _trains(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, value in self.backbone.module.named_parameters():
            if value.requires_grad:
                yield _plain(name), value

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from super().named_parameters()
        for name, value in self._trains():
            yield f"backbone.{name}", value

    def distance(self) -> Tensor | None:
        pairs = [(name, value, self._start[name]) for name, value in self._trains()]
        record = next(iter(self.added.values()), {})
        return self.method.distance(pairs, record) if pairs else None

    def optimizer_groups(self, n_blocks: int, **settings: Any) -> list[dict]:
        module, blocks = self.backbone.module, self.top(n_blocks)
        return parameter_groups(module, blocks, self.head, among=self._names, **settings)

    def state(self, n_blocks: int) -> dict[str, Tensor]:
        blocks = self.top(n_blocks)
        mine = {f"backbone.{name}": v for name, v in self._own.items() if any(b.owns(name) for b in blocks)}
        return super().state(n_blocks) | mine

    def load(self, state: Mapping[str, Tensor]) -> None:
        super().load(state)
        with torch.no_grad():
            for name, value in self._own.items():
                value.copy_(state.get(f"backbone.{name}", self._start[name]))

    def changed(self) -> dict[str, Tensor]:
        found = {name for name, value in self._own.items() if not torch.equal(value, self._start[name])}
        # Of an addition all or nothing: LoRA's A may be where it began when B is not.
        hosts = {_host(name) for name in found}
        new = {name for name in self._own if _addition(name) in self.added and _host(name) in hosts}
        return {name: value for name, value in self._own.items() if name in found | new}


def _shared(module: nn.Module, besides: set[str]) -> dict[int, Tensor]:
    """Return the tensors that a copy shares with the base."""
    parameters, buffers = module.named_parameters(remove_duplicate=False), module.named_buffers(remove_duplicate=False)
    named = [*parameters, *buffers]
    copied = {id(value) for name, value in named if name in besides}
    return {id(value): value for _, value in named if id(value) not in copied}


def _plain(name: str) -> str:
    """Return the name of a tensor in the base; peft wraps modules in layers of its own."""
    return name.replace(".base_layer.", ".")


def _addition(name: str) -> str | None:
    place = place_of(name)
    return None if place is None else place.key


def _host(name: str) -> str:
    """Return the module that a tensor was added to, the same for both factors of LoRA."""
    place = place_of(name)
    return name if place is None else place.host.removesuffix(".lora_A").removesuffix(".lora_B")


def _average(rows: Tensor, samples: Sequence[Sequence[Item]]) -> Tensor:
    """Return one row per sample from one per window, weighted by their real lengths."""
    owner = torch.tensor([i for i, windows in enumerate(samples) for _ in windows], device=rows.device)
    lengths = [[max(item.length, 1) for item in windows] for windows in samples]
    shares = torch.tensor([n / sum(own) for own in lengths for n in own], device=rows.device, dtype=rows.dtype)
    averaged = rows.new_zeros(len(samples), rows.shape[1])
    return averaged.index_add(0, owner, rows * shares.unsqueeze(1))
