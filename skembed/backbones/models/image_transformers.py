"""Vision models of transformers: ResNet, ConvNeXt, ViT, DINOv2, Swin, CLIP and SigLIP."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from transformers.image_processing_backends import PilBackend

from skembed.backbones.base import Block, Tokens
from skembed.backbones.blocks import blocks_from_layers, dry_run, record_blocks, with_buffers
from skembed.backbones.models.image_network import ImageBackbone
from skembed.backbones.models.image_prepare import ImagePreparation
from skembed.backbones.models.transformers_loading import layer_names, load_pretrained, quiet, read_config
from skembed.backbones.spec import BackboneSpec
from skembed.backbones.weights.files import read_json
from skembed.backbones.weights.sentence_modules import network_directory
from skembed.exceptions import BackboneNotFoundError

__all__ = ["TransformersImageBackbone", "open_backbone"]


class _Family(NamedTuple):
    """Properties of a family that cannot be read from a network."""

    cls: str
    processor: str  # where preprocessor_config.json does not say
    pooled: bool  # its pooler_output is trained, or a plain mean
    n_prefix: int  # class and distillation tokens, without the registers of the configuration
    load: Mapping[str, Any]


# The tanh pooler of these is trained on nothing in most checkpoints, and absent from many.
_NO_POOLER = {"add_pooling_layer": False}
_FAMILIES = {
    "resnet": _Family("ResNetModel", "ConvNext", True, 0, {}),
    "convnext": _Family("ConvNextModel", "ConvNext", True, 0, {}),
    "convnextv2": _Family("ConvNextV2Model", "ConvNext", True, 0, {}),
    "vit": _Family("ViTModel", "ViT", False, 1, _NO_POOLER),
    "deit": _Family("DeiTModel", "DeiT", False, 2, _NO_POOLER),
    "dinov2": _Family("Dinov2Model", "Bit", True, 1, {}),
    "dinov2_with_registers": _Family("Dinov2WithRegistersModel", "Bit", True, 1, {}),
    "swin": _Family("SwinModel", "ViT", True, 0, {}),
    "clip": _Family("CLIPVisionModel", "CLIP", True, 1, {}),
    "clip_vision_model": _Family("CLIPVisionModel", "CLIP", True, 1, {}),
    "siglip": _Family("SiglipVisionModel", "Siglip", True, 0, {}),
    "siglip_vision_model": _Family("SiglipVisionModel", "Siglip", True, 0, {}),
}


@dataclass(kw_only=True)
class TransformersImageBackbone(ImageBackbone):
    """Vision model of transformers.

    Parameters
    ----------
    has_pooler : bool
        True if its pooled output is trained, or a plain mean.
    n_prefix : int
        Class, distillation and register tokens.
    forward_options : dict
        Arguments of its forward pass.
    """

    has_pooler: bool
    n_prefix: int
    forward_options: dict[str, Any]

    def _read(self, module: Any, pixels: Tensor, layers: Iterable[int]) -> tuple[dict[int, Tensor], Tensor | None]:
        stack = [module.get_submodule(name) for name in self.layer_names]
        layers, top, output = list(layers), len(self.blocks) - 1, None
        with record_blocks(stack, layers, stop=top not in layers) as found:
            output = module(pixel_values=pixels, **self.forward_options)
        if output is None:
            return found, None
        found[top] = output.last_hidden_state
        return found, output.pooler_output.flatten(1) if self.has_pooler else None

    def _tokens(self, layer: int, values: Tensor, pooled: Tensor | None) -> Tokens:
        if values.ndim == 4:
            values = values.flatten(2).transpose(1, 2)
        mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        return Tokens(values, mask, self.n_prefix, pooled)


def open_backbone(spec: BackboneSpec, directory: Path, fingerprint: str) -> TransformersImageBackbone:
    """Read a vision model from a directory that `save_pretrained` wrote.

    Parameters
    ----------
    spec : BackboneSpec
        Its identity; the option "image_size" changes the size of the network's input, "engine" is "torch" or
        "openvino".
    directory : Path
        With config.json, safetensors, and preprocessor_config.json.
    fingerprint : str
        Digest of the directory.

    Raises
    ------
    ImportError, ValueError
        If the engine is not installed, or there is none of that name.
    BackboneNotFoundError
        If the family is none of ours, weights are missing, or it is not said how images are prepared.
    """
    directory = network_directory(directory)
    kind = read_config(directory).model_type
    family = _FAMILIES.get(kind)
    if family is None:
        raise BackboneNotFoundError(
            f"backbone={spec.name!r} is a {kind!r}; supported are {', '.join(sorted(_FAMILIES))}, and timm."
        )
    image_size = dict(spec.options).get("image_size")
    preprocessor = _preprocessor(directory, family)
    prepare = ImagePreparation.from_transformers(preprocessor, image_size)
    module = load_pretrained(getattr(transformers, family.cls), directory, **family.load)
    blocks, layers = _depth(module)
    config: Any = getattr(module.config, "vision_config", module.config)
    forward = _resolution_arguments(module, config, prepare.output_size)
    try:
        dry_run(module, torch.empty(1, 3, *prepare.output_size), **forward)
    except ValueError as error:
        raise BackboneNotFoundError(
            f"{spec.name} cannot read images of {prepare.output_size[0]} x {prepare.output_size[1]} pixels: "
            f"{str(error)[:300]}. Use another image_size, such as {getattr(config, 'image_size', 224)}."
        ) from error
    backbone = TransformersImageBackbone(
        spec=spec,
        module=module,
        width=getattr(config, "hidden_size", None) or config.hidden_sizes[-1],
        blocks=with_buffers(module, blocks),
        fingerprint=fingerprint,
        default_pooling="pooled" if family.pooled else "cls",
        class_token=family.n_prefix > 0,
        prepare=prepare,
        layer_names=layers,
        has_pooler=family.pooled,
        n_prefix=family.n_prefix + (getattr(config, "num_register_tokens", 0) or 0),
        forward_options=forward,
        own_size=_default_size(preprocessor),
    )
    return backbone


def _default_size(preprocessor: dict[str, Any]) -> int | None:
    """Return the `image_size` that keeps the preparation; None if there is none."""
    prepare = ImagePreparation.from_transformers(preprocessor)
    side = prepare.output_size[0]
    return side if ImagePreparation.from_transformers(preprocessor, side) == prepare else None


def _depth(module: nn.Module) -> tuple[tuple[Block, ...], list[str]]:
    """Return transformer layers, or the stages of convolutional and hierarchical nets."""
    config: Any = getattr(module.config, "vision_config", module.config)
    depths = getattr(config, "depths", None)
    names = layer_names(module, len(depths) if depths else config.num_hidden_layers)
    return blocks_from_layers(module, names), names


def _preprocessor(directory: Path, family: _Family) -> dict[str, Any]:
    """Return the image processor's configuration, completed by the defaults of its class.

    Only the class knows, for instance, that "size": 224 means a square for ViT and the shorter side for CLIP.
    """
    found = read_json(directory / "preprocessor_config.json") or read_json(directory / "processor_config.json")
    found = found.get("image_processor", found)
    if not found:
        raise BackboneNotFoundError(
            f"{directory} has no preprocessor_config.json, which defines how images are scaled. "
            "Save the image processor beside the model."
        )
    named = found.get("image_processor_type") or found.get("feature_extractor_type")
    name = re.sub(r"(FeatureExtractor|ImageProcessor)(Fast|Pil)?$", "", named or family.processor)
    cls: Any = getattr(transformers, f"{name}ImageProcessorPil", None)
    # Only ConvNeXt's own steps are known to ImagePreparation, and those that all others share.
    plain = cls is not None and cls._preprocess is PilBackend._preprocess and cls.resize is PilBackend.resize
    if not plain and name != "ConvNext":
        raise BackboneNotFoundError(
            f"{directory} prepares its images with {named}, which is not supported. "
            f"Save the model with a {family.processor}ImageProcessor."
        )
    with quiet():
        return cls.from_dict(found).to_dict()


def _resolution_arguments(module: nn.Module, config: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Return the arguments with which a network of learned positions reads another size."""
    trained = getattr(config, "image_size", None)
    trained = (trained, trained) if isinstance(trained, int) else tuple(trained or size)
    if trained == size or "interpolate_pos_encoding" not in inspect.signature(module.forward).parameters:
        return {}
    return {"interpolate_pos_encoding": True}
