"""Classify your own images: a folder with one sub-folder per class.

python examples/image_folder.py PATH [--backbone NAME] [--save FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from common import classifier, fit_and_save, most_confused, score, score_chance, score_embeddings, table
from own_data import check_classes, check_writable, clear_errors, read_folder
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from skembed import ImageEmbedder

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


def thumbnails(images, size: int = 16) -> np.ndarray:
    """Raw pixels of small thumbnails of files or arrays, the classical baseline."""
    opened = [Image.fromarray(image) if isinstance(image, np.ndarray) else Image.open(image) for image in images]
    return np.stack([np.asarray(image.convert("RGB").resize((size, size))).ravel() / 255 for image in opened])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, help="folder with one sub-folder per class")
    parser.add_argument("--backbone", default="tf_efficientnet_lite0.in1k")
    parser.add_argument("--save", type=Path, metavar="FILE", help="where to write the model; PATH's name + .joblib")
    arguments = parser.parse_args()
    with clear_errors(parser):
        run(arguments)


def run(arguments: argparse.Namespace) -> None:
    """Compare the embeddings with raw pixels, and save a model that is fitted on all images."""
    path = check_writable(arguments.save or Path(f"{arguments.path.resolve().name}.joblib"))
    files, labels = read_folder(arguments.path, SUFFIXES, "images")
    check_classes(labels)
    print(f"{len(files)} images of {len(set(labels))} classes")
    embedder = ImageEmbedder(arguments.backbone, verbose=True)
    # Not standardized: over five sets of 100 to 333 photographs, icons, digits and letters, the mean accuracy was .724
    # as the rows are and .700 standardized (five folds, three times; by set, -1.8 to +6.9 points).
    model = LogisticRegression(max_iter=500)
    embedded = score_embeddings("ImageEmbedder", embedder, files, labels, model=model)
    pixels = score("raw pixels, 16 x 16", classifier(), thumbnails(files), labels)
    print(f"\n{table([score_chance(labels), pixels, embedded])}\n\n{most_confused(labels, embedded['predictions'])}")
    # Rows come from the embedder's cache.
    print(fit_and_save(make_pipeline(embedder, model), files, labels, path, sample=files[0]))


if __name__ == "__main__":
    main()
