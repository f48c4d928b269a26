"""Base class of image backbones, with batches in one pass and a fast inference copy."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from skembed.backbones.accelerate.inference_copies import InferenceCopies, find_foldable
from skembed.backbones.base import Backbone, Item, Tokens
from skembed.backbones.blocks import enter_behind, observe_layers
from skembed.backbones.models.resuming import advance_each, collate_advanced

if TYPE_CHECKING:
    from skembed.backbones.accelerate.openvino import CompiledForward
    from skembed.backbones.models.image_prepare import ImagePreparation

__all__ = ["ImageBackbone"]

#: ViTs have one convolution, Swin another between stages; networks with so many are convolutional throughout.
_MANY_CONVOLUTIONS = 4


@dataclass(kw_only=True)
class ImageBackbone(Backbone):
    """Network that reads RGB images of one size.

    `module` is the network as it was trained, and is what fine-tuning copies. Under `torch.inference_mode` another
    runs: a copy whose batch normalizations are folded into its convolutions, which are laid out channels last and for
    oneDNN, or one that OpenVINO compiled. Its layers are the same to the rounding of a float.

    Parameters
    ----------
    prepare : ImagePreparation
        Resizes, crops and scales images.
    own_size : int, optional
        Side in pixels of the images that it reads by default; None where no number gives the same rows.
    channels_last : bool
        True if the network computes on pixels with adjacent channels; set by `prepare_inference`, like the next two.
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
        """Largest batch of "auto" on a CPU, whose caches should hold the maps."""
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
        """Run a network; return outputs of layers, and its own pooled vector if it has one."""

    @abstractmethod
    def _tokens(self, layer: int, values: Tensor, pooled: Tensor | None) -> Tokens:
        """Return the output of one layer as a sequence of positions."""

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
        # Copies are made once: a network whose weights may still change runs as it is.
        if not torch.is_inference_mode_enabled() or any(weight.requires_grad for weight in self.module.parameters()):
            return self._read(self.module, pixels, layers)
        if self.compiled is not None:
            return self.compiled(self.module, pixels, layers)
        return self._read(self._inference_copies.network(self.module), pixels, layers)

    @property
    def _inference_copies(self) -> InferenceCopies:
        assert self.copies is not None, "prepare_inference was not called"
        return self.copies

    def _read_behind(self, batch: Mapping[str, Tensor], layers: list[int]) -> tuple[dict[int, Tensor], Tensor | None]:
        """Run a network from a block on, like `_read`.

        The stem, and modules between the blocks, run on one empty image.
        """
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
        """Prepare faster inference; called once, after the network was opened in float32.

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
        self.copies = InferenceCopies(
            self.module, *find_foldable(self.module, self._outputs, self.prepare.output_size), channels_last=many
        )
        engine = dict(self.spec.options).get("engine", "torch")
        if engine not in ("torch", "openvino"):
            raise ValueError(f'engine={engine!r} is unknown. Use "torch" or "openvino".')
        if engine == "openvino":
            from skembed.backbones.accelerate.openvino import CompiledForward

            self.compiled = CompiledForward(self._outputs, len(self.blocks), self.copies)

    def _outputs(self, module: Any, pixels: Tensor) -> list[Tensor]:
        """Return all layers in order and the pooled vector as one list."""
        found, pooled = self._read(module, pixels, range(len(self.blocks)))
        values = [found[i] for i in range(len(self.blocks))]
        return values if pooled is None else [*values, pooled]
