"""Classify your own images: a folder with one sub-folder a class.

python examples/image_folder.py PATH [--backbone NAME]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import classifier, require_classes, score, score_embeddings, table
from PIL import Image
from sklearn.preprocessing import FunctionTransformer

from skembed import ImageEmbedder

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


def thumbnails(paths) -> np.ndarray:
    """Raw pixels of 16 x 16 thumbnails, the classical baseline."""
    return np.stack([np.asarray(Image.open(path).convert("RGB").resize((16, 16))).ravel() for path in paths])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="folder with one sub-folder a class")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0.in1k")
    arguments = parser.parse_args()
    files = sorted(file for file in arguments.path.glob("*/*") if file.suffix.lower() in SUFFIXES)
    labels = [file.parent.name for file in files]
    require_classes(labels)
    print(f"{len(files)} images of {len(set(labels))} classes")
    pixels = FunctionTransformer(thumbnails).fit_transform(files)
    results = [
        score("raw pixels, 16 x 16", classifier(), pixels, labels),
        score_embeddings("ImageEmbedder", ImageEmbedder(arguments.backbone, verbose=True), files, labels),
    ]
    print(table(results))


if __name__ == "__main__":
    main()
