"""Vision models of timm: convolutional nets, ViTs, DINOv2, Swin, CLIP and SigLIP."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors import SafetensorError
from timm.models import PretrainedCfg, group_parameters
from torch import Tensor, nn

from skembed.backbones.base import Block, Tokens
from skembed.backbones.blocks import dry_run, first_tensor, record_blocks, with_buffers
from skembed.backbones.models.image_network import ImageBackbone
from skembed.backbones.models.image_prepare import ImagePreparation
from skembed.backbones.spec import BackboneSpec
from skembed.backbones.weights.files import read_json, require_safetensors
from skembed.backbones.weights.size_limits import rehearse
from skembed.exceptions import BackboneNotFoundError

__all__ = ["TimmBackbone", "open_backbone"]


class _Layout(NamedTuple):
    """Layout of one layer's output."""

    channels_last: bool
    n_prefix: int


@dataclass(kw_only=True)
class TimmBackbone(ImageBackbone):
    """timm model with its evaluation transform.

    Parameters
    ----------
    layouts : sequence of _Layout
        Layout of each layer's output.
    """

    layouts: Sequence[_Layout]

    def _read(self, module: Any, pixels: Tensor, layers: Iterable[int]) -> tuple[dict[int, Tensor], Tensor | None]:
        layers = list(layers)
        features, found = _run(module, self.layer_names, pixels, layers)
        pooled = module.forward_head(features, pre_logits=True) if len(self.blocks) - 1 in layers else None
        return found, pooled

    def _tokens(self, layer: int, values: Tensor, pooled: Tensor | None) -> Tokens:
        layout = self.layouts[layer]
        if values.ndim == 4:
            values = values.flatten(1, 2) if layout.channels_last else values.flatten(2).transpose(1, 2)
        mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        return Tokens(values, mask, layout.n_prefix, pooled)


def open_backbone(spec: BackboneSpec, directory: Path, fingerprint: str) -> TimmBackbone:
    """Read a timm model from a directory in timm's own layout.

    Parameters
    ----------
    spec : BackboneSpec
        Its identity; the option "image_size" changes the size of the network's input, "engine" is "torch" or
        "openvino".
    directory : Path
        With config.json ("architecture", "pretrained_cfg", perhaps "model_args") and model.safetensors.
    fingerprint : str
        Digest of the directory.

    Raises
    ------
    ImportError, ValueError
        If the engine is not installed, or there is none of that name.
    BackboneNotFoundError
        If the weights are no safetensors or not those of the architecture, if timm has no such architecture, or
        if the network does not turn an RGB image into one vector.
    """
    image_size = dict(spec.options).get("image_size")
    architecture, arguments, pretrained = _configuration(directory)
    module: Any = _build(directory, architecture, arguments, pretrained, image_size)
    module.eval().requires_grad_(False)
    prepare = ImagePreparation.from_timm(module.pretrained_cfg, image_size)
    blocks, layers, layouts, width = _depth(module, prepare.output_size)
    backbone = TimmBackbone(
        spec=spec,
        module=module,
        width=width,
        blocks=with_buffers(module, blocks),
        fingerprint=fingerprint,
        default_pooling="pooled",
        class_token=layouts[-1].n_prefix > 0 and getattr(module, "cls_token", None) is not None,
        prepare=prepare,
        layer_names=layers,
        layouts=layouts,
        own_size=_default_size(type(module), arguments, pretrained),
    )
    return backbone


def _build(
    directory: Path, architecture: str, arguments: dict[str, Any], pretrained: dict[str, Any], image_size: int | None
) -> nn.Module:
    """Return the network with its weights, at the requested size, without its classifier."""

    def build(weights=True, **size):
        # With the classifier that the checkpoint has, timm loads strictly: nothing stays random.
        arguments_ = {**arguments, **size, "num_classes": pretrained["num_classes"]}
        return timm.create_model(architecture, pretrained=weights, pretrained_cfg=pretrained, **arguments_)

    # 0.1 to 0.8 s on two cores.
    rehearse(directory, lambda: build(weights=False))
    try:
        try:
            module = build() if image_size is None else build(img_size=image_size)
        except TypeError as error:
            if "img_size" not in str(error):
                raise
            module = build()  # convolutional nets take no img_size: they read any
    except (AssertionError, RuntimeError, KeyError, SafetensorError) as error:
        sized = "" if image_size is None else f" at image_size={image_size}"
        raise BackboneNotFoundError(
            f"The weights in {directory} are not those of timm's {architecture}{sized}: {str(error)[:300]}"
        ) from error
    module.reset_classifier(0)
    return module


