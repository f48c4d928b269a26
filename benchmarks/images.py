"""Image files to embeddings with EfficientNet-Lite0, and with ResNet-50 and ViT-S/16 of random weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import data
from benchmarks.common import Goal, Run, Way, Work
from benchmarks.flops import count_image
from benchmarks.measure import cosine_of, ratio_to, share_of
from benchmarks.ours import AUTO, BFLOAT16, FLOAT32, OPENVINO, OPENVINO_BFLOAT16, our_way
from benchmarks.peers import peer

__all__ = ["GOALS", "works"]

LITE = "image files, EfficientNet-Lite0"
RESNET = "image files, ResNet-50"
VIT = "image files, ViT-S/16"
BATCH_SIZES = (1, 8, 32)
LOOPS = [f"timm loop, batch {size}" for size in BATCH_SIZES]
LOADERS = [f"timm, DataLoader of 2, batch {size}" for size in BATCH_SIZES]

# -- ways -------------------------------------------------------------------------------------------------


def timm_loop(work: Work, *, batch_size: int) -> Run:
    """Open, transform, stack, run: one batch after the other."""
    model, transform = _timm(work.backbone)
    batches = [work.samples[i : i + batch_size] for i in range(0, len(work.samples), batch_size)]

    def run() -> np.ndarray:
        return _embed(model, (_stacked([_read(path, transform) for path in paths]) for paths in batches))

    return run


def data_loader(work: Work, *, batch_size: int) -> Run:
    """The same with the reading in two workers, which live on from one run to the next."""
    from torch.utils.data import DataLoader

    model, transform = _timm(work.backbone)
    loader = DataLoader(_Images(work.samples, transform), batch_size, num_workers=2, persistent_workers=True)
    return lambda: _embed(model, loader)


def embetter(work: Work) -> Run:
    """embetter's ImageLoader and TimmEncoder: one image at a time, in training mode as it comes."""
    vision = peer("embetter.vision")
    loader, encoder = vision.ImageLoader(), vision.TimmEncoder(f"local-dir:{work.backbone}")
    return lambda: encoder.transform(loader.fit_transform(work.samples))


class _Images:
    """A dataset for the DataLoader."""

    def __init__(self, paths, transform):
        self.paths = paths
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int):
        return _read(self.paths[i], self.transform)


def _timm(directory: Path):
    import timm

    model = timm.create_model(f"local-dir:{directory}", pretrained=True, num_classes=0).eval()
    return model, timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)


def _read(path: Path, transform):
    from PIL import Image

    with Image.open(path) as image:
        return transform(image.convert("RGB"))


def _stacked(images: list):
    import torch

    return torch.stack(images)


def _embed(model, batches) -> np.ndarray:
    import torch

    with torch.inference_mode():
        return torch.cat([model(batch) for batch in batches]).numpy()


_WAYS = (
    *(Way(name, partial(timm_loop, batch_size=size)) for name, size in zip(LOOPS, BATCH_SIZES, strict=True)),
    *(Way(name, partial(data_loader, batch_size=size)) for name, size in zip(LOADERS, BATCH_SIZES, strict=True)),
    Way("embetter", embetter),
    our_way(FLOAT32, "ImageEmbedder", precision="float32"),
    our_way(AUTO, "ImageEmbedder", precision="auto"),
    our_way(BFLOAT16, "ImageEmbedder", precision="bfloat16"),
    our_way(OPENVINO, "ImageEmbedder", precision="auto", engine="openvino"),
    our_way(OPENVINO_BFLOAT16, "ImageEmbedder", precision="bfloat16", engine="openvino"),
)


def works(n: int) -> list[tuple[Work, str]]:
    """Works over n image files each, and what the images are."""
    files = data.images(n)
    backbones = {
        LITE: data.efficientnet(),
        # A last batch norm of zero, timm's own choice, would switch the residual branches off.
        RESNET: data.random_timm("resnet50", zero_init_last=False),
        VIT: data.random_timm("vit_small_patch16_224"),
    }
    return [
        (Work(name, files.samples, backbone, len(files.samples) * count_image(backbone), _WAYS), files.source)
        for name, backbone in backbones.items()
    ]


_PLAIN = "timm loop or DataLoader, the best of batches of 1, 8, 32"

#: What the precision "auto" has, and where it is float32 the faster one that can be asked for.
_PRECISIONS = (("", AUTO, OPENVINO), (", bfloat16", BFLOAT16, OPENVINO_BFLOAT16))

GOALS = (
    *(
        Goal(
            f"{work}{engine}{precision}",
            _PLAIN,
            ratio_to(work, way, *LOOPS, *LOADERS),
            digits=2,
            share=share_of(work, way),
        )
        for work in (LITE, RESNET, VIT)
        for precision, own, compiled in (_PRECISIONS if work != VIT else _PRECISIONS[:1])
        for engine, way in (("", own), (", openvino", compiled))
    ),
    *(goal for work in (LITE, RESNET, VIT) for goal in cosine_of(work, AUTO, LOOPS[0])),
)
