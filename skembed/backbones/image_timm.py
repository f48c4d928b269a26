"""Vision models of timm: convolutional nets, ViTs, DINOv2, Swin, the vision towers of CLIP and SigLIP."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import timm
import torch
from timm.models import group_parameters
from torch import Tensor, nn

from skembed.backbones.base import Backbone, BackboneSpec, Block, Item, Tokens
from skembed.backbones.blocks import first_tensor, record_blocks
from skembed.backbones.image_prepare import ImagePreparation
from skembed.backbones.weights import read_json, require_safetensors
from skembed.exceptions import BackboneNotFoundError

__all__ = ["TimmBackbone", "open_backbone"]


class TimmBackbone(Backbone):
    """A timm model and its evaluation transform."""

    # Measured on two cores, EfficientNet-Lite0: 64, 78, 62 and 40 images/s in batches of 2, 4, 8 and 16.
    batch_limit: ClassVar[int] = 4

    def preprocess(self, samples: Sequence[Any], options: Any) -> list[list[Item]]:
        prepare = self.extra["prepare"]
        return [[Item({"pixels": prepare(sample)}, length=1)] for sample in samples]

    def collate(self, items: Sequence[Item]) -> dict[str, Tensor]:
        return {"pixels": torch.from_numpy(np.stack([item.data["pixels"] for item in items]))}

    def forward_blocks(self, batch: Mapping[str, Tensor], layers: Iterable[int]) -> list[Tokens]:
        layers = list(layers)
        model: Any = self.module
        top = len(self.blocks) - 1
        stack = [model.get_submodule(name) for name in self.extra["layers"]]
        with record_blocks(stack, layers) as found:
            features = first_tensor(model.forward_features(batch["pixels"]))
        found[top] = features
        n_prefix = getattr(model, "num_prefix_tokens", 0)
        return [
            _tokens(
                found[i],
                n_prefix,
                channels_last=self.extra["channels_last"],
                pooled=model.forward_head(features, pre_logits=True) if i == top else None,
            )
            for i in layers
        ]


def _tokens(values: Tensor, n_prefix: int, *, channels_last: bool, pooled: Tensor | None) -> Tokens:
    if values.ndim == 4:
        values = values.flatten(1, 2) if channels_last else values.flatten(2).transpose(1, 2)
    mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    return Tokens(values, mask, n_prefix, pooled)


def open_backbone(spec: BackboneSpec, directory: Path, fingerprint: str) -> TimmBackbone:
    """Read a timm model from a directory in timm's own layout.

    Parameters
    ----------
    spec : BackboneSpec
        Its identity; the option "image_size" changes the size of the network's input.
    directory : Path
        With config.json ("architecture", "pretrained_cfg") and model.safetensors.
    fingerprint : str
        Digest of the directory.

    Raises
    ------
    BackboneNotFoundError
        If the weights are no safetensors, or not those of the architecture.
    """
    require_safetensors(directory)
    config = read_json(directory / "config.json")
    image_size = dict(spec.options).get("image_size")
    module: Any = _build(config, directory, image_size)
    module.eval().requires_grad_(False)
    blocks, layers = _depth(module)
    n_prefix = getattr(module, "num_prefix_tokens", 0)
    return TimmBackbone(
        spec=spec,
        module=module,
        width=int(getattr(module, "head_hidden_size", None) or module.num_features),  # type: ignore[arg-type]
        blocks=blocks,
        fingerprint=fingerprint,
        default_pooling="pooled",
        class_token=n_prefix > 0 and getattr(module, "cls_token", None) is not None,
        extra={
            "prepare": ImagePreparation.from_timm(module.pretrained_cfg, image_size),
            "layers": layers,
            "channels_last": getattr(module, "output_fmt", "NCHW") == "NHWC",
        },
    )


def _build(config: Mapping[str, Any], directory: Path, image_size: int | None) -> nn.Module:
    """The network with its weights, at the size asked for, and without its classifier."""
    arguments = dict(config.get("model_args") or {})
    n_classes = config.get("num_classes", 1000)
    pretrained = {
        **(config.get("pretrained_cfg") or {}),
        "num_classes": n_classes,
        "file": str(directory / "model.safetensors"),
    }

    def build(**extra):
        # With the classifier that the checkpoint has, timm loads strictly: nothing stays random.
        return timm.create_model(
            config["architecture"],
            pretrained=True,
            pretrained_cfg=pretrained,
            num_classes=n_classes,
            **{**arguments, **extra},
        )

    try:
        try:
            module = build() if image_size is None else build(img_size=image_size)
        except TypeError:
            module = build()  # convolutional nets take no img_size: they read any
    except (RuntimeError, KeyError) as error:
        raise BackboneNotFoundError(
            f"The weights in {directory} are not those of timm's {config['architecture']}: {str(error)[:300]}"
        ) from error
    module.reset_classifier(0)
    return module


def _depth(module: nn.Module) -> tuple[tuple[Block, ...], list[str]]:
    """Ordered blocks, and the names of the layer modules: timm's own coarse grouping of parameters.

    That is transformer blocks, or the stages of convolutional and hierarchical nets. What comes after them
    (a last norm, an attention pooler) is part of the top block.
    """
    groups = group_parameters(module, module.group_matcher(coarse=True))  # type: ignore[operator]
    stem, *rest = (names for _, names in sorted(groups.items()))
    family = re.split(r"[.\d]", rest[0][0])[0]
    blocks = [Block("stem", tuple(stem))]
    for names in rest:
        found = re.match(rf"{family}\.?\d+", names[0])
        if found:
            blocks.append(Block(found[0], tuple(names)))
        else:
            last = blocks.pop()
            blocks.append(Block(last.name, (*last.prefixes, *names)))
    return tuple(blocks), [block.name for block in blocks[1:]]
