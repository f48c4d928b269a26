"""What image backbones share: batches made in one pass, and a copy of the network that is faster at inference."""

from __future__ import annotations

import copy
import operator
import threading
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from skembed.backbones.advanced import advance_each, collate_advanced
from skembed.backbones.base import Backbone, Item, Tokens
from skembed.backbones.blocks import enter_behind, observe_layers
from skembed.backbones.convolution import convolve_by_onednn
from skembed.backbones.folding import Pair, find_pairs, fold_pairs, folded
from skembed.backbones.linear import multiply_plainly
from skembed.engine.device import is_device_fault

if TYPE_CHECKING:
    from skembed.backbones.compiled import CompiledForward
    from skembed.backbones.image_prepare import ImagePreparation

__all__ = ["ImageBackbone", "InferenceCopies", "Watch"]

#: ViTs have one convolution, Swin another between stages; networks with so many are convolutional throughout.
_MANY_CONVOLUTIONS = 4

#: Where a copy was seen to be faster, or is known to be.
_DEVICES = ("cpu", "cuda")


#: Weight and bias of a convolution.
Weights = tuple[Tensor, Tensor]


@dataclass(kw_only=True)
class ImageBackbone(Backbone):
    """A network that reads RGB images of one size.

    `module` is the network as it was trained, and is what fine-tuning copies. Under `torch.inference_mode` another
    runs: a copy whose batch normalisations are folded into its convolutions, which are laid out channels last and for
    oneDNN, or one that OpenVINO compiled. Its layers are the same to the rounding of a float.

    Parameters
    ----------
    prepare : ImagePreparation
        Resizes, crops and scales images.
    own_size : int, optional
        Side in pixels of the images that it reads by default; None where no number gives the same rows.
    channels_last : bool
        Whether the network computes on pixels with adjacent channels; set by `prepare_inference`, like the next two.
    copies : InferenceCopies, optional
        Networks for inference, shared with networks that were trained from this one.
    compiled : CompiledForward, optional
        The network as OpenVINO runs it.
    """

    prepare: ImagePreparation
    own_size: int | None = None
    channels_last: bool = False
    copies: InferenceCopies | None = None
    compiled: CompiledForward | None = None

    @property
    def least_size(self) -> tuple[int, int] | None:
        return self.prepare.least_size

    @property
    def batch_limit(self) -> int:  # type: ignore[override]
        """Most items in a batch that "auto" plans on a CPU: convolutional maps should stay in its caches."""
        # Images/s of batches of 1, 2, 4, 8 on one core with AVX-512. Float32: EfficientNet-Lite0 55, 59, 60, 44,
        # ResNet-50 9.6, 10.5, 10.4, 10.9, ViT-S/16 8.7, 9.2, 9.5, 9.4. bfloat16: 73, 90, 102, 108; 17.2, 20.3, 22.0,
        # 22.9; 14.7, 15.9, 16.4, 16.6. OpenVINO gains nothing beyond 4.
        if self.compiled is not None:
            return 4
        half = next(self.module.parameters()).dtype != torch.float32
        return 8 if half or not self.channels_last else 4

    @property
    def default_size(self) -> int | None:
        return self.own_size

    @abstractmethod
    def _read(self, module: Any, pixels: Tensor, layers: Iterable[int]) -> tuple[dict[int, Tensor], Tensor | None]:
        """Run a network; return what its layers (at least those) gave, and its own pooled vector where it has one."""

    @abstractmethod
    def _tokens(self, layer: int, values: Tensor, pooled: Tensor | None) -> Tokens:
        """What one layer gave, as positions in a row."""

    def preprocess(self, samples: Sequence[Any], options: Any) -> list[list[Item]]:
        # Eight bits a value until the batch is made: a fourth of the memory of a chunk of floats.
        prepare = self.prepare
        return [[Item({"pixels": prepare.pixels(sample)}, length=1)] for sample in samples]

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        if "hidden" in items[0].data:
            return collate_advanced(items)
        batch = self.prepare.normalise([item.data["pixels"] for item in items])
        return {"pixels": batch if self.channels_last else batch.contiguous()}

    def forward_blocks(self, batch: Mapping[str, Tensor], layers: Iterable[int]) -> list[Tokens]:
        layers, top = list(layers), len(self.blocks) - 1
        if "hidden" in batch:
            found, pooled = self._read_behind(batch, layers)
            return [self._tokens(i, found[i], pooled if i == top else None) for i in layers]
        found, pooled = self._found(batch["pixels"], layers)
        return [self._tokens(i, found[i], pooled if i == top else None) for i in layers]

    def _found(self, pixels: Tensor, layers: list[int]) -> tuple[dict[int, Tensor], Tensor | None]:
        if not torch.is_inference_mode_enabled():
            return self._read(self.module, pixels, layers)
        if self.compiled is not None:
            return self.compiled(self.module, pixels, layers)
        return self._read(self._inference_copies.network(self.module), pixels, layers)

    @property
    def _inference_copies(self) -> InferenceCopies:
        assert self.copies is not None, "prepare_inference was not called"
        return self.copies

    def _read_behind(self, batch: Mapping[str, Tensor], layers: list[int]) -> tuple[dict[int, Tensor], Tensor | None]:
        """As `_read`, from a block on. The stem, and what lies between the blocks, runs on one empty image."""
        hidden = batch["hidden"]
        if self.channels_last and hidden.ndim == 4:
            hidden = hidden.contiguous(memory_format=torch.channels_last)
        stack = [self.module.get_submodule(name) for name in self.layer_names]
        empty = hidden.new_zeros(1, 3, *self.prepare.output_size)
        with enter_behind(stack, int(batch["block"]), hidden, beside=self.observed.beside):
            return self._read(self.module, empty, layers)

    def advance(self, items: Sequence[Item], batch: Mapping[str, Tensor], blocks: Sequence[int]) -> list[list[Item]]:
        observe_layers(self, partial(self._read, self.module, batch["pixels"][:1], blocks))
        found, _ = self._found(batch["pixels"], list(blocks))
        return advance_each(items, {block: found[block] for block in blocks})

    def prepare_inference(self) -> None:
        """Find out what can be faster about this network; once, after it was opened in float32.

        Raises
        ------
        ImportError
            If the option "engine" of the spec asks for OpenVINO, and it is not installed.
        ValueError
            If there is no such engine.
        """
        many = sum(isinstance(sub, nn.Conv2d) for sub in self.module.modules()) >= _MANY_CONVOLUTIONS
        self.channels_last = many
        # Dozens of thin convolutions round their maps again and again: EfficientNet-Lite0 in bfloat16 has a cosine of
        # 0.995 at least and 0.9989 on average to float32, on photographs.
        self.keeps_in_half = not many
        self.copies = InferenceCopies(self.module, *self._fold_what_can_be(), channels_last=many)
        engine = dict(self.spec.options).get("engine", "torch")
        if engine not in ("torch", "openvino"):
            raise ValueError(f'engine={engine!r} is not known. Use "torch" or "openvino".')
        if engine == "openvino":
            from skembed.backbones.compiled import CompiledForward

            self.compiled = CompiledForward(self._outputs, len(self.blocks), self.copies)

    def _outputs(self, module: Any, pixels: Tensor) -> list[Tensor]:
        """All layers in order, and the pooled vector, as one list."""
        found, pooled = self._read(module, pixels, range(len(self.blocks)))
        values = [found[i] for i in range(len(self.blocks))]
        return values if pooled is None else [*values, pooled]

    def _fold_what_can_be(self) -> tuple[tuple[Pair, ...], list[Weights]]:
        """Pairs of convolution and normalisation whose folding changes no layer, and what they fold to.

        None where in doubt.
        """
        if not any(isinstance(sub, nn.BatchNorm2d) for sub in self.module.modules()):
            return (), []
        shape = (1, 3, *self.prepare.output_size)
        pixels = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        try:
            pairs = find_pairs(self.module, self._outputs, pixels)
            values = _folded_pairs(self.module, pairs)
            trial = _copied(self.module, pairs, values, channels_last=True)
            with torch.no_grad():
                expected, found = self._outputs(self.module, pixels), self._outputs(trial, pixels)
        # A network may do anything at all in its forward pass, such as asking a norm for its weight. Whatever it
        # says to being taken apart, it still runs as a whole.
        except Exception as error:
            if is_device_fault(error):
                raise
            return (), []
        return (pairs, values) if all(map(_agree, expected, found)) else ((), [])


