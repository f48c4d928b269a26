"""What the tests of image backbones share: more families, and the ways through one adapter or the whole embedder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import transformers as tf
from PIL import Image

from skembed import ImageEmbedder
from skembed.backbones.base import Backbone, Tokens
from skembed.backbones.loading.load import open_spec
from skembed.backbones.spec import BackboneSpec
from tests.backbones.tiny import IMAGES, SIZES, VISION, Plain, _clip_processor, _exact, _image, _pooler, _timm, samples

#: Photographs are smooth, where filters of different libraries agree; noise is not.
SIDES = [(70, 90), (64, 64), (91, 71), (40, 33), (101, 67), (20, 200)]


def noise() -> list[Image.Image]:
    """RGB images of unrelated pixels, of odd and even sides, larger and smaller than the networks' inputs."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, size=(*sides, 3), dtype=np.uint8)) for sides in SIDES]


def smooth() -> list[Image.Image]:
    """Noise of a few pixels, blown up."""
    rng = np.random.default_rng(0)
    small = [Image.fromarray(rng.integers(0, 256, size=(4, 4, 3), dtype=np.uint8)) for _ in SIDES]
    return [image.resize((w, h), Image.Resampling.BICUBIC) for image, (h, w) in zip(small, SIDES, strict=True)]


def embed(directory: Path | str, images: Sequence[Image.Image], **parameters) -> np.ndarray:
    """Rows of the embedder."""
    return ImageEmbedder(str(directory), device="cpu", **parameters).fit_transform(images)


def opened(directory: Path | str, image_size: int | None = None) -> Backbone:
    """The backbone of a directory, loaded anew and frozen."""
    options = () if image_size is None else (("image_size", image_size),)
    backbone = open_spec(BackboneSpec("image", str(directory), options=options))
    backbone.module.requires_grad_(False)
    return backbone


def run(backbone: Backbone, images: Sequence[Image.Image], layers: Iterable[int]) -> list[Tokens]:
    """Tokens of the asked layers for one batch."""
    items = [windows[0] for windows in backbone.preprocess(images, None)]
    with torch.no_grad():
        return backbone.forward_blocks(backbone.collate(items), layers)


def pixels(backbone: Backbone, images: Sequence[Image.Image]) -> torch.Tensor:
    """The batch that the network is given."""
    (batch,) = backbone.collate([windows[0] for windows in backbone.preprocess(images, None)]).values()
    return batch


# -- families beside those of `tiny` ----------------------------------------------------------------------


def timm_dinov2_plain(directory) -> Plain:
    arguments = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 56}
    return _timm(directory, "vit_small_patch14_dinov2", 56, **arguments)


def timm_mobilenet(directory) -> Plain:
    """Its pooled features are wider than its map."""
    return _timm(directory, "mobilenetv3_small_050", 64)


def timm_regnet(directory) -> Plain:
    """Stages are attributes of their own, not items of a list."""
    return _timm(directory, "regnetx_002", 64)


def timm_cait(directory) -> Plain:
    """The class token enters after the last layer."""
    arguments = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 64}
    return _timm(directory, "cait_xxs24_224", 64, **arguments)


def timm_pvt(directory) -> Plain:
    """Channels come last in what enters the first stage, and first everywhere else."""
    arguments = {"depths": (1, 1, 1, 1), "embed_dims": (8, 16, 24, 32), "num_heads": (1, 1, 2, 2)}
    return _timm(directory, "pvt_v2_b0", 64, **arguments)


def timm_twins(directory) -> Plain:
    """Its layers do not run in the order of its lists: one block."""
    arguments = {"depths": (1, 1, 1, 1), "embed_dims": (8, 16, 24, 32), "num_heads": (1, 1, 2, 2), "img_size": 64}
    return _timm(directory, "twins_pcpvt_small", 64, **arguments)


def timm_pit(directory) -> Plain:
    """timm groups none of its parameters: one block."""
    return _timm(directory, "pit_ti_224", 64, img_size=64)


def hf_convnextv2(directory) -> Plain:
    config = tf.ConvNextV2Config(num_stages=3, hidden_sizes=[8, 16, 24], depths=[1, 2, 1])
    processor = tf.ConvNextImageProcessorPil(size={"shortest_edge": 48})
    return _image(directory, tf.ConvNextV2Model, config, processor, _pooler)


def hf_deit(directory) -> Plain:
    processor = tf.DeiTImageProcessorPil(size={"height": 36, "width": 36}, crop_size={"height": 32, "width": 32})
    return _image(
        directory, tf.DeiTModel, tf.DeiTConfig(**VISION), processor, lambda output: output.last_hidden_state[0, 0]
    )


def hf_vit_classifier(directory) -> Plain:
    """As the hub has it: with a classifier and without the pooler."""

    def class_token(output):
        return output.last_hidden_state[0, 0]

    return _image(
        directory,
        tf.ViTForImageClassification,
        tf.ViTConfig(**VISION),
        _exact(32),
        class_token,
        tf.ViTModel,
        add_pooling_layer=False,
    )


def hf_siglip_tower(directory) -> Plain:
    processor = tf.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    return _image(directory, tf.SiglipVisionModel, tf.SiglipVisionConfig(**VISION), processor, _pooler)


def hf_resnet_bottleneck(directory) -> Plain:
    config = tf.ResNetConfig(embedding_size=8, hidden_sizes=[16, 24], depths=[1, 2], layer_type="bottleneck")
    return _image(directory, tf.ResNetModel, config, _clip_processor(), _pooler)


MORE = {
    "timm_dinov2_plain": timm_dinov2_plain, "timm_mobilenet": timm_mobilenet, "timm_regnet": timm_regnet,
    "timm_cait": timm_cait, "timm_pvt": timm_pvt, "timm_twins": timm_twins, "timm_pit": timm_pit,
    "hf_convnextv2": hf_convnextv2, "hf_deit": hf_deit, "hf_vit_classifier": hf_vit_classifier,
    "hf_siglip_tower": hf_siglip_tower, "hf_resnet_bottleneck": hf_resnet_bottleneck,
}  # fmt: skip
ALL = {**IMAGES, **MORE}

__all__ = ["ALL", "IMAGES", "MORE", "SIZES", "VISION", "embed", "noise", "opened", "pixels", "run", "samples", "smooth"]