def _configuration(directory: Path) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return architecture, arguments, and a `pretrained_cfg` with the local weights."""
    require_safetensors(directory)
    config = read_json(directory / "config.json")
    architecture = str(config.get("architecture"))
    if not timm.is_model(architecture):
        raise BackboneNotFoundError(
            f"{directory}/config.json names the architecture {architecture!r}, which timm {timm.__version__} "
            "does not have. Save the model with timm.models.save_for_hf, or install the timm that has it."
        )
    weights = directory / "model.safetensors"
    if not weights.is_file():
        raise BackboneNotFoundError(f"{directory} has no model.safetensors, where timm keeps its weights.")
    arguments = dict(config.get("model_args") or {})
    # Older checkpoints have one flat dict. Where to download from is left out: what lies here is what is read.
    found = config.get("pretrained_cfg") or config
    known = {field.name for field in dataclasses.fields(PretrainedCfg)}
    elsewhere = {"url", "hf_hub_id", "hf_hub_filename", "source", "state_dict", "custom_load", "architecture"}
    pretrained = {key: value for key, value in found.items() if key in known - elsewhere}
    pretrained["num_classes"] = config.get("num_classes", found.get("num_classes", 1000))
    if "img_size" in arguments and pretrained.get("fixed_input_size"):
        size = arguments["img_size"]
        pretrained["input_size"] = (3, size, size) if isinstance(size, int) else (3, *size)
    return architecture, arguments, {**pretrained, "file": str(weights)}


def _default_size(cls: type[nn.Module], arguments: dict[str, Any], pretrained: dict[str, Any]) -> int | None:
    """Return the `image_size` that changes nothing; None if there is none."""
    prepare = ImagePreparation.from_timm(pretrained)
    side = prepare.output_size[0]
    if ImagePreparation.from_timm(pretrained, side) != prepare:
        return None
    if pretrained.get("fixed_input_size"):
        return side  # timm builds the network for the input size of its configuration
    parameters = inspect.signature(cls).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return None
    built = arguments.get("img_size", parameters["img_size"].default) if "img_size" in parameters else None
    return side if built in (None, side, (side, side), [side, side]) else None


def _run(module: Any, names: Sequence[str], pixels: Tensor, layers: Iterable[int]) -> tuple[Any, dict[int, Tensor]]:
    """Return the network's own features if its top is requested, and outputs of layers."""
    layers, top = list(layers), len(names)
    stack = [module.get_submodule(name) for name in names]
    features = None
    with record_blocks(stack, [i for i in layers if i != top], stop=top not in layers) as found:
        features = module.forward_features(pixels)
    if features is not None:
        found[top] = first_tensor(features)
    return features, found


def _depth(module: nn.Module, size: tuple[int, int]) -> tuple[tuple[Block, ...], list[str], list[_Layout], int]:
    """Return blocks, names and layouts of layers, and the width of the pooled vector.

    Blocks are timm's own coarse grouping of parameters: transformer blocks, or the stages of convolutional and
    hierarchical nets. What comes after them (a last norm, an attention pooler) is part of the top block.
    Whether they run in that order and can be read is seen in a forward pass; a network with another shape
    (parallel branches, blocks called in parts) has one block, which is all of it.
    """
    blocks = _coarse_blocks(module)
    names = [block.name for block in blocks[1:]]
    shapes = _shapes(module, names, size) if names else None
    if shapes is None:
        blocks, names = (Block("network", tuple(name for name, _ in module.named_parameters())),), []
        shapes = _shapes(module, names, size)
    if shapes is None:
        raise BackboneNotFoundError(
            f"timm's {type(module).__name__} does not turn an image of {size[0]} x {size[1]} pixels into one map "
            "of features and one vector. Use another image_size: a multiple of its patches (14 or 16 pixels for most "
            "ViTs, 32 for most others) always works."
        )
    *maps, pooled = shapes
    return blocks, names, [_layout(module, shape, top=maps[-1]) for shape in maps], pooled[-1]


def _coarse_blocks(module: Any) -> tuple[Block, ...]:
    try:
        groups = group_parameters(module, module.group_matcher(coarse=True))
    except (AttributeError, AssertionError):  # timm says nothing about this one's depth
        return ()
    stem, *rest = (names for _, names in sorted(groups.items()))
    blocks = [Block("stem", tuple(stem))]
    family = None
    for names in rest:
        numbered = re.match(r"(.*?\d+)\.", names[0])
        own = re.sub(r"\d+", "", numbered[1]) if numbered else None
        family = own if family is None else family
        if numbered and own == family:
            blocks.append(Block(numbered[1], tuple(names)))
        else:
            last = blocks.pop()
            blocks.append(Block(last.name, (*last.prefixes, *names)))
    return tuple(blocks)


def _shapes(module: Any, names: Sequence[str], size: tuple[int, int]) -> list[torch.Size] | None:
    """Return the shapes of layers and pooled vector, or None if layers are not in sequence."""
    try:
        maps, pooled = dry_run(_Reader(module, names), torch.empty(1, 3, *size))
    except ValueError:
        return None
    values = [*maps.values(), pooled]
    in_order = list(maps) == list(range(len(names) + 1))
    whole = all(isinstance(value, Tensor) and value.shape[0] == 1 for value in values)
    if not (in_order and whole and pooled.ndim == 2 and all(value.ndim in (3, 4) for value in values[:-1])):
        return None
    return [value.shape for value in values]


class _Reader(nn.Module):
    """Module that returns all layers and the pooled vector, for a dry run."""

    def __init__(self, model: nn.Module, names: Sequence[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, pixels: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        model: Any = self.model
        features, found = _run(model, self.names, pixels, range(len(self.names) + 1))
        return found, model.forward_head(features, pre_logits=True)


def _layout(module: nn.Module, shape: torch.Size, *, top: torch.Size) -> _Layout:
    """Return the layout of a layer's output.

    Layers of one network may differ: PVT has NHWC maps between NCHW ones, CaiT adds its class token late.
    """
    if len(shape) == 3:
        n_prefix = getattr(module, "num_prefix_tokens", 0) if shape[1] == top[1] else 0
        return _Layout(False, n_prefix)
    by_name = getattr(module, "output_fmt", "NCHW") == "NHWC"
    # Of a square image the two equal sides are height and width, unless all three are equal.
    first, last = shape[1] == shape[2], shape[2] == shape[3]
    return _Layout(first if first != last else by_name, 0)