def _agree(expected: Tensor, found: Tensor) -> bool:
    """Whether two layers differ by rounding alone: deep networks lose two digits of the seven."""
    return bool((expected - found).abs().max() <= 1e-4 * expected.abs().max())


class Watch:
    """Notices whether a tensor of a network was replaced, moved or written to.

    Writing through `tensor.data` is what it cannot see.

    Raises
    ------
    RuntimeError
        If the network was made under `torch.inference_mode`: such tensors count no versions.
    """

    def __init__(self, module: nn.Module):
        # The dicts that hold the tensors, not the network, which is to die when its owner lets go of it.
        slots = [slots for sub in module.modules() for slots in (sub._parameters, sub._buffers)]
        self._slots = [(held, name) for held in slots for name, tensor in held.items() if tensor is not None]
        self._tensors = self._found()
        self._states = self._seen()

    def _found(self) -> list[Any]:
        return [held.get(name) for held, name in self._slots]

    def _seen(self) -> tuple[list[int], list[int]]:
        return [each._version for each in self._tensors], [each.data_ptr() for each in self._tensors]

    def holds(self) -> bool:
        """Whether everything is as it was."""
        # By whole lists: it is asked at every batch.
        return all(map(operator.is_, self._found(), self._tensors)) and self._seen() == self._states


class _Held(NamedTuple):
    watch: Watch
    norms: tuple[nn.Module, ...]
    network: nn.Module


class InferenceCopies:
    """Copies of a network, and of those trained from it, for inference.

    A copy shares all tensors with its original but the weights of convolutions, and these with the copies of networks
    that have the same; on processors these are held once more, laid out for oneDNN. It is made anew when the original
    has changed. Nothing of this is copied or pickled with a backbone.

    Parameters
    ----------
    module : nn.Module
        The network as it was opened, in float32. It will be cast and moved afterwards; what is folded now is
        remembered in float32, so that it is rounded once and not twice.
    pairs : sequence of Pair
        What to fold.
    values : sequence of (Tensor, Tensor)
        Weight and bias that each of them folds to, in float32.
    channels_last : bool
        Whether the weights of convolutions are laid out so.
    """

    def __init__(self, module: nn.Module, pairs: Sequence[Pair], values: Sequence[Weights], *, channels_last: bool):
        self.pairs, self.channels_last = tuple(pairs), channels_last
        self._first: _First | None = _First(module, self.pairs, values) if pairs else None
        self._held: WeakKeyDictionary[nn.Module, _Held] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def network(self, module: nn.Module) -> nn.Module:
        """The copy of a network; the network itself, where a copy would not be faster or is not the same."""
        if not (self.pairs or self.channels_last) or next(module.parameters()).device.type not in _DEVICES:
            return module
        with self._lock:
            held = self._held.get(module)
            if held is None or not held.watch.holds():
                self._held.pop(module, None)
                if any(tensor.is_inference() for tensor in module.parameters()):
                    return module
                norms = tuple(module.get_submodule(pair.norm) for pair in self.pairs)
                copied = _copied(module, self.pairs, self._first_values(module), channels_last=self.channels_last)
                self._reuse(module, copied)
                held = self._held[module] = _Held(Watch(module), norms, copied)
            # In training mode a normalisation reads its batch and not what it remembers.
            return module if any(norm.training for norm in held.norms) else held.network

    def _reuse(self, module: nn.Module, copied: nn.Module) -> None:
        """Give a copy the convolutions of another copy, where their originals have the very same tensors.

        So do networks that were fine-tuned from one base, below the blocks that were.
        """
        norms = dict(self.pairs)
        own = dict(module.named_modules())
        for other, held in self._held.items():
            theirs, ready = dict(other.named_modules()), dict(held.network.named_modules())
            if not held.watch.holds():
                continue
            for name, sub in copied.named_modules():
                if isinstance(sub, nn.Conv2d) and name in theirs:
                    parts = [name, norms[name]] if name in norms else [name]
                    if _same_tensors([own[part] for part in parts], [theirs[part] for part in parts]):
                        sub._parameters.update(ready[name]._parameters)

    def in_float32(self, module: nn.Module) -> nn.Module:
        """A copy that shares nothing with its original and is in float32 on the CPU, for a compiler."""
        with torch.inference_mode(False), self._lock:
            return _copied(module, self.pairs, self._first_values(module), channels_last=False, whole=True)

    def _first_values(self, module: nn.Module) -> Sequence[Weights] | None:
        """What was folded at the start, if the network still is what it was. Given away: it is needed once."""
        # Not to a network that was made of this one: it has other weights, and this one is still to come.
        if self._first is None or not self._first.still(module):
            return None
        first, self._first = self._first, None
        return first.values

    def __getstate__(self):
        return {"pairs": self.pairs, "channels_last": self.channels_last}

    def __setstate__(self, state):
        self.pairs, self.channels_last = state["pairs"], state["channels_last"]
        self._first, self._held, self._lock = None, WeakKeyDictionary(), threading.Lock()


class _First:
    """What was folded in float32, and how to tell that a network has been cast and moved since, but not changed."""

    def __init__(self, module: nn.Module, pairs: Sequence[Pair], values: Sequence[Weights]):
        self.values = values
        self._names = [name for pair in pairs for name in pair]
        parts = [module.get_submodule(name) for name in self._names]
        # `Module.to` keeps the parameters and their versions, but makes new buffers.
        self._parameters = [(p, p._version) for part in parts for p in part.parameters(recurse=False)]
        self._buffers = [b.clone() for part in parts for b in part.buffers(recurse=False)]

    def still(self, module: nn.Module) -> bool:
        parts = [module.get_submodule(name) for name in self._names]
        parameters = [p for part in parts for p in part.parameters(recurse=False)]
        buffers = [b for part in parts for b in part.buffers(recurse=False)]
        same = len(parameters) == len(self._parameters) and all(
            now is before and now._version == version
            for now, (before, version) in zip(parameters, self._parameters, strict=True)
        )
        return same and all(
            torch.equal(now, before.to(now.device, now.dtype))
            for now, before in zip(buffers, self._buffers, strict=True)
        )


def _same_tensors(these: Sequence[nn.Module], those: Sequence[nn.Module]) -> bool:
    found, other = (
        [tensor for sub in subs for tensor in (*sub.parameters(), *sub.buffers())] for subs in (these, those)
    )
    return len(found) == len(other) and all(a is b for a, b in zip(found, other, strict=True))


def _folded_pairs(module: nn.Module, pairs: Sequence[Pair]) -> list[Weights]:
    return [folded(module.get_submodule(pair.convolution), module.get_submodule(pair.norm)) for pair in pairs]


def _copied(module: nn.Module, pairs: Sequence[Pair], values, *, channels_last: bool, whole: bool = False) -> nn.Module:
    """A folded copy; `values` are the folded weights where they are known, `whole` shares no tensor and is float32."""
    with torch.inference_mode(False), torch.no_grad():
        if values is None:
            values = _folded_pairs(module, pairs)
        shared = {} if whole else {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
        copied: Any = copy.deepcopy(module, shared)
        if whole:
            copied = copied.float().cpu()
            multiply_plainly(copied)
        fold_pairs(copied, pairs, values)
        if channels_last:
            for sub in copied.modules():
                if isinstance(sub, nn.Conv2d) and "weight" in sub._parameters:
                    weight = sub.weight.detach().to(memory_format=torch.channels_last)
                    sub.weight = nn.Parameter(weight, requires_grad=False)
            if not whole:
                convolve_by_onednn(copied, pairs)
        return copied.requires_grad_(False) if whole else copied
